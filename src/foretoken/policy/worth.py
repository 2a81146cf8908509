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
    """Of all sessions of a policy. All seconds are one session's share of what its batch takes: of
    a plain forward an equal one; what drafting adds is borne by those who ask."""

    def __init__(self, curve: CostCurve) -> None:
        self.latency = Latency(curve)
        self.batch = 1  # sessions of the last step
        self._riders = 0  # sessions of the step under way that were heard
        self._tokens, self._seconds, self._steps, self._written = 0.0, 0.0, 0.0, 0.0

    def share(self, session: Session, nodes: int = 0, askers: int | None = None) -> float:
        """Seconds of a step with so many drafted nodes; of a plain one with none. Sessions that
        ride together are as wide as the widest of them, so each has room for as many, and those who
        ask (all, unless `askers` says how many) bear what that adds."""
        context = len(session.tokens)
        plain = self.latency(self.batch, context)
        wider = self.latency(self.batch * (1 + nodes), context) - plain if nodes else 0.0
        return plain / self.batch + wider / (askers or self.batch)

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

    def observe(
        self, session: Session, step: Step, drafting: float, askers: int | None = None
    ) -> tuple[float, float]:
        """A step. drafting: seconds that its draft took. askers: sessions of it that asked, this
        one among them; 0: this one did not; None: all did.

        Gives the seconds that it and a plain step count for: as the corrected curve has them, free
        of a noisy clock. Reading a prompt, which is done in any case, counts for a plain step.
        """
        self.batch = step.batch
        self._riders += 1
        if self._riders >= step.batch:  # each session of a batch tells of the same forward
            self._riders = 0
            if step.fresh == 1 and not step.prompts:
                seconds = step.seconds["target"] * step.batch
                self.latency.observe(step.rows, step.context, seconds)
        alone = self.latency(step.batch, step.context)
        plain, spent = alone / step.batch, alone / step.batch + drafting
        if step.fresh == 1 and askers != 0:
            spent += (self.latency(step.rows, step.context) - alone) / (askers or step.batch)
        keep = 1.0 - WINDOW
        self._tokens = keep * self._tokens + len(step.committed.tokens)
        self._seconds = keep * self._seconds + spent
        self._steps = keep * self._steps + 1.0
        if session.finish_reason is not None:
            written = len(session.output)
            self._written += (BLEND if self._written else 1.0) * (written - self._written)
        return spent, plain
