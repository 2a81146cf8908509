"""draft-verify: stop after an improbable token; the bar is raised until nine in ten stand.

Draft & Verify's adaptive draft exit: a level is the last one if its token's draft probability lies
below a threshold, which rises while fewer than `target` of the drafted tokens stand and falls
otherwise (`threshold.Threshold`). It starts at 0.8 in greedy text and at 0.5 in sampled text, and
at most 8 levels are drafted.
Done otherwise: the probability is q after the request's processing, as in the rest of this project;
the original's is at temperature 1 and uncut. In a tree the likeliest node of a level speaks for it,
and levels are counted where the paper counts tokens. The bar falls only after drafts that it ended
(the original asks whether the cap was reached: the same for a chain that nothing else cuts).

Guarantee: exact. The token that ends a draft is submitted with it. It promises no speed. Nothing is
shared: every text has its own bar, as published.
Source: Zhang et al. 2309.08168, sec. 3.3; dilab-zju/self-speculative-decoding, decoding.py.
"""

from __future__ import annotations

from pydantic import Field

from foretoken.policy.length import LengthPolicy, likeliest
from foretoken.policy.threshold import Threshold
from foretoken.types import Budget, Level, Session, Step

GREEDY, SAMPLED = 0.8, 0.5  # where the threshold starts


class DraftVerify(LengthPolicy):
    """See the module."""

    name = "draft-verify"
    summary = "stop after an improbable token; the threshold seeks a share that stands"
    source = "Draft & Verify, Zhang et al. 2309.08168, sec. 3.3"
    stops = True

    class Options(LengthPolicy.Options):
        """Where it starts and what it seeks."""

        length: int = Field(8, ge=1, le=1024, description="most levels drafted")
        threshold: float | None = Field(
            None, ge=0.0, le=1.0, description="at first; None: 0.8 greedy, 0.5 sampled"
        )
        target: float = Field(
            0.9, ge=0.0, le=1.0, description="share of drafted tokens that is to stand"
        )

    def budget(self, session: Session) -> Budget:
        """The options'; a draft begins."""
        self.threshold(session).fired = False
        return super().budget(session)

    def threshold(self, session: Session) -> Threshold:
        """The session's own."""
        held: Threshold | None = session.memo.get(self.name)
        if held is None:
            first = self.options.threshold
            if first is None:
                first = GREEDY if session.request.sampling.greedy else SAMPLED
            held = session.memo[self.name] = Threshold(first, self.options.target)
        return held

    def go_on(self, session: Session, level: Level) -> bool:
        """Whether the level's likeliest token is probable enough."""
        bar = self.threshold(session)
        bar.fired = bool(level.q) and level.q[likeliest(level)] < bar.value
        return not bar.fired

    def observe(self, session: Session, step: Step) -> None:
        """Move the threshold."""
        self.threshold(session).observe(len(step.verdict.path), step.tree.depth)
