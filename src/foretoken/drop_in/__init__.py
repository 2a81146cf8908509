"""`model.generate(..., custom_generate=foretoken.hf)`: transformers' own call, decoded by us."""
