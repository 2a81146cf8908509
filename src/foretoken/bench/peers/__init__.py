"""Peers: other engines on the same weights and prompts, in the same run."""
