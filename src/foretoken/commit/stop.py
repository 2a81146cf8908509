"""When to stop: asked after every single token, so that nothing behind a stop is given out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from foretoken.commit.text import Decode, IncrementalText, find_stop
from foretoken.errors import ConfigError
from foretoken.types import Limits


@dataclass(frozen=True)
class Stop:
    """Why the text ends after the token just written."""

    reason: str  # "stop" (end-of-text token or stop string) | "length" | "criteria"
    text_end: int | None = None  # characters of the decoded output to keep; None for all


class StopRule:
    """The limits of one session, checked token by token; one object per session.

    At one and the same token the order is: stop string, end-of-text token, criteria, length.
    A criterion is a transformers StoppingCriteria (or list of them), called with
    (input_ids [1, L], None) as `generate` does by default, or any callable (tokens) -> bool; both
    see the prompt and the output.

    limits: the request's. eos: the target's own end-of-text tokens. decode: output tokens -> text,
    needed for stop strings; it must skip special tokens as the final text does.
    Raises ConfigError for an empty stop string, stop strings without decode, or a criterion that
    cannot be called.
    """

    def __init__(self, limits: Limits, eos: tuple[int, ...], decode: Decode | None = None) -> None:
        own = eos if limits.eos_token_ids is None else limits.eos_token_ids
        self.eos: tuple[int, ...] = () if limits.ignore_eos else own  # tokens that end the text
        self.limits = limits
        if any(not s for s in limits.stop):
            raise ConfigError("stop", "", "strings of at least one character")
        if limits.stop and decode is None:
            raise ConfigError(
                "stop", limits.stop, "stop strings need a tokenizer, and there is none"
            )
        self._text = IncrementalText(decode) if limits.stop and decode is not None else None
        self._longest = max((len(s) for s in limits.stop), default=0)
        self._tail = ""  # final text, as far back as a stop string may have begun
        self._before = 0  # characters before the tail
        self._criteria = [_adapt(c) for c in limits.criteria]

    def check(self, tokens: Sequence[int], n_prompt: int) -> Stop | None:
        """The verdict on tokens[-1]; call it once for every token that is appended.

        tokens: prompt and output. n_prompt: tokens of the prompt. What a criterion raises goes on.
        """
        end = self._stop_string(tokens[-1])
        if end is not None or tokens[-1] in self.eos:
            return Stop("stop", end)
        # every criterion is asked, as in `generate`: some of them count their calls
        answers = [criterion(tokens) for criterion in self._criteria]
        if any(answers):
            return Stop("criteria")
        if len(tokens) - n_prompt >= self.limits.max_new_tokens:
            return Stop("length")
        return None

    def save(self) -> Any:
        """The state between two tokens, for `restore`; what criteria keep is not in it."""
        return (self._text.copy() if self._text else None, self._tail, self._before)

    def restore(self, state: Any) -> None:
        """Go back to what `save` returned."""
        text, self._tail, self._before = state
        self._text = text.copy() if text else None

    def _stop_string(self, token: int) -> int | None:
        """Characters of the output before the first stop string, if there is one by now."""
        if self._text is None:
            return None
        self._tail += self._text.push(token)
        found = find_stop(self._tail, self.limits.stop)
        if found is not None:
            return self._before + found
        drop = max(len(self._tail) - (self._longest - 1), 0)
        self._tail, self._before = self._tail[drop:], self._before + drop
        return None


def _adapt(criterion: Any) -> Callable[[Sequence[int]], bool]:
    from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

    if isinstance(criterion, StoppingCriteria | StoppingCriteriaList):

        def ask(tokens: Sequence[int]) -> bool:
            ids = torch.tensor([list(tokens)], dtype=torch.long)
            return bool(torch.as_tensor(criterion(ids, None)).any())

        return ask
    if callable(criterion):
        return lambda tokens: bool(criterion(list(tokens)))
    raise ConfigError("criteria", criterion, "a StoppingCriteria or a callable (tokens) -> bool")
