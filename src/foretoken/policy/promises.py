"""What a draft promises, and what of it the text kept: calibrated probabilities of its nodes.

A drafter that is calibrated is believed. For another one `Reliability` learns, from its own q,
evidence, depth and the text's recent luck, how often the target goes the way that a node says.
Learns: counts, nothing of anyone's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foretoken.learn.calibration import Reliability, recent
from foretoken.policy.ledger import Ledger, claims
from foretoken.tree import DraftTree
from foretoken.types import Level, Session, Step


class Promises:
    """Of all drafters that a policy meets."""

    def __init__(self) -> None:
        self._by_drafter: dict[str, Reliability] = {}

    def of(
        self, session: Session, tree: DraftTree, ledger: Ledger
    ) -> tuple[Sequence[float], Sequence[float]]:
        """(probability of each node given its parent, of its whole path)."""
        if session.drafter.calibrated:
            return tree.q, tree.joint
        reliability, luck = self._reliability(session), recent(ledger.luck)
        q: list[float] = []
        joint: list[float] = []
        for claim, parent in zip(claims(tree), tree.parents, strict=True):
            q.append(reliability.estimate(*claim, luck))
            joint.append(q[-1] * (joint[parent] if parent >= 0 else 1.0))
        return q, joint

    def reach(self, session: Session, level: Level, ledger: Ledger) -> float:
        """Probability that the text goes through this level of a draft that is under way; the
        levels above it were asked about before."""
        q = level.q
        if not session.drafter.calibrated:
            reliability, luck = self._reliability(session), recent(ledger.luck)
            q = [reliability.estimate(said, 0, level.depth, luck) for said in q]
        ledger.level = level.paths(q, ledger.level if level.depth > 1 else [1.0])
        return min(sum(ledger.level), 1.0)

    def kept(self, session: Session, offer: DraftTree, step: Step, ledger: Ledger) -> int:
        """Follow the text down a proposal, as far as both go: at every node that stood, the
        children that were proposed, scored or not, were right or wrong. Gives the levels that
        were right."""
        reliability = None if session.drafter.calibrated else self._reliability(session)
        said, luck, node, stood = claims(offer), recent(ledger.luck), -1, 0
        spelled = [step.tree.tokens[i] for i in step.verdict.path]
        for token in (*spelled, step.verdict.bonus):
            follow = None
            for child in offer.children[node + 1]:
                right = offer.tokens[child] == token
                if reliability is not None:
                    reliability.learn(*said[child], luck, float(right))
                follow = child if right else follow
            if follow is None:
                break
            node, stood = follow, stood + 1
        return stood

    def _reliability(self, session: Session) -> Reliability:
        return self._by_drafter.setdefault(session.drafter.name, Reliability())

    def state(self) -> dict[str, Any]:
        """Bins by drafter, JSON-ready."""
        return {name: reliability.state() for name, reliability in self._by_drafter.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for name, bins in state.items():
            self._by_drafter.setdefault(name, Reliability()).load(bins)
