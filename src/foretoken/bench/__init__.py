"""Comparisons: same model, same prompts, same process, and the same text before any speed."""
