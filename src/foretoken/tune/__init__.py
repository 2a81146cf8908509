"""tune: what to use for a user's own prompts, scored on recorded text."""
