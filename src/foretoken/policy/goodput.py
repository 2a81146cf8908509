"""goodput: the length of most tokens per second, by one acceptance rate and the measured cost.

SmartSpec's rule: of all k from 0 on, take the one that maximises
    (1 - alpha^(k+1)) / (1 - alpha)  /  (k x seconds of a drafted level + T(rows of k levels)),
Leviathan et al.'s speed-up with measured times, for the batch as it is. T is the measured cost
curve, corrected by what steps take (`learn.latency`); a level's seconds are measured
(`pace.Pace`). alpha starts at 0.7 and moves by 0.15 of what the last `every` steps say, after which
the length is chosen anew. k = 0, a plain step, counts 1.1 times: drafting must be ahead.
Done otherwise: all k are looked at, since T may have steps and the first k that is worse need not
be the last one that is better; alpha is accepted / (accepted + rejected drafts), as what follows a
rejection was never judged. Beyond the original: trees (a level has as many nodes as it had of
late); one level at first, until its seconds are known; and where nothing is drafted, one level
again after `probe` plain steps, or nobody would learn that the text has turned easy.

Guarantee: exact. The length depends on finished steps and seconds. It promises no speed: that is
what `cost-model` does. Shared and saved: acceptance rates by drafter.
Source: Liu et al. 2406.14066 (SmartSpec, and its planner "DSD"); Leviathan et al. 2211.17192.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from foretoken.learn.latency import Latency
from foretoken.policy.length import LengthPolicy, stood
from foretoken.policy.pace import Pace
from foretoken.target.cost import CostCurve
from foretoken.types import Budget, Session, Step

FIRST, MOVE = 0.7, 0.15  # of alpha
BONUS = 1.1  # of a plain step


@dataclass
class _Plan:
    """What is known of one drafter, and the length that follows from it."""

    alpha: float = FIRST
    accepted: int = 0  # since the last plan
    rejected: int = 0
    length: int | None = None  # None: nothing was planned yet
    steps: int = 0  # since the last plan
    idle: int = 0  # steps without a draft
    pace: Pace = field(default_factory=Pace)


class Goodput(LengthPolicy):
    """See the module."""

    name = "goodput"
    summary = "the length of most tokens per second, by acceptance rate and measured cost"
    source = "SmartSpec, Liu et al. 2406.14066; Leviathan et al. 2211.17192, sec. 3"
    needs_curve = True

    class Options(LengthPolicy.Options):
        """When it plans, and how sure it must be."""

        every: int = Field(20, ge=1, description="steps from plan to plan")
        bonus: float = Field(BONUS, ge=0.0, description="worth of a plain step's tokens per second")
        probe: int = Field(200, ge=0, description="plain steps before a trial; 0: no trials")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self.latency = None if curve is None else Latency(curve)
        self._plans: dict[str, _Plan] = {}  # by drafter
        self._batch = 1

    def budget(self, session: Session) -> Budget:
        """The planned length; a plain step for 0."""
        if self.latency is None:
            return super().budget(session)
        length = self.length(session)
        return Budget(self.nodes, length) if length else Budget(0)

    def length(self, session: Session) -> int:
        """The plan's, or 1 where something is to be found out."""
        plan = self._plan(session)
        if self.latency is None:
            return self.most
        if plan.length is None and plan.pace.level is None:
            return 1
        if plan.length is None or plan.steps >= self.options.every:
            self._renew(plan, len(session.tokens))
        if plan.length == 0 and 0 < self.options.probe <= plan.idle:
            return 1
        return plan.length or 0

    def _renew(self, plan: _Plan, context: int) -> None:
        tried = plan.accepted + plan.rejected
        if tried:
            plan.alpha += MOVE * (plan.accepted / tried - plan.alpha)
        plan.length = self.best(plan, context)
        plan.accepted = plan.rejected = plan.steps = 0

    def best(self, plan: _Plan, context: int) -> int:
        """The k of most tokens per second, the least among equals."""
        assert self.latency is not None
        rates, expected, reach = [], 0.0, 1.0
        level = plan.pace.level or 0.0
        for k in range(self.most + 1):
            expected += reach
            reach *= plan.alpha
            rows = self._batch * (1 + min(round(k * plan.pace.width), self.nodes))
            rates.append(expected / (k * level + self.latency(rows, context) / self._batch))
        rates[0] *= self.options.bonus
        return rates.index(max(rates))

    def observe(self, session: Session, step: Step) -> None:
        """Count, measure."""
        plan, self._batch = self._plan(session), step.batch
        if self.latency is not None and step.fresh == 1 and not step.prompts:
            seconds = step.seconds["target"] * step.batch
            self.latency.observe(step.rows, step.context, seconds)
        plan.pace.observe(session, step)
        plan.steps += 1
        plan.idle = 0 if step.budget.nodes else plan.idle + 1
        plan.accepted += len(step.verdict.path)
        plan.rejected += not stood(step)

    def _plan(self, session: Session) -> _Plan:
        return self._plans.setdefault(session.drafter.name, _Plan())

    def state(self) -> dict[str, Any]:
        """The acceptance rate by drafter."""
        rates = {name: plan.alpha for name, plan in self._plans.items()}
        return {"rates": rates} if rates else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for name, alpha in state["rates"].items():
            self._plans.setdefault(name, _Plan()).alpha = min(max(float(alpha), 0.0), 1.0)
