"""How much to propose, one file per policy."""
