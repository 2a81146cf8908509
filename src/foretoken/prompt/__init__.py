"""1: what comes in: text to tokens, logits to probabilities."""
