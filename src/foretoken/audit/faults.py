"""Faults that the audit must find: rules that are wrong on purpose, each as it is met in practice.

They judge a fixed tree of the likeliest continuations, so that much is accepted and much is at
stake. `Walk` on the same tree is the control: it is exact and must pass. None of them is
registered: nobody can decode with them by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from foretoken.audit.law import Law, Outcome
from foretoken.audit.ours import Ours
from foretoken.draft.base import Context, Drafter
from foretoken.engine.build import build
from foretoken.engine.engine import Engine
from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Options, Sampling, Session, Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.walk import Walk

NODES = 12  # of the tree that is judged
GRID = 1 << 12  # how finely a number that is used twice is read
LEAST = 0.3  # share of the likeliest token's probability that the threshold rule asks for


class Likely(Drafter):
    """Proposes the likeliest continuations of one prompt, as the reference knows them."""

    name = "likely"
    summary = "the likeliest continuations of one prompt (audits only)"
    source = "-"
    testing = True

    def __init__(self, law: Law, nodes: int, context: Context) -> None:
        super().__init__(Options(), context)
        self.prompt = law.prompt
        self.texts = likeliest(law, nodes)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """Those that go on from what was written."""
        written = tuple(session.output)
        if list(session.request.prompt) != self.prompt:
            return DraftTree()
        n = len(written)
        paths = [text[n:] for text in self.texts if text[:n] == written and len(text) > n]
        return DraftTree.from_paths(p for p in paths if len(p) <= budget.depth).first(budget.nodes)


def likeliest(law: Law, nodes: int) -> list[Outcome]:
    """The likeliest beginnings of any length, shorter ones before their continuations."""
    open_texts: dict[Outcome, float] = {(): 1.0}
    found: list[Outcome] = []
    frontier: dict[Outcome, float] = {}
    while len(found) < nodes:
        for text, p in open_texts.items():
            frontier |= {(*text, token): p * q for token, q in law.best(text)[:nodes]}
        if not frontier:
            break
        best = max(frontier, key=lambda text: frontier[text])
        mass = frontier.pop(best)
        found.append(best)
        open_texts = {} if law.final(best) else {best: mass}
    return found


class Fault(Verifier):
    """What the rules below share."""

    source = "-"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy"})
    accepts: ClassVar[frozenset[Kind]] = frozenset({"point"})


class PerLeaf(Fault):
    """Every leaf has draws of its own and the longest path wins (REST, reference code)."""

    name = "per-leaf draw"
    summary = "every leaf draws anew, the longest accepted path wins"

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        leaves = [i for i in range(len(tree)) if not tree.children[i + 1]]
        tries = [self._try(tree, rows, coins, leaf) for leaf in leaves]
        return max(tries, key=lambda verdict: len(verdict.path))

    @staticmethod
    def _try(tree: DraftTree, rows: TargetRows, coins: Coins, leaf: int) -> Verdict:
        path: tuple[int, ...] = ()
        for node in [*tree.path(leaf), -1]:
            at = path[-1] if path else -1
            # a number of its own: that of a place far behind the text
            token = coins.token(rows.probs(at), rows.position(at) + 100_003 * (leaf + 1))
            if node < 0 or token != tree.tokens[node] or rows.ends(token):
                return Verdict(path, token)
            path = (*path, node)
        raise AssertionError("the last turn returns")


class OneNumber(Fault):
    """The uniform number that refused a draft is used again to draw in its place."""

    name = "number used twice"
    summary = "one random number accepts a draft and, if it refuses, draws the next token"

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        path: tuple[int, ...] = ()
        while True:
            at = path[-1] if path else -1
            probs, place = rows.probs(at), rows.position(at)
            child = _first_child(tree, rows, at)
            # `coins` gives tokens and no numbers; a token of a flat law is the number, on a grid
            number = coins.token(torch.ones(GRID), place) / GRID
            if child is None or number >= float(probs[tree.tokens[child]]):
                rest = probs if child is None else _without(probs, tree.tokens[child])
                return Verdict(path, coins.token(rest, place))
            path = (*path, child)


class StaleNumber(Fault):
    """All tokens of a text are drawn with one number: the generator is not moved on."""

    name = "number kept"
    summary = "every token is drawn with the same random number"

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        path: tuple[int, ...] = ()
        while True:
            at = path[-1] if path else -1
            token = coins.token(rows.probs(at), 0)
            child = next((c for c in tree.children[at + 1] if tree.tokens[c] == token), None)
            if child is None or rows.ends(token):
                return Verdict(path, token)
            path = (*path, child)


class Threshold(Fault):
    """A draft stands if it is likely enough, whatever was drawn (typical acceptance and kin)."""

    name = "threshold"
    summary = f"a draft stands if p >= {LEAST} x the likeliest token's p"

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        path: tuple[int, ...] = ()
        while True:
            at = path[-1] if path else -1
            probs, child = rows.probs(at), _first_child(tree, rows, at)
            if child is None or float(probs[tree.tokens[child]]) < LEAST * float(probs.max()):
                return Verdict(path, coins.token(probs, rows.position(at)))
            path = (*path, child)


def _first_child(tree: DraftTree, rows: TargetRows, at: int) -> int | None:
    """The first drafted token; none that ends the text, behind which nothing may be asked for."""
    return next((c for c in tree.children[at + 1] if not rows.ends(tree.tokens[c])), None)


def _without(probs: Tensor, token: int) -> Tensor:
    rest = probs.clone()
    rest[token] = 0.0
    return rest if float(rest.sum()) > 0 else probs


FAULTS: tuple[type[Fault], ...] = (PerLeaf, OneNumber, StaleNumber, Threshold)


def planted(engine: Engine, law: Law, sampling: Sampling) -> Sequence[tuple[Ours, str, bool]]:
    """(engine, what it does, whether it is lossy): every fault, and the control."""
    drafter = Likely(law, NODES, engine.context)
    rules: list[tuple[Verifier, bool]] = [(Walk(), False), *((fault(), True) for fault in FAULTS)]
    made = []
    for rule, lossy in rules:
        method = build(
            engine.target, engine.context, drafter, "fixed", rule, None, {"nodes": NODES}
        )
        name = rule.name if lossy else "control"
        what = rule.summary if lossy else f"no fault: {rule.summary}"
        made.append((Ours(name, engine, method, sampling), what, lossy))
    return made
