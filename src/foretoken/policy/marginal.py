"""marginal: score a node only while the tokens that it promises are worth the time that it costs.

The rule of our notes on length-policies, U0: of the drafted nodes in their order (best first), take
the n that maximise 1 + calibrated expected accepted(n) - rate x T(n), with T the measured cost
curve and rate the tokens per second of the recent past. n = 0 is among the choices, so that text
which cannot be drafted is decoded plainly.
Learns: the ratio of accepted to promised tokens, and the rate. Cost: a few microseconds.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.policy.base import Policy
from foretoken.policy.fixed import OWN
from foretoken.target.cost import CostCurve
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session, Step

FORGET = 0.02  # weight of the newest step in the running averages
FLOOR = 0.2  # calibration stays within [FLOOR, 1 / FLOOR]


class Marginal(Policy):
    """See the module. State is per process, shared by the sessions of an engine: it holds counts
    and seconds only, nothing of anyone's text."""

    name = "marginal"
    summary = "take drafted nodes while they are worth their measured time; 0 is a choice"
    source = "own; after Sequoia 2402.12374, sec. 4.3"

    class Options(types.Options):
        """How far it may go."""

        nodes: int | None = Field(
            None, ge=0, le=1024, description="most nodes proposed; None: the drafter's own"
        )
        depth: int = Field(24, ge=1, description="deepest node proposed")

    needs_curve = True

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self._nodes = OWN if options.nodes is None else options.nodes
        self._promised = 1.0  # running sums, with a prior of one promised token kept
        self._accepted = 1.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._batch = 1

    @property
    def calibration(self) -> float:
        """Accepted per promised token of late."""
        return min(max(self._accepted / self._promised, FLOOR), 1 / FLOOR)

    def budget(self, session: Session) -> Budget:  # noqa: ARG002
        """Propose up to the options; `cut` decides with the draft's own probabilities."""
        return Budget(self._nodes, self.options.depth)

    def cut(self, session: Session, tree: DraftTree) -> DraftTree:
        """The best number of leading nodes."""
        curve = self.curve
        if curve is None or not tree.q:
            return tree
        context, batch = len(session.tokens), self._batch
        rate = self._rate(curve(batch, context) / batch)
        value, best, taken = 1.0 - rate * curve(batch, context) / batch, 0.0, 0
        expected, start = 0.0, value
        for n, joint in enumerate(tree.joint, start=1):
            expected += self.calibration * joint
            value = 1.0 + expected - rate * curve(batch * (n + 1), context) / batch
            if value - start > best:
                best, taken = value - start, n
        return tree.first(taken)

    def _rate(self, plain_seconds: float) -> float:
        """Tokens per second of late; before there is any, those of plain decoding."""
        return self._tokens / self._seconds if self._seconds > 0 else 1.0 / plain_seconds

    def observe(self, session: Session, step: Step) -> None:  # noqa: ARG002
        """Update the running averages; reading a prompt says nothing about the steps to come."""
        self._batch = step.batch
        if step.fresh > 1:
            return
        keep = 1.0 - FORGET
        self._tokens = keep * self._tokens + len(step.committed.tokens)
        self._seconds = keep * self._seconds + self._cost(step)
        if len(step.tree) and step.tree.q:
            self._promised = keep * self._promised + sum(step.tree.joint)
            self._accepted = keep * self._accepted + len(step.verdict.path)
        else:  # nothing was tried: mistrust fades, so that drafting can come back
            self._promised = keep * self._promised + FORGET
            self._accepted = keep * self._accepted + FORGET

    def _cost(self, step: Step) -> float:
        """Seconds of this session's share as the curve sees them: free of a noisy clock."""
        if self.curve is None:
            return step.seconds["target"]
        rows = step.batch * (1 + len(step.tree))
        return self.curve(rows, step.context) / step.batch + step.seconds["draft"]
