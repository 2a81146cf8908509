"""Recipes for drafters: small parts that compose (data, losses, one trainer, cuts, exports)."""
