"""bandit: draft lengths are arms, a plain step is one of them; what they brought decides.

BanditSpec: UCB where rewards are noise around a mean, EXP3 where anything may happen. An arm's
reward is tokens - rate x seconds with the stream's own rate, at least that of plain decoding: a
mean of tokens per second would prefer short steps to fast text. Only the last `window` steps count.
There is a `Debt`, one for all sessions, and an arm that it cannot bear is not pulled: losses and
trials together cost at most a stated share of plain decoding's time, plus a moment. An arm's price
is the measured curve's for its rows, plus its levels at their measured median and what a first
draft takes to read the text; before a level was measured, only the shortest arm is tried.
Done otherwise than published: the arms (the paper has 1 to 4 tokens, and other settings); 0 among
them; the reward; true per-arm counts; the window; the debt.

Guarantee: exact. An arm is drawn before the draft, by numbers of a stream of their own. And in
time: over every window of steps, at most (1 + slack) x plain time + allowance + credit,
and once what a step took beyond its price. Shared and saved: rewards of arms, by drafter.
Source: Hou et al. 2505.15141; our notes on length-policies, U8, U10.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import Field

from foretoken import types
from foretoken.policy.base import Policy
from foretoken.policy.debt import Debt
from foretoken.policy.fixed import OWN
from foretoken.policy.pace import Pace
from foretoken.policy.pulls import Pull, Window, exp3, ucb
from foretoken.policy.worth import Worth
from foretoken.prompt.chance import PositionRandom
from foretoken.target.cost import CostCurve
from foretoken.types import Budget, Session, Step

STREAM = -1  # of the numbers that EXP3 draws with: no coin and no token has it
STALE = 256  # steps without an affordable arm, after which measured levels are forgotten


@dataclass
class _Arms:
    """What one drafter's lengths brought."""

    pulls: Window
    pace: Pace = field(default_factory=Pace)


@dataclass
class _Held:
    """What the policy holds of one session."""

    pulled: tuple[int, float] | None = None  # (length, chance) of the step under way
    broke: int = 0  # steps in a row that could afford no draft


class Bandit(Policy):
    """See the module."""

    name = "bandit"
    summary = "UCB or EXP3 over draft lengths, within a bound on what drafting may cost"
    source = "BanditSpec, Hou et al. 2505.15141; own: reward, window, debt (U8, U10)"
    needs_curve = True

    class Options(types.Options):
        """The arms, who chooses among them, and what that may cost."""

        nodes: int | None = Field(
            None, ge=0, le=1024, description="most nodes proposed; None: the drafter's own"
        )
        lengths: tuple[Annotated[int, Field(ge=0, le=1024)], ...] = Field(
            (1, 2, 4, 8), description="levels of the arms; 0, a plain step, is always one"
        )
        algorithm: Literal["ucb", "exp3"] = Field("ucb", description="who chooses: ucb or exp3")
        window: int = Field(200, ge=2, description="steps that count")
        width: float = Field(1.0, ge=0.0, description="of UCB's bound, in standard deviations")
        slack: float = Field(
            0.01, ge=0.0, description="share of plain decoding's time that may be lost"
        )
        allowance: float = Field(
            0.1, ge=0.0, description="and so many seconds in all (one plain step at least)"
        )
        credit: float = Field(4.0, ge=0.0, description="plain steps of earlier gains that count")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self.nodes: int = OWN if options.nodes is None else options.nodes
        # a level has a node at least: a longer arm would be the same one
        self.lengths = sorted({0, *(min(length, self.nodes) for length in options.lengths)})
        self.worth = None if curve is None else Worth(curve)
        self.debt = Debt(options.slack, options.allowance, options.credit)
        self._arms: dict[str, _Arms] = {}  # by drafter

    def budget(self, session: Session) -> Budget:
        """The length of the arm that is pulled."""
        if self.worth is None:
            return Budget(self.nodes, self.lengths[-1])
        held, arms = self._held(session), self._arms_of(session)
        allowed = self._affordable(session, arms.pace, self.worth)
        held.broke = held.broke + 1 if len(allowed) == 1 else 0
        if held.broke >= STALE:  # they may have been measured in a bad moment
            held.broke = 0
            arms.pace.levels.clear()
            arms.pace.firsts.clear()
        length, chance = self._choose(session, arms.pulls, allowed)
        held.pulled = length, chance
        return Budget(self.nodes, length) if length else Budget(0)

    def _choose(self, session: Session, pulls: Window, allowed: list[int]) -> tuple[int, float]:
        if len(allowed) == 1:
            return allowed[0], 1.0
        if self.options.algorithm == "ucb":
            return ucb(pulls, allowed, self.options.width), 1.0
        chances = exp3(pulls, allowed)
        random = PositionRandom(session.request.sampling.seed)
        u = random.uniform(len(session.tokens), STREAM)
        at = next((i for i, c in enumerate(accumulate(chances)) if u < c), len(chances) - 1)
        return allowed[at], chances[at]

    def _affordable(self, session: Session, pace: Pace, worth: Worth) -> list[int]:
        """The lengths whose step, should nothing of it stand, keeps the debt within its bound."""
        debt, plain, first = self.debt, worth.share(session), pace.first(session)
        level, allowed = pace.level, [0]
        for length in self.lengths[1:]:
            rows = min(round(length * pace.width), self.nodes)
            seconds = worth.share(session, rows) + length * (level or 0.0) + first
            if debt.affords(seconds, plain):
                allowed.append(length)
            if level is None:
                break
        return allowed

    def observe(self, session: Session, step: Step) -> None:
        """Reward the arm, settle the debt."""
        held, arms = self._held(session), self._arms_of(session)
        pulled, held.pulled = held.pulled, None
        arms.pace.observe(session, step)
        if self.worth is None or pulled is None:
            return
        # in a batch, others' drafting is no debt of a session that did not ask
        drafting = step.seconds["draft"] if pulled[0] else 0.0
        spent, plain = self.worth.observe(session, step, drafting)
        tokens = len(step.committed.tokens)
        self.debt.settle(spent, plain, tokens)
        allowed = step.budget.depth if step.budget.nodes else 0
        # a prompt that was read says nothing of the steps to come; or the text's end cut the arm
        if step.fresh == 1 and allowed >= pulled[0]:
            reward = tokens - self.worth.rate(plain) * spent
            arms.pulls.append(Pull(pulled[0], reward, pulled[1]))

    def _arms_of(self, session: Session) -> _Arms:
        name = session.drafter.name
        if name not in self._arms:
            self._arms[name] = _Arms(Window(self.options.window))
        return self._arms[name]

    def _held(self, session: Session) -> _Held:
        held: _Held | None = session.memo.get(self.name)
        if held is None:
            held = session.memo[self.name] = _Held()
        return held

    def state(self) -> dict[str, Any]:
        """The window's pulls by drafter."""
        pulls = {name: [list(pull) for pull in arms.pulls] for name, arms in self._arms.items()}
        return {"pulls": pulls} if pulls else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; lengths that are no arms any more are left out."""
        for name, pulls in state["pulls"].items():
            known = (Pull(int(arm), float(r), float(c)) for arm, r, c in pulls)
            kept = Window(self.options.window, (p for p in known if p.arm in self.lengths))
            self._arms[name] = _Arms(kept)
