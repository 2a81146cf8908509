"""What time is worth: seconds of a step for one session, and the tokens that a second brings.

The rate is that of the last hundred steps, and that of plain decoding at least: a node is judged by
what it adds to the whole stream and not to its own step.
Source: our notes on length-policies, U1 and U6.
"""

from __future__ import annotations

from foretoken.learn.latency import Latency
from foretoken.target.cost import CostCurve
from foretoken.types import Session, Step

WINDOW = 0.01  # weight of the newest step in the rate
BLEND = 0.1  # weight of the newest text in their mean length


class Worth:
    """Of all sessions of a policy. All seconds are one session's share of what its batch takes."""

    def __init__(self, curve: CostCurve) -> None:
        self.latency = Latency(curve)
        self.batch = 1  # sessions of the last step
        self._forward = 0.0  # a session's share of the last one
        self._tokens, self._seconds, self._steps, self._written = 0.0, 0.0, 0.0, 0.0

    def share(self, session: Session, nodes: int = 0) -> float:
        """Seconds of a step with so many drafted nodes; of a plain one with none. Sessions that
        ride together are as wide as the widest of them, so each has room for as many."""
        return self.latency(self.batch * (1 + nodes), len(session.tokens)) / self.batch

    def rate(self, plain: float) -> float:
        """Tokens that a second is worth. plain: seconds of a plain step."""
        return max(self._tokens / self._seconds if self._seconds > 0 else 0.0, 1.0 / plain)

    @property
    def pace(self) -> float:
        """Tokens of a step."""
        return self._tokens / self._steps if self._steps else 1.0

    def steps_left(self, session: Session) -> float:
        """How many steps the text may still take, by the length of those that were written."""
        tokens = min(session.room, self._written or session.room)
        return tokens / self.pace

    def observe(self, session: Session, step: Step, drafting: float) -> tuple[float, float]:
        """A step. drafting: seconds that its draft took.

        Gives the seconds that it and a plain step count for: as the corrected curve has them, free
        of a noisy clock. Reading a prompt, which is done in any case, counts for a plain step.
        """
        self.batch = step.batch
        # each session of a batch tells of the same forward
        if step.fresh == 1 and step.seconds["target"] != self._forward:
            self._forward = step.seconds["target"]
            self.latency.observe(step.rows, step.context, step.seconds["target"] * step.batch)
        plain = self.latency(step.batch, step.context) / step.batch
        rows = step.rows if step.fresh == 1 else step.batch
        spent = self.latency(rows, step.context) / step.batch + drafting
        keep = 1.0 - WINDOW
        self._tokens = keep * self._tokens + len(step.committed.tokens)
        self._seconds = keep * self._seconds + spent
        self._steps = keep * self._steps + 1.0
        if session.finish_reason is not None:
            written = len(session.output)
            self._written += (BLEND if self._written else 1.0) * (written - self._written)
        return spent, plain
