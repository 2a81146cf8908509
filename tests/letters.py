"""A tokenizer of single characters for the tiny models: ids 0-95 are text, 96 ends it."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

CHARACTERS = [*map(chr, range(32, 127)), "\n"]
EOS = len(CHARACTERS)  # 96
CHAT = "{% for m in messages %}{{ m['role'][0] }}>{{ m['content'] }}\n{% endfor %}a>"


@cache
def tokenizer() -> Any:
    """One token a character; a chat template; pads on the left with token 0, a space."""
    vocab = {character: i for i, character in enumerate(CHARACTERS)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", padding_side="left")
    made.chat_template = CHAT
    return made
