"""cost-model: draft what is worth its measured time, and never lose more than a stated share.

Of all candidate nodes take the n that maximise expected tokens - rate x time(n), over every n (the
time may have steps, so that the first node that does not pay need not be the last one that does);
n = 0, a plain step, is a choice. Expected tokens: each node's calibrated probability (`mix` brings
its own; for other drafters it is learned here, by q, evidence, depth and recent luck). time(n): the
measured curve, corrected by what steps really take (`Latency`). rate: tokens per second of the last
hundred steps, at least those of plain decoding: the best choice for the whole stream and not for
the single step. All sessions of a step are chosen for together: they share a forward, which is as
wide as the widest of them (`joint`), and a drafter that pays is asked for all of them (`Ways`).

A drafter whose proposals do not pay is left alone and asked again now and then; how often, so that
asking costs half of the allowed slack: cheap drafters are asked always ("in shadow"), dear ones
seldom; where even watching takes more than that, a drafter is not shown the text, either, until it
is next asked (`Rest`). A drafter with several ways of drafting is asked in the one that has paid
best. Where each level costs a forward, or nodes are drawn (and so may not be dropped: U0), the
depth is settled beforehand (`Depths`), or, by a drafter that shows its levels, on the way: another
one is drafted while the chance that the text gets so far, by the calibrated probabilities of this
very draft, is worth the time of a level. Every session keeps a `Debt`: over every window of its
steps, what it asks for takes at most slack x plain time plus a moment beyond what it brings.
Source: our notes on policies, 3B, U1-U11. Learns: counts and seconds, nothing of anyone's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Drafter
from foretoken.policy.arms import Arm
from foretoken.policy.base import Policy, grouped
from foretoken.policy.debt import Debt
from foretoken.policy.fixed import OWN
from foretoken.policy.grants import grant
from foretoken.policy.joint import best_width, by_joint
from foretoken.policy.ledger import Ledger
from foretoken.policy.promises import Promises
from foretoken.policy.ways import TRYING, Ways
from foretoken.policy.worth import Worth
from foretoken.target.cost import CostCurve
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Level, Session, Step

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

    def leaves(self, drafter: Drafter, riding: int) -> bool:
        """See `Policy`. In a batch a few try first."""
        return riding >= TRYING or self._ways_of(drafter).rest.lasts

    def budget(self, session: Session) -> Budget:
        """`budgets` of one."""
        return self.budgets([session])[0]

    def budgets(self, sessions: Sequence[Session]) -> list[Budget]:
        """Which way to ask each drafter, how much of it; or nothing. One that pays is asked for all
        its sessions, since they share its forwards and the target's."""
        return grouped(sessions, lambda session: session.drafter, self._together)

    def _together(self, drafter: Drafter, sessions: Sequence[Session]) -> list[Budget]:
        riders = [(session, self._ledger(session)) for session in sessions]
        for _, ledger in riders:
            ledger.way = "" if self.worth is None else None
        if self.worth is None:
            return [Budget(self._nodes, self.options.depth)] * len(sessions)
        ways = self._ways_of(drafter)
        if all(ledger.lucky is None for _, ledger in riders) and ways.rest.goes_on():
            return [UNSEEN] * len(sessions)
        self.worth.batch = max(self.worth.batch, len(sessions))
        for _, ledger in riders:  # the time that nobody notices is a wall's: a batch shares it
            ledger.debt.allowance = self.options.allowance / self.worth.batch
        wanted, halts = ways.choose(riders, self.worth), self.halts(drafter)
        askers = sum(1 for way in wanted if way is not None)
        left = UNSEEN if ways.dear else Budget(0)
        budgets = []
        for rider, way in zip(riders, wanted, strict=True):
            most = self._most(rider[0], way)
            granted = None if most is None else grant(rider, most, ways, self.worth, askers, halts)
            waits = not rider[0].begun and len(riders) > TRYING
            budgets.append((UNSEEN if waits else left) if granted is None else granted)
        asked = [ledger for _, ledger in riders if ledger.way is not None]
        for _, ledger in riders:
            ledger.askers = len(asked) if ledger.way is not None else 0
        for ledger in asked:
            ways.idle[ledger.way or ""] = 0
        if not asked and left is UNSEEN:
            ways.leave()
            return [UNSEEN] * len(sessions)
        return budgets

    def _most(self, session: Session, way: str | None) -> Budget | None:
        if way is None:
            return None
        source_on = None
        if "source levels" in session.drafter.gives:
            source_on = partial(self.go_on, session)
        return Budget(self._nodes, self.options.depth, way=way, source_on=source_on)

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
        depths.shown(level.seconds)
        askers = ledger.askers or None
        more = depths.worth(level.depth, reach, rate, lambda n: worth.share(session, n, askers))
        ledger.levels = level.depth + more
        return more

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
            self._kept(session, tree, said, nodes[:width])
            for (session, tree), said, nodes in zip(asked, promised, order, strict=True)
        ]

    def _kept(
        self,
        session: Session,
        tree: DraftTree,
        promised: tuple[Sequence[float], Sequence[float]],
        nodes: list[int],
    ) -> DraftTree:
        """The part of the tree to score: of `nodes`, best first, as many as can be afforded; with
        the probabilities that they were chosen by."""
        assert self.worth is not None
        ledger, worth = self._ledger(session), self.worth
        ledger.offer = tree
        plain, drafting = worth.share(session), self._arm_of(session).seconds
        askers = ledger.askers or None
        while nodes and not ledger.debt.affords(
            worth.share(session, len(nodes), askers) + drafting, plain
        ):
            nodes.pop()
        if not nodes:
            return EMPTY
        (q, joints), last = promised, nodes[-1]
        if tree.q and joints[last] > 0.0:
            self._arm_of(session).said.append(tree.joint[last] / joints[last])
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
        ways = self._ways_of(session.drafter)
        levels = ledger.levels or offer.depth
        drafting = ways.charged(ledger, step, levels) if ledger.way is not None else 0.0
        askers = ledger.askers if ledger.way is not None else 0
        spent, plain = self.worth.observe(session, step, drafting, askers)
        ledger.debt.settle(spent, plain, len(step.committed.tokens))
        if len(step.tree) and step.tree.q:
            self._promised = (1.0 - WINDOW) * self._promised + sum(step.tree.joint)
            self._stood = (1.0 - WINDOW) * self._stood + accepted
        if ledger.way is not None:
            rate, cost = self.worth.rate(plain), partial(self.worth.share, session)
            ways.observe(ledger, step, offer, stood, rate, cost, spent - drafting - plain)
        elif step.fresh == 1 and not step.budget.unseen:
            ways.rest.watched(step.seconds["draft"])

    def _rested(self, session: Session, step: Step) -> None:
        """A step of which nobody learns: as little as can be."""
        assert self.worth is not None
        ledger, self.worth.batch = self._ledger(session), step.batch
        ways, ledger.luck = self._ways_of(session.drafter), 0
        if ways.rest.tells(step.batch):
            self.worth.observe(session, step, 0.0, 0)
        ledger.debt.settle(ways.plain, ways.plain, 1)

    def _ways_of(self, drafter: Drafter) -> Ways:
        ways = self._ways.get(drafter.name)
        if ways is None or ways.names != tuple(drafter.ways):  # `load` may have known others
            shows = "source levels" in drafter.gives
            ways = self._ways[drafter.name] = Ways(
                drafter.ways, self.options.slack, drafter.trains, shows, ways, drafter.first_way
            )
        return ways

    def _arm_of(self, session: Session) -> Arm:
        ways = self._ways_of(session.drafter)
        return ways.arms[self._ledger(session).way or ways.usual]

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
            ways = self._ways[name] = Ways([way], self.options.slack, known=self._ways.get(name))
            ways.arms[way].depths.load(depths)
