"""Text to tokens: the tokenizer of a model folder, its identity, prompts and chats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foretoken.errors import ConfigError, first_line

# None of these changes what a token id means; the first two change whenever a text is encoded.
_VOLATILE = ("padding", "truncation", "post_processor", "version")


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model folder (or hub name), as transformers loads it.

    Raises ConfigError if there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(
            "tokenizer", str(folder), f"a folder with a tokenizer ({reason})"
        ) from error


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 (hex) of what the token ids mean: vocabulary, merges, normaliser, added tokens.

    The same for a tokenizer and its saved copy, whatever was encoded before; stores and tables
    are keyed by it. Without a fast backend, the hash of the sorted vocabulary.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = json.loads(backend.to_str())
        for name in _VOLATILE:
            content.pop(name, None)
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a conversation through the chat template, ready for the assistant's turn.

    Raises ConfigError if there is no template, no message, or the template refuses them.
    """
    from jinja2 import TemplateError

    if not messages:
        raise ConfigError("messages", messages, "at least one message")
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "messages",
            f"{len(messages)} messages",
            "this tokenizer has no chat template: use a prompt",
        )
    try:
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    except TemplateError as error:
        raise ConfigError("messages", messages, f"the chat template says: {error}") from error
    return _some(tokenizer, [int(i) for i in ids], "messages", messages)


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, with the special tokens that the tokenizer adds.

    An empty text becomes the BOS token; ConfigError if the tokenizer has none.
    """
    return _some(tokenizer, [int(i) for i in tokenizer.encode(text)], "prompt", text)


def _some(tokenizer: Any, ids: list[int], field: str, value: object) -> list[int]:
    if ids:
        return ids
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        raise ConfigError(
            field, value, "at least one token (this tokenizer has no BOS to start from)"
        )
    return [int(bos)]
