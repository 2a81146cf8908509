"""Any Hugging Face causal language model writes the same text, sooner."""
