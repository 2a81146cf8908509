"""heuristic: two levels more after a draft that stood whole, one less otherwise.

Hugging Face's schedules "heuristic" (the length lives on from text to text) and
"heuristic_transient" (every text starts anew). A step without a draft changes nothing.
Beyond the original: trees, whose depth counts; a cap, since a length that grows while something
else cuts the drafts would take as long to come down; where texts are written together, they move
one length (`transient`: each has its own).

Guarantee: exact. The length depends on finished steps alone. It promises no speed: at least one
level is drafted, however bad. Shared and saved: one number a drafter.
Source: transformers, `AssistedCandidateGenerator.update_candidate_strategy`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from foretoken.policy.length import LengthPolicy, stood
from foretoken.target.cost import CostCurve
from foretoken.types import Session, Step

MORE, LESS = 2, 1


class Heuristic(LengthPolicy):
    """Additive steps up and down."""

    name = "heuristic"
    summary = "two levels more after a draft that stood whole, one less otherwise"
    source = "transformers (schedules 'heuristic' and 'heuristic_transient')"

    class Options(LengthPolicy.Options):
        """Where it starts, and how long it remembers."""

        start: int = Field(5, ge=1, le=1024, description="levels of the first draft")
        transient: bool = Field(False, description="start anew in every text")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self._lengths: dict[str, int] = {}  # by drafter

    def length(self, session: Session) -> int:
        """The length of now."""
        first: int = min(self.options.start, self.most)
        if self.options.transient:
            own: int = session.memo.get(self.name, first)
            return own
        return self._lengths.get(session.drafter.name, first)

    def observe(self, session: Session, step: Step) -> None:
        """One move."""
        if not len(step.tree):
            return
        now = self.length(session)
        now = min(now + MORE, self.most) if stood(step) else max(1, now - LESS)
        if self.options.transient:
            session.memo[self.name] = now
        else:
            self._lengths[session.drafter.name] = now

    def state(self) -> dict[str, Any]:
        """The length by drafter."""
        return {"lengths": dict(self._lengths)} if self._lengths else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        lengths = state["lengths"].items()
        self._lengths = {name: min(max(int(n), 1), self.most) for name, n in lengths}
