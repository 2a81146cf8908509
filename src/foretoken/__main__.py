"""`python -m foretoken` is `foretoken`."""

import sys

from foretoken.cli.main import main

sys.exit(main())
