"""A bound on what drafting may cost, for rules that promise no speed of their own (`slack`).

A rule's budget is granted as far as its price keeps the debt within its bound: the measured curve's
time for its nodes and its levels at their measured median, should nothing of it stand. Levels that
cannot be afforded are left out; where not even one can, the step is plain. Before a level was
measured a draft has one. A session's first draft costs what first ones cost by token of the text,
which a small model has to read. What is granted hangs on clocks and counts alone, so that every
rule and every kind of draft stays exact (our notes on length-policies, U0).

One debt for all sessions of a policy, and not one for each: a rule that does not pay would lose its
allowance anew in every request. So over every window of steps, of whoever, at most (1 + slack) x
plain time + allowance + credit, and once what a step took beyond its price.
Source: our notes on length-policies, U8; see `debt`.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from foretoken import types
from foretoken.policy.debt import Debt
from foretoken.policy.pace import SPIKE, Pace
from foretoken.policy.worth import Worth
from foretoken.target.cost import CostCurve
from foretoken.types import Budget, Session, Step

STALE = 256  # plain steps after which measured levels are forgotten: it may have been a bad moment


class Bounded(types.Options):
    """What drafting may cost. Without `slack` a rule is as published."""

    slack: float | None = Field(
        None, ge=0.0, description="share of plain decoding's time that may be lost; None: no bound"
    )
    allowance: float = Field(
        0.1, ge=0.0, description="and so many seconds in all (one plain step at least)"
    )
    credit: float = Field(4.0, ge=0.0, description="plain steps of earlier gains that count")


class Guard:
    """Of one policy."""

    def __init__(self, options: Bounded, curve: CostCurve) -> None:
        assert options.slack is not None
        self.debt = Debt(options.slack, options.allowance, options.credit)
        self.worth = Worth(curve)
        self._paces: dict[str, Pace] = {}  # by drafter
        self._broke = 0

    def granted(self, session: Session, budget: Budget) -> Budget:
        """The affordable part of a budget: its first levels, or none."""
        if not budget.nodes:
            return budget
        pace, plain = self._pace(session), self.worth.share(session)
        level = pace.level
        deepest = min(budget.depth, budget.nodes) if level is not None else 1
        if budget.shape is not None and budget.shape.settled:
            deepest = min(deepest, getattr(budget.shape, "depth", deepest))
        for depth in range(deepest, 0, -1):
            rows = min(round(depth * pace.width), budget.nodes)
            seconds = self.worth.share(session, rows) + depth * (level or 0.0) + pace.first(session)
            if self.debt.affords(seconds, plain):
                self._broke = 0
                return replace(budget, depth=depth)
        self._broke += 1
        if self._broke >= STALE:
            self._broke = 0
            pace.levels.clear()
            pace.firsts.clear()
        return Budget(0)

    def observe(self, session: Session, step: Step) -> None:
        """Settle the debt, measure."""
        pace = self._pace(session)
        known = pace.has_met(session) and pace.level is not None
        usual = step.tree.depth * (pace.level or 0.0)
        pace.observe(session, step)
        spent, plain = self.worth.observe(session, step, step.seconds["draft"])
        if step.fresh == 1 and not step.prompts and len(step.tree):
            # what it took and not what is usual: slow drafts are not made good; but a pause of the
            # process, which may come in plain decoding as well, is no debt
            took = step.seconds["target"] + step.seconds["draft"]
            most = SPIKE * (spent - step.seconds["draft"] + usual) if known else took
            spent = min(took, most)
        self.debt.settle(spent, plain, len(step.committed.tokens))

    def _pace(self, session: Session) -> Pace:
        name = session.drafter.name
        if name not in self._paces:
            self._paces[name] = Pace(met="guard")
        return self._paces[name]
