"""`python -m foretoken`: the command line."""

import sys

from foretoken.cli.main import main

sys.exit(main())
