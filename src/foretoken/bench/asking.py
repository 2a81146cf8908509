"""Texts of a suite to prompts for one model: through its chat template where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from foretoken.bench.contest import Plan
from foretoken.bench.prompts import Prompt, encode
from foretoken.prompt.tokens import encode_prompt, render_chat


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

    def followed(self, prompt: Prompt, question: str, following: str) -> Prompt:
        """The prompt, with a second question of the same user that comes after its answer."""
        return replace(prompt, then=lambda ids: self._second(prompt.name, question, ids, following))

    def _second(self, name: str, question: str, answer: list[int], following: str) -> Prompt:
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        if getattr(self.tokenizer, "chat_template", None):
            turns = [("user", question), ("assistant", text.strip()), ("user", following)]
            tokens = render_chat(self.tokenizer, [{"role": r, "content": c} for r, c in turns])
        else:
            tokens = encode_prompt(self.tokenizer, f"{question}{text}\n{following}")
        return Prompt(f"{name} turn 2", tokens, following)
