"""Texts of a suite to prompts for one model: through its chat template where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foretoken.bench.contest import Plan
from foretoken.bench.prompts import Prompt, encode


@dataclass(frozen=True)
class Asking:
    """One model's way of being asked."""

    tokenizer: Any
    ordinary: Sequence[int]  # token ids that stand for text and do not end it
    new_tokens: int  # most tokens of an answer
    forced: bool = False  # the answers will be given
    limit: int | None = None  # prompts of a suite at most

    @classmethod
    def of(cls, target: Any, tokenizer: Any, plan: Plan, limit: int | None = None) -> Asking:
        """For a target and its tokenizer."""
        special = {*target.eos, *getattr(tokenizer, "all_special_ids", ())}
        ordinary = [i for i in range(min(target.vocab, len(tokenizer))) if i not in special]
        return cls(tokenizer, ordinary, plan.max_new_tokens, plan.forced, limit)

    def plain(self, name: str, text: str, reference: str | None = None) -> Prompt:
        """A text to go on from."""
        return encode([(name, {"prompt": text, "reference": reference})], self.tokenizer)[0]

    def ask(
        self, name: str, question: str, reference: str | None = None, prediction: str | None = None
    ) -> Prompt:
        """A question of a user."""
        row = {"question": question, "reference": reference, "prediction": prediction}
        return encode([(name, row)], self.tokenizer)[0]
