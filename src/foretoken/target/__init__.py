"""3: the model that is sped up: wrapper, KV cache, shapes, cost."""
