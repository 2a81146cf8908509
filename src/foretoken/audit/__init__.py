"""Is this engine exact? Greedy parity, and tests of the law of sampled text, for any engine."""
