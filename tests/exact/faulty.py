"""Rules written slowly and by the book, and the mistakes that are made with them in practice.

With `fault=None` each is exact, so that what a test finds is the fault. They run under real coins
and under scripted ones alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier, follow


class ByTheBook(Verifier):
    """What the rules below share: they are tests' own, and registered nowhere."""

    source = "-"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset(KINDS)
    faults: ClassVar[tuple[str, ...]] = ()

    def __init__(self, fault: str | None = None) -> None:
        assert fault is None or fault in self.faults
        self.fault = fault


class Rejection(ByTheBook):
    """Sibling after sibling in drawn order; each rejection takes its draft law off the target's."""

    name, summary = "by-the-book-rejection", "recursive rejection"
    faults = ("siblings by probability", "q not renormalised", "multiplicity dropped")

    def decide(self, tree: DraftTree, rows: Any, coins: Any) -> Verdict:
        if self.fault == "multiplicity dropped":
            tree = replace(tree, draw_nodes=(), draw_parents=())
        draw, path = -1, ()
        while draws := tree.draws.children[draw + 1]:
            p = rows.probs(path[-1] if path else -1).double()
            accepted, p = self._siblings(tree, draws, p, coins)
            if accepted is None:
                return Verdict(path, coins.token(p, rows.position(path[-1] if path else -1)))
            draw, path = accepted, (*path, tree.draws.nodes[accepted])
        return follow(tree, rows, coins, path[-1] if path else -1, path)

    def _siblings(
        self, tree: DraftTree, draws: list[int], p: Tensor, coins: Any
    ) -> tuple[int | None, Tensor]:
        if self.fault == "siblings by probability":
            draws = sorted(draws, key=lambda d: -tree.q[tree.draws.nodes[d]])
        before: list[int] = []
        for draw in draws:
            token = tree.tokens[tree.draws.nodes[draw]]
            q = self._law(tree, tree.draws.nodes[draw], before)
            if coins.accept(float(p[token] / q[token])):
                return draw, p
            p = residual(p, q)
            before.append(token)
        return None, p

    def _law(self, tree: DraftTree, node: int, before: list[int]) -> Tensor:
        assert tree.dist is not None
        q = tree.dist[tree.dist_row[node]].double().clone()
        if tree.kind == "without_replacement":
            q[before] = 0.0
        return q if self.fault == "q not renormalised" else q / q.sum()


class Block(ByTheBook):
    """Block verification of a chain: the last test that passes counts."""

    name, summary = "by-the-book-block", "block verification"
    faults = ("first failure ends it", "last test uncapped")

    def decide(self, tree: DraftTree, rows: Any, coins: Any) -> Verdict:
        assert tree.is_chain
        assert tree.dist is not None
        ratios, weights, chances = [1.0], [1.0], []
        for node, token in enumerate(tree.tokens):
            p, q = rows.probs(node - 1).double(), tree.dist[tree.dist_row[node]].double()
            if node:
                rest = float((weights[-1] * p - q).clamp_min(0).sum())
                owed = rest + 1.0 - weights[-1]
                chances.append(rest / owed if owed > 1e-12 else 1.0)
            ratio = float(p[token] / q[token])
            ratios.append(ratios[-1] * ratio)
            weights.append(min(1.0, weights[-1] * ratio))
        uncapped = self.fault == "last test uncapped"
        chances.append(min(1.0, ratios[-1]) if uncapped else weights[-1])
        kept = self._kept(chances, coins)
        p = rows.probs(kept - 1).double()
        if kept < len(tree):
            p = residual(weights[kept] * p, tree.dist[tree.dist_row[kept]].double())
        return Verdict(tuple(range(kept)), coins.token(p, rows.position(kept - 1)))

    def _kept(self, chances: list[float], coins: Any) -> int:
        if self.fault == "first failure ends it":
            return next((i for i, c in enumerate(chances) if not coins.accept(c)), len(chances))
        return next((i for i in range(len(chances), 0, -1) if coins.accept(chances[i - 1])), 0)


class Walks(ByTheBook):
    """Draw the target's token and follow it. "redraw": a draw that was not drafted is thrown away
    and drawn again (ADED). "best leaf": every leaf has draws of its own, the longest path wins, so
    that shared prefixes get several tries (REST)."""

    name, summary = "by-the-book-walk", "draw and follow"
    faults = ("redraw", "best leaf")

    def decide(self, tree: DraftTree, rows: Any, coins: Any) -> Verdict:
        verdict = follow(tree, rows, coins)
        last = verdict.path[-1] if verdict.path else -1
        if self.fault == "redraw" and tree.children[last + 1]:
            return replace(verdict, bonus=self._own(rows, coins, last, 1))
        if self.fault == "best leaf":
            return self._best_leaf(tree, rows, coins)
        return verdict

    def _best_leaf(self, tree: DraftTree, rows: Any, coins: Any) -> Verdict:
        best = None
        for leaf in (i for i in range(len(tree)) if not tree.children[i + 1]):
            at, path = -1, []
            for node in [*tree.path(leaf), None]:
                token = self._own(rows, coins, at, leaf + 1)
                if node is None or token != tree.tokens[node]:
                    break
                path.append(node)
                at = node
            if best is None or len(path) > len(best.path):
                best = Verdict(tuple(path), token)
        assert best is not None
        return best

    @staticmethod
    def _own(rows: Any, coins: Any, node: int, stream: int) -> int:
        """A draw whose number no other draw uses: one of a place far behind the text."""
        token: int = coins.token(rows.probs(node), rows.position(node) + 1000 * stream)
        return token


class OneCoin:
    """Coins whose acceptance tests all read the same uniform number: a planted dependence.

    What is known of the number is an interval, which every test halves at its chance.
    """

    def __init__(self, coins: Any) -> None:
        self.coins, self.low, self.high = coins, 0.0, 1.0

    def accept(self, chance: float) -> bool:
        at = min(max(float(chance), self.low), self.high)
        accepted: bool = self.coins.accept((at - self.low) / (self.high - self.low))
        if accepted:
            self.high = at
        else:
            self.low = at
        return accepted

    def token(self, probs: Tensor, position: int) -> int:
        token: int = self.coins.token(probs, position)
        return token


def residual(p: Tensor, q: Tensor) -> Tensor:
    """(p - q)+ normalised; p itself where nothing is left, which then is never reached."""
    rest = torch.clamp_min(p - q, 0.0)
    return rest / rest.sum() if rest.sum() > 0 else p
