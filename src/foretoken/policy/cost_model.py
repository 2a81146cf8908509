"""cost-model: draft what is worth its measured time, and never lose more than a stated share.

Of all candidate nodes take the n that maximise expected tokens - rate x time(n), over every n (the
time may have steps, so that the first node that does not pay need not be the last one that does);
n = 0, a plain step, is a choice. Expected tokens: each node's calibrated probability (`mix` brings
its own; for other drafters it is learned here, by q, evidence, depth and recent luck). time(n): the
measured curve, corrected by what steps really take (`Latency`). rate: tokens per second of the last
hundred steps, at least those of plain decoding: the best choice for the whole stream and not for
the single step. All sessions of a step are chosen for together, since their rows share a forward.

A drafter whose proposals do not pay is left alone and asked again now and then; how often, so that
asking costs half of the allowed slack: cheap drafters are asked always ("in shadow"), dear ones
seldom. A drafter with several ways of drafting is asked in the one that has paid best. Where each
level costs a forward, or nodes are drawn (and so may not be dropped: U0), the depth is settled
beforehand (`Depths`), or, by a drafter that shows its levels, on the way: another one is drafted
while the chance that the text gets so far, by the calibrated probabilities of this very draft, is
worth the time of a level. Every session keeps a `Debt`: over every window of its steps it takes at
most (1 + slack) x plain time plus a moment, whatever is drafted.
Source: our notes on policies, 3B, U1-U11. Learns: counts and seconds, nothing of anyone's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Drafter
from foretoken.policy.arms import LATEST, RARELY, Arm, choose
from foretoken.policy.base import Policy
from foretoken.policy.debt import Debt
from foretoken.policy.fixed import OWN
from foretoken.policy.joint import best_width, by_joint
from foretoken.policy.ledger import Ledger
from foretoken.policy.promises import Promises
from foretoken.policy.rest import LONGEST, TELLS
from foretoken.policy.ways import Ways
from foretoken.policy.worth import Worth
from foretoken.target.cost import CostCurve
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Level, Session, Step

TRYING = 4  # sessions of a batch that try what does not pay
FEW = 4  # drafts that are made, as far as the debt allows, before their time is believed
WINDOW = 0.01  # weight of the newest step in what promises are worth
UNSEEN = Budget(0, unseen=True)
DOUBT = 20.0  # promised tokens before the first is believed or not


class CostModel(Policy):
    """See the module. What is learned is shared by the sessions of an engine; debts are not."""

    name = "cost-model"
    summary = "expected tokens against measured time, with a bound on what drafting may cost"
    source = (
        "own; length-policies.md 3B (U1-U11), after Sequoia 2402.12374 and SmartSpec 2406.14066"
    )

    class Options(types.Options):
        """How far it may go."""

        nodes: int | None = Field(
            None, ge=0, le=1024, description="most nodes proposed; None: the drafter's own"
        )
        depth: int = Field(64, ge=1, description="deepest node proposed")
        slack: float = Field(
            0.01, ge=0.0, description="share of plain decoding's time that may be lost"
        )
        allowance: float = Field(
            0.1, ge=0.0, description="and so many seconds of a request (one plain step at least)"
        )
        credit: float = Field(4.0, ge=0.0, description="plain steps of earlier gains that count")

    needs_curve = True
    stops = True

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self._nodes = OWN if options.nodes is None else options.nodes
        self.worth = None if curve is None else Worth(curve)
        self._promised, self._stood = DOUBT, DOUBT  # tokens, forgetting; equal before any was seen
        self._ways: dict[str, Ways] = {}  # by drafter
        self.promises = Promises()

    def leaves(self, drafter: Drafter) -> bool:
        """See `Policy`."""
        return self._ways_of(drafter).rest.lasts

    def budget(self, session: Session) -> Budget:
        """`budgets` of one."""
        return self.budgets([session])[0]

    def budgets(self, sessions: Sequence[Session]) -> list[Budget]:
        """Which way to ask each drafter, how much of it; or nothing. A drafter is asked for all its
        sessions or for none, since they share its forwards and the target's."""
        drafters = dict.fromkeys(session.drafter for session in sessions)
        if len(drafters) == 1:
            return self._together(sessions[0].drafter, sessions)
        found: dict[int, Budget] = {}
        for drafter in drafters:
            mine = [session for session in sessions if session.drafter is drafter]
            for session, budget in zip(mine, self._together(drafter, mine), strict=True):
                found[id(session)] = budget
        return [found[id(session)] for session in sessions]

    def _together(self, drafter: Drafter, sessions: Sequence[Session]) -> list[Budget]:
        ledgers = [self._ledger(session) for session in sessions]
        for ledger in ledgers:
            ledger.way = "" if self.worth is None else None
        if self.worth is None:
            return [Budget(self._nodes, self.options.depth)] * len(sessions)
        ways, worth = self._ways_of(drafter), self.worth
        lucky = [ledger.lucky for ledger in ledgers]
        if not any(way is not None for way in lucky) and ways.rest.goes_on():
            return [UNSEEN] * len(sessions)
        worth.batch = max(worth.batch, len(sessions))
        ways.plain = plain = fmean(worth.share(session) for session in sessions)
        for ledger in ledgers:  # the time that nobody notices is a wall's: a batch shares it
            ledger.debt.allowance = self.options.allowance / worth.batch
        owed = fmean(ledger.debt.owed for ledger in ledgers)
        rich = owed <= -plain  # an unknown cost is paid from gains
        arms = {}
        for way in ways.names:
            arm = ways.arms[way]
            open_to = [session for session in sessions if self._worth_reading(session, way, arm)]
            if open_to and (way == ways.cheapest or arm.asked or rich):
                arms[way] = arm
        allowed, latest = self._trials(plain)
        reading = {way: self._reading(sessions, way, arm) for way, arm in arms.items()}
        seen = -owed if rich else 0.0, worth.pace, reading
        chosen, due = choose(arms, ways.idle, allowed, latest, *seen) if arms else (None, 1)
        asking = {} if chosen is None else self._asking(sessions, ways, chosen)
        left = UNSEEN if ways.rest.dear(allowed) else Budget(0)
        budgets = []
        for session, own in zip(sessions, lucky, strict=True):
            wanted = asking.get(session.index, own)
            budgets.append(left if wanted is None else self._asked(session, wanted))
        count = sum(1 for budget in budgets if budget.nodes)
        for ledger in ledgers:
            ledger.askers = count
        if not count and left is UNSEEN:
            if chosen is not None:  # nobody could afford it
                due = TELLS if ways.arms[chosen].gain > 0 else LONGEST
            ways.leave(due)
            return [UNSEEN] * len(sessions)
        return budgets

    def _asking(self, sessions: Sequence[Session], ways: Ways, way: str) -> dict[int, str]:
        """Who asks, by index: all where it pays, else a few, who can best afford a trial; what a
        dear way costs, one finds out for all."""
        most = len(sessions) if ways.arms[way].gain > 0 else TRYING
        if way != ways.cheapest and not ways.arms[way].asked:
            most = 1
        able = sorted(sessions, key=lambda session: self._ledger(session).debt.owed)
        return {session.index: way for session in able[:most]}

    def _trials(self, plain: float) -> tuple[float, int]:
        """(seconds a step that trials of what does not pay may cost, most steps without one)."""
        assert self.worth is not None
        return self.options.slack * plain / 2, max(RARELY, int(LATEST / plain / self.worth.batch))

    def _asked(self, session: Session, way: str) -> Budget:
        """How much of this way a session may ask for; nothing if it is too dear for this text."""
        assert self.worth is not None
        drafter, worth = session.drafter, self.worth
        ways, arm = self._ways_of(drafter), self._arm(drafter, way)
        if not self._worth_reading(session, way, arm):
            if way == ways.cheapest or ways.arms[ways.cheapest].gain <= 0:
                return Budget(0)
            way, arm = ways.cheapest, ways.arms[ways.cheapest]
        most = Budget(self._nodes, self.options.depth, way=way)
        if drafter.runs_model or drafter.emits != "point":
            return self._deep(session, most, worth)
        # asking alone would eat up what is allowed: there must be room for a node as well
        least = arm.seconds + worth.share(session, 1)
        return self._granted(session, most, least, worth.share(session))

    def _reading(self, sessions: Sequence[Session], way: str, arm: Arm) -> float:
        """Tokens that reading the texts which the way has not met is worth, a session."""
        assert self.worth is not None
        new = [session for session in sessions if way not in self._ledger(session).met]
        return sum(arm.price(session, self.worth) for session in new) / len(sessions)

    def _worth_reading(self, session: Session, way: str, arm: Arm) -> bool:
        """Whether the way was asked in this text, or the text is worth its reading."""
        ledger = self._ledger(session)
        if way in ledger.met or not arm.readings:
            return True
        assert self.worth is not None
        if arm.gain * self.worth.steps_left(session) > arm.price(session, self.worth):
            return True
        if way not in ledger.passed:
            ledger.passed.add(way)
            arm.pass_over()
        return False

    def _deep(self, session: Session, most: Budget, worth: Worth) -> Budget:
        """The depth that pays, where every level costs a forward or nothing may be dropped."""
        ledger, drafter, plain = self._ledger(session), session.drafter, worth.share(session)
        arm = self._arm(drafter, most.way)
        deepest = min(most.depth, most.nodes)
        depth, gain = arm.depths.choose(
            deepest, worth.rate(plain), lambda n: worth.share(session, n)
        )
        unknown = arm.depths.timed < FEW
        if not depth and not unknown:
            arm.gain = min(arm.gain, gain)
            if self._ways_of(drafter).idle[most.way] < arm.interval(*self._trials(plain)):
                return Budget(0)
        if not depth or not arm.depths.timed:
            depth = 1  # a trial, or one of the first, when nobody knows what a level costs
        elif self.halts(drafter):  # `go_on` ends the draft; here, what may be risked
            depth = deepest
            while depth > 1 and not ledger.debt.affords(plain + depth * arm.depths.seconds, plain):
                depth -= 1
        drafting, nodes = depth * arm.depths.seconds, most.nodes
        if drafter.emits != "point":  # no more than is affordable: none may be dropped later
            while nodes and not ledger.debt.affords(worth.share(session, nodes) + drafting, plain):
                nodes -= 1
        return self._granted(
            session, replace(most, depth=depth, nodes=nodes), plain + drafting, plain
        )

    def halts(self, drafter: Drafter) -> bool:
        """Whether the drafter shows its levels, so that a draft can end on the way."""
        return self.worth is not None and "levels" in drafter.gives

    def go_on(self, session: Session, level: Level) -> bool:
        """Whether the text gets through this level so probably that another one pays. Settled by
        what was drafted, before the next level is: the level itself is submitted (U0)."""
        assert self.worth is not None
        ledger, worth = self._ledger(session), self.worth
        reach = self.promises.reach(session, level, ledger)
        depths, rate = self._arm_of(session).depths, worth.rate(worth.share(session))
        return depths.worth(level.depth, reach, rate, lambda n: worth.share(session, n))

    def _granted(self, session: Session, budget: Budget, seconds: float, plain: float) -> Budget:
        """The budget, if the session can afford a step that costs so much and brings nothing."""
        ledger = self._ledger(session)
        if not budget.nodes or not ledger.debt.affords(seconds, plain):
            return Budget(0)
        ledger.way, self._ways_of(session.drafter).idle[budget.way] = budget.way, 0
        return budget

    def cut(self, session: Session, tree: DraftTree) -> DraftTree:
        """`cut_batch` of one."""
        return self.cut_batch([(session, tree)])[0]

    def cut_batch(self, asked: Sequence[tuple[Session, DraftTree]]) -> list[DraftTree]:
        """The nodes of all sessions together that are worth their time; parents before children,
        since no node is likelier than its parent."""
        promised = [
            self.promises.of(session, tree, self._ledger(session)) for session, tree in asked
        ]
        if self.worth is None:
            return [tree for _, tree in asked]
        order = [by_joint(joints) for _, joints in promised]
        ranked = [
            [joints[n] for n in nodes] for (_, joints), nodes in zip(promised, order, strict=True)
        ]
        batch = max(len(asked), self.worth.batch)
        context = sum(len(session.tokens) for session, _ in asked) // len(asked)
        line = self.worth.latency.line(context, batch * (1 + max(map(len, ranked))))
        kept, rate = min(self._stood / self._promised, 1.0), self.worth.rate(line[batch] / batch)
        width = best_width(ranked, kept, lambda n: rate * (line[batch * (1 + n)] - line[batch]))
        return [
            self._kept(session, tree, q, nodes[:width])
            for (session, tree), (q, _), nodes in zip(asked, promised, order, strict=True)
        ]

    def _kept(
        self, session: Session, tree: DraftTree, q: Sequence[float], nodes: list[int]
    ) -> DraftTree:
        """The part of the tree to score: of `nodes`, best first, as many as can be afforded; with
        the probabilities that they were chosen by."""
        assert self.worth is not None
        ledger, worth = self._ledger(session), self.worth
        ledger.offer = tree
        plain, drafting = worth.share(session), self._arm_of(session).seconds
        while nodes and not ledger.debt.affords(worth.share(session, len(nodes)) + drafting, plain):
            nodes.pop()
        if not nodes:
            return EMPTY
        nodes.sort()
        return replace(tree.prune(nodes), q=[q[node] for node in nodes])

    def observe(self, session: Session, step: Step) -> None:
        """Calibrate, settle the debt, update rate, latency and the arm that was asked."""
        if step.budget.unseen and session.finish_reason is None:
            self._rested(session, step)
            return
        ledger, accepted = self._ledger(session), len(step.verdict.path)
        offer = ledger.offer if len(ledger.offer) else step.tree  # drawn drafts are never cut
        stood = self.promises.kept(session, offer, step, ledger) if len(offer) else 0
        ledger.offer, ledger.luck = EMPTY, accepted
        if self.worth is None:
            return
        # in a batch, others' drafting is no debt of a session that did not ask
        drafting = step.seconds["draft"] if ledger.way is not None else 0.0
        spent, plain = self.worth.observe(session, step, drafting)
        ledger.debt.settle(spent, plain, len(step.committed.tokens))
        if len(step.tree) and step.tree.q:
            self._promised = (1.0 - WINDOW) * self._promised + sum(step.tree.joint)
            self._stood = (1.0 - WINDOW) * self._stood + accepted
        if ledger.way is None:
            if step.fresh == 1 and not step.budget.unseen:
                self._ways_of(session.drafter).rest.watched(step.seconds["draft"])
        else:
            arm = self._arm_of(session)
            # a model reads the prompt for a session's first draft: later ones do not take so long
            first = ledger.way not in ledger.met
            ledger.met.add(ledger.way)
            reading = arm.beyond(drafting, step.context) if first and arm.asked else 0.0
            known = not first or arm.asked > 0  # else nobody knows what of it was reading
            if known:
                arm.times.append(drafting - reading)
            # those who ask bear the whole of what the wider forward takes
            wider = (spent - drafting - plain) * step.batch / ledger.askers
            gain = accepted - self.worth.rate(plain) * (wider + arm.seconds)
            ledger.lucky = ledger.way if gain > 0 else None
            if known:
                arm.observe(gain)
            levels = [0] * offer.depth
            for depth in offer.depths:
                levels[depth - 1] += 1
            arm.depths.observe(levels, stood, None if first else drafting, judged=accepted + 1)

    def _rested(self, session: Session, step: Step) -> None:
        """A step of which nobody learns: as little as can be."""
        assert self.worth is not None
        ledger, self.worth.batch = self._ledger(session), step.batch
        ways, ledger.luck = self._ways_of(session.drafter), 0
        if ways.rest.tells(step.batch):
            self.worth.observe(session, step, 0.0)
        ledger.debt.settle(ways.plain, ways.plain, 1)

    def _ways_of(self, drafter: Drafter) -> Ways:
        ways = self._ways.get(drafter.name)
        if ways is None or ways.names != tuple(drafter.ways):  # `load` may have known others
            ways = self._ways[drafter.name] = Ways(drafter.ways, ways)
        return ways

    def _arm(self, drafter: Drafter, way: str) -> Arm:
        return self._ways_of(drafter).arms[way]

    def _arm_of(self, session: Session) -> Arm:
        return self._arm(session.drafter, self._ledger(session).way or "")

    def _ledger(self, session: Session) -> Ledger:
        ledger: Ledger | None = session.memo.get(self.name)
        if ledger is None:
            options = self.options
            debt = Debt(options.slack, options.allowance, options.credit)
            ledger = session.memo[self.name] = Ledger(debt)
        return ledger

    def state(self) -> dict[str, Any]:
        """Calibration and acceptance by level, by drafter."""
        return {
            "reliability": self.promises.state(),
            "depths": [
                [name, way, arm.depths.state()]
                for name, ways in self._ways.items()
                for way, arm in ways.arms.items()
            ],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.promises.load(state.get("reliability", {}))
        for name, way, depths in state.get("depths", []):
            ways = self._ways[name] = Ways([way], self._ways.get(name))
            ways.arms[way].depths.load(depths)
