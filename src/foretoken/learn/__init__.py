"""Learning: corpora, tokenizers, trainers and their checkpoints."""
