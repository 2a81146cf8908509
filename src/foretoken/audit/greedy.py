"""Greedy text against the reference's argmax, every token on the engine's own text before it.

The reference reads what the engine wrote (one forward a prompt), so that a near-tie at one place
hides no fault behind it: each token must be the reference's choice *there*, up to near-ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from foretoken.audit.reference import Reference
from foretoken.audit.report import Difference, GreedyResult

KEPT = 5  # differences of one prompt that the report lists
CONTEXT = 60  # characters shown before a difference


class Decode(Protocol):
    """Token ids to text."""

    def __call__(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""


def decoder(tokenizer: Any) -> Decode:
    """The tokenizer's plain decoding, special tokens shown."""

    def decode(tokens: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        return text

    return decode


class Greedy:
    """Collects the comparison over prompts; `result` holds what is done at any time."""

    def __init__(self, reference: Reference, decode: Decode) -> None:
        self.reference, self.decode = reference, decode
        self.result = GreedyResult()

    def add(self, index: int, prompt: Sequence[int], tokens: Sequence[int], asked: int) -> None:
        """A text of ids. asked: how many tokens the engine was to write."""
        known = list(tokens[:asked])
        outside = next((i for i, t in enumerate(known) if not 0 <= t < self.reference.vocab), None)
        rows = self.reference.logits([*prompt, *known[:outside]])[len(prompt) - 1 :]
        found = []
        for i, token in enumerate(known[:outside]):
            difference = self._difference(index, prompt, known, i, rows[i], token)
            if difference is not None:
                found.append(difference)
        ended = bool(known) and known[-1] in self.reference.eos
        if outside is not None or (len(known) < asked and not ended):
            at = len(known) if outside is None else outside
            found.append(self._missing(index, prompt, known, at, rows[at]))
        self.note(len(known), found)

    def note(self, tokens: int, found: Sequence[Difference]) -> None:
        """One more prompt is compared."""
        ties = sum(d.near_tie for d in found)
        r = self.result
        self.result = r.model_copy(
            update={
                "prompts": r.prompts + 1,
                "tokens": r.tokens + tokens,
                "same": r.same + (not found),
                "near_ties": r.near_ties + ties,
                "faults": r.faults + len(found) - ties,
                "differences": [*r.differences, *_first(found)],
            }
        )

    def _difference(
        self, index: int, prompt: Sequence[int], known: Sequence[int], at: int, row: Tensor,
        token: int,
    ) -> Difference | None:  # fmt: skip
        best = int(row.argmax())
        top, own = float(row[best]), float(row[token])
        if token == best:
            return None
        return Difference(
            prompt=index, position=at, before=self.before(prompt, known[:at]),
            expected=best, got=token, expected_text=self.decode([best]),
            got_text=self.decode([token]), gap=top - own,
            near_tie=top - own <= self.reference.tolerance(top),
        )  # fmt: skip

    def _missing(
        self, index: int, prompt: Sequence[int], known: Sequence[int], at: int, row: Tensor
    ) -> Difference:
        """The text stops short, or goes on with what is no token."""
        best = int(row.argmax())
        wrote = f"(no token: {known[at]})" if at < len(known) else "(the text stops)"
        return Difference(
            prompt=index, position=at, before=self.before(prompt, known[:at]), expected=best,
            got=None, expected_text=self.decode([best]), got_text=wrote, gap=None, near_tie=False,
        )  # fmt: skip

    def before(self, prompt: Sequence[int], known: Sequence[int]) -> str:
        """The last characters of a context."""
        return self.decode([*prompt, *known][-CONTEXT:])[-CONTEXT:]


def _first(found: Sequence[Difference]) -> list[Difference]:
    """Those that are listed: faults first, then near-ties, in the order of the text."""
    ordered = sorted(found, key=lambda d: d.near_tie)[:KEPT]
    return sorted(ordered, key=lambda d: d.position)
