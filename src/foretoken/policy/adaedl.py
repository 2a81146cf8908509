"""adaedl: stop where the drafter's entropy says that acceptance may be low.

AdaEDL ends a draft when 1 - sqrt(gamma H) falls below a threshold, H being the entropy of the law
that the last token was taken from. The threshold then adapts as in Draft & Verify
(`threshold.Threshold`): it rises while too few of the drafted tokens stand.
The paper calls 1 - sqrt(gamma H) a lower bound of the acceptance probability. It is none (our notes
on length-policies, rule 6): H says nothing of the target, and a drafter that is surely wrong has
H = 0. It is a useful signal, and is used as that.
From second hand: gamma 0.2 as another implementation quotes it; that the threshold adapts so, and
starts at 0.4, is recollection. In a tree, H is that of the row which the level's likeliest node was
taken from.

Guarantee: exact. H belongs to the law before the draw, and the token is submitted anyway. It
promises no speed. Nothing is shared: every text has its own threshold.
Source: Agrawal et al. 2410.18351.
"""

from __future__ import annotations

import math

from pydantic import Field

from foretoken.policy.length import LengthPolicy, likeliest
from foretoken.policy.threshold import Threshold
from foretoken.types import Budget, Level, Session, Step


class AdaEdl(LengthPolicy):
    """See the module."""

    name = "adaedl"
    summary = "stop where the draft's entropy is high; the threshold seeks a share that stands"
    source = "AdaEDL, Agrawal et al. 2410.18351"
    stops = True
    needs = frozenset({"entropy"})

    class Options(LengthPolicy.Options):
        """The estimate, and what its threshold seeks."""

        gamma: float = Field(0.2, ge=0.0, description="acceptance is taken for 1 - sqrt(gamma H)")
        threshold: float = Field(0.4, ge=0.0, le=1.0, description="of that, at first")
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
            first = Threshold(self.options.threshold, self.options.target)
            held = session.memo[self.name] = first
        return held

    def go_on(self, session: Session, level: Level) -> bool:
        """Whether the estimate of the level's likeliest token is high enough."""
        if not level.q:
            return True
        nats = level.entropy[level.parents[likeliest(level)]]
        bar = self.threshold(session)
        bar.fired = 1.0 - math.sqrt(self.options.gamma * nats) < bar.value
        return not bar.fired

    def observe(self, session: Session, step: Step) -> None:
        """Move the threshold."""
        self.threshold(session).observe(len(step.verdict.path), step.tree.depth)
