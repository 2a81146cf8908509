"""2: what to propose, one file per method."""
