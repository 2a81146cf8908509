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
beforehand (`Depths`). Every session keeps a `Debt`: over every window of its steps it takes at most
(1 + slack) x plain time plus a moment, whatever is drafted.
Source: our notes on policies, 3B, U1-U11. Learns: counts and seconds, nothing of anyone's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Drafter
from foretoken.learn.calibration import Reliability, recent
from foretoken.learn.latency import Latency
from foretoken.policy.arms import Arm, choose
from foretoken.policy.base import Policy
from foretoken.policy.debt import Debt
from foretoken.policy.fixed import OWN
from foretoken.policy.ledger import Ledger, claims
from foretoken.target.cost import CostCurve
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session, Step

WINDOW = 0.01  # weight of the newest step in the rate and in what promises are worth
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

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self._nodes = OWN if options.nodes is None else options.nodes
        self.latency = None if curve is None else Latency(curve)
        self._tokens, self._seconds = 0.0, 0.0
        self._promised, self._stood = DOUBT, DOUBT  # tokens, forgetting; equal before any was seen
        self._batch = 1
        self._arms: dict[tuple[str, str], Arm] = {}
        self._reliability: dict[str, Reliability] = {}

    def budget(self, session: Session) -> Budget:
        """Which way to ask the drafter, how much of it; or nothing."""
        ledger = self._ledger(session)
        ledger.way = None
        most = Budget(self._nodes, self.options.depth)
        if self.latency is None:
            ledger.way = ""
            return most
        drafter, plain = session.drafter, self._plain(session)
        ways = {way: self._arm(drafter, way) for way in drafter.ways}
        cheapest = drafter.ways[0]
        rich = ledger.debt.owed <= -plain  # an unknown cost is paid from gains
        arms = {way: arm for way, arm in ways.items() if way == cheapest or arm.asked or rich}
        way = choose(arms, ledger.idle, self.options.slack * plain / 2, ledger.lucky, rich)
        if way is None:
            return Budget(0)
        if drafter.runs_model or drafter.emits != "point":
            return self._deep(session, replace(most, way=way), plain)
        # asking alone would eat up what is allowed: there must be room for a node as well
        least = ways[way].seconds + self._share(session, 1)
        return self._granted(ledger, replace(most, way=way), least, plain)

    def _deep(self, session: Session, most: Budget, plain: float) -> Budget:
        """The depth that pays, where every level costs a forward or nothing may be dropped."""
        ledger, drafter = self._ledger(session), session.drafter
        arm = self._arm(drafter, most.way)
        depth, gain = arm.depths.choose(
            min(most.depth, most.nodes), self._rate(plain), lambda n: self._share(session, n)
        )
        if not depth:
            arm.gain = min(arm.gain, gain)
            if ledger.idle[most.way] < arm.interval(self.options.slack * plain / 2):
                return Budget(0)
        if not depth or not arm.asked:
            depth = 1  # a trial, or the first one, when nobody knows what a level costs
        drafting, nodes = depth * arm.depths.seconds, most.nodes
        if drafter.emits != "point":  # no more than is affordable: none may be dropped later
            while nodes and not ledger.debt.affords(self._share(session, nodes) + drafting, plain):
                nodes -= 1
        return self._granted(
            ledger, replace(most, depth=depth, nodes=nodes), plain + drafting, plain
        )

    def _granted(self, ledger: Ledger, budget: Budget, seconds: float, plain: float) -> Budget:
        """The budget, if the session can afford a step that costs so much and brings nothing."""
        if not budget.nodes or not ledger.debt.affords(seconds, plain):
            return Budget(0)
        ledger.way, ledger.idle[budget.way] = budget.way, 0
        return budget

    def cut(self, session: Session, tree: DraftTree) -> DraftTree:
        """`cut_batch` of one."""
        return self.cut_batch([(session, tree)])[0]

    def cut_batch(self, asked: Sequence[tuple[Session, DraftTree]]) -> list[DraftTree]:
        """The nodes of all sessions together that are worth their time; parents before children,
        since no node is likelier than its parent."""
        promised = [self._promises(session, tree) for session, tree in asked]
        if self.latency is None:
            return [tree for _, tree in asked]
        ranked = sorted(
            ((joint, -node, i) for i, (_, joints) in enumerate(promised)
             for node, joint in enumerate(joints)),
            reverse=True,
        )  # fmt: skip
        taken = self._worth([joint for joint, _, _ in ranked], asked)
        kept: list[list[int]] = [[] for _ in asked]
        for _, node, i in ranked[:taken]:
            kept[i].append(-node)
        return [
            self._kept(session, tree, q, nodes)
            for (session, tree), (q, _), nodes in zip(asked, promised, kept, strict=True)
        ]

    def _worth(self, joints: list[float], asked: Sequence[tuple[Session, DraftTree]]) -> int:
        """How many of the leading nodes: the best of all numbers, not the first that fails."""
        assert self.latency is not None
        batch = max(len(asked), self._batch)
        context = sum(len(session.tokens) for session, _ in asked) // len(asked)
        line = self.latency.line(context, batch + len(joints))
        rate = self._rate(line[batch] / batch)
        kept = min(self._stood / self._promised, 1.0)
        expected, best, taken = 0.0, 0.0, 0
        for n, joint in enumerate(joints, start=1):
            expected += joint
            value = kept * expected - rate * (line[batch + n] - line[batch])
            if value > best:
                best, taken = value, n
        return taken

    def _promises(
        self, session: Session, tree: DraftTree
    ) -> tuple[Sequence[float], Sequence[float]]:
        """(probability of each node given its parent, of its whole path)."""
        if session.drafter.calibrated:
            return tree.q, tree.joint
        reliability = self._reliability.get(session.drafter.name)
        if reliability is None:
            reliability = self._reliability[session.drafter.name] = Reliability()
        luck = recent(self._ledger(session).luck)
        q: list[float] = []
        joint: list[float] = []
        for claim, parent in zip(claims(tree), tree.parents, strict=True):
            q.append(reliability.estimate(*claim, luck))
            joint.append(q[-1] * (joint[parent] if parent >= 0 else 1.0))
        return q, joint

    def _kept(
        self, session: Session, tree: DraftTree, q: Sequence[float], nodes: list[int]
    ) -> DraftTree:
        """The part of the tree to score: of `nodes`, best first, as many as can be afforded; with
        the probabilities that they were chosen by."""
        ledger, plain = self._ledger(session), self._plain(session)
        ledger.offer = tree
        drafting = self._arm_of(session).seconds
        while nodes and not ledger.debt.affords(self._share(session, len(nodes)) + drafting, plain):
            nodes.pop()
        if not nodes:
            return EMPTY
        nodes.sort()
        return replace(tree.prune(nodes), q=[q[node] for node in nodes])

    def observe(self, session: Session, step: Step) -> None:
        """Calibrate, settle the debt, update rate, latency and the arm that was asked."""
        ledger, accepted = self._ledger(session), len(step.verdict.path)
        self._batch = step.batch
        if not session.drafter.calibrated and len(ledger.offer):
            self._calibrate(session, step, ledger)
        ledger.offer, ledger.luck = EMPTY, accepted
        if self.latency is None or step.fresh > 1:  # reading a prompt says nothing of steps to come
            return
        self.latency.observe(step.rows, step.context, step.seconds["target"] * step.batch)
        plain = self.latency(step.batch, step.context) / step.batch
        # in a batch, others' drafting is no debt of a session that did not ask
        drafting = step.seconds["draft"] if ledger.way is not None else 0.0
        spent = self.latency(step.rows, step.context) / step.batch + drafting
        tokens = len(step.committed.tokens)
        ledger.debt.settle(spent, plain, tokens)
        self._tokens = (1.0 - WINDOW) * self._tokens + tokens
        self._seconds = (1.0 - WINDOW) * self._seconds + spent
        if len(step.tree) and step.tree.q:
            self._promised = (1.0 - WINDOW) * self._promised + sum(step.tree.joint)
            self._stood = (1.0 - WINDOW) * self._stood + accepted
        if ledger.way is not None:
            arm = self._arm_of(session)
            gain = accepted - self._rate(plain) * (spent - plain)
            arm.observe(gain, drafting)
            ledger.lucky = ledger.way if gain > 0 else None
            levels = [0] * step.tree.depth
            for depth in step.tree.depths:
                levels[depth - 1] += 1
            arm.depths.observe(levels, accepted, drafting)

    def _calibrate(self, session: Session, step: Step, ledger: Ledger) -> None:
        """Follow the text down the proposal, as far as it goes: at every node that stood, the
        children that were proposed, scored or not, were right or wrong."""
        reliability, luck = self._reliability[session.drafter.name], recent(ledger.luck)
        offer, said, node = ledger.offer, claims(ledger.offer), -1
        spelled = [step.tree.tokens[i] for i in step.verdict.path]
        for token in (*spelled, step.verdict.bonus):
            follow = None
            for child in offer.children[node + 1]:
                right = offer.tokens[child] == token
                reliability.learn(*said[child], luck, float(right))
                follow = child if right else follow
            if follow is None:
                return
            node = follow

    def _plain(self, session: Session) -> float:
        """Seconds of a plain step: this session's share of it."""
        return self._share(session, 0)

    def _share(self, session: Session, nodes: int) -> float:
        """Seconds of a step with so many drafted nodes, for this session."""
        assert self.latency is not None
        context = len(session.tokens)
        others = self.latency(self._batch, context)
        return others / self._batch + self.latency(self._batch + nodes, context) - others

    def _rate(self, plain: float) -> float:
        """Tokens per second that time is worth: of late, and those of plain decoding at least."""
        return max(self._tokens / self._seconds if self._seconds > 0 else 0.0, 1.0 / plain)

    def _arm(self, drafter: Drafter, way: str) -> Arm:
        return self._arms.setdefault((drafter.name, way), Arm())

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
            "reliability": {name: r.state() for name, r in self._reliability.items()},
            "depths": [[*key, arm.depths.state()] for key, arm in self._arms.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for name, bins in state.get("reliability", {}).items():
            self._reliability.setdefault(name, Reliability()).load(bins)
        for name, way, depths in state.get("depths", []):
            self._arms.setdefault((name, way), Arm()).depths.load(depths)
