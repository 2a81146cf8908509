"""The loop over the life of a step, and what builds it."""
