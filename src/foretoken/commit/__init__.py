"""5: make the verdict real: tokens, kept KV rows, stops."""
