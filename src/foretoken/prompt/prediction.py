"""The expected output that a request may carry: text or token ids, one for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foretoken.draft.base import Drafter
from foretoken.errors import ConfigError

ONE = "a text or a list of token ids"


def predictions(
    tokenizer: Any, given: Any, prompts: int, one: bool, drafter: Drafter
) -> list[list[int] | None]:
    """[prompts] token ids, None for a prompt without a prediction.

    given: None, a text or token ids where there is `one` prompt, else a list of these, None among
    them. The ids are those of the text alone, without the special tokens that a prompt begins with.
    Raises ConfigError for another number of predictions than prompts, for a text without a
    tokenizer, and for a drafter that would not look at it.
    """
    if given is None:
        return [None] * prompts
    if "prediction" not in drafter.needs:
        raise ConfigError("method", drafter.name, "predicted, or auto or mix with it: a prediction")
    given = given.tolist() if hasattr(given, "tolist") else given  # a tensor
    each = [given] if one else given
    if isinstance(each, str) or not isinstance(each, Sequence) or len(each) != prompts:
        raise ConfigError("prediction", given, f"one for each of the {prompts} prompts, or None")
    return [None if value is None else _ids(tokenizer, value) for value in each]


def _ids(tokenizer: Any, value: Any) -> list[int]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        if tokenizer is None:
            raise ConfigError("tokenizer", None, "a tokenizer, when the prediction is a text")
        return [int(i) for i in tokenizer.encode(value, add_special_tokens=False)]
    if not isinstance(value, Sequence) or not all(type(item) is int for item in value):
        raise ConfigError("prediction", value, ONE)
    return list(value)
