"""Rules for the tests of the bench: one that is lossy, one that tries children one by one."""

from __future__ import annotations

from typing import ClassVar

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier

HERE = "tests.unit.bench.stand_ins"


class Greedy(Verifier):
    """Accepts the first child as long as there is one: wrong, and it says so."""

    name, summary, source = "first-child", "accept what stands first", "-"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy"})
    accepts: ClassVar[frozenset[Kind]] = frozenset({"point"})

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        path: tuple[int, ...] = ()
        at = -1
        while tree.children[at + 1]:
            at = tree.children[at + 1][0]
            path = (*path, at)
        return Verdict(path, rows.token(at, coins))


class OneByOne(Verifier):
    """Each fixed child stands with the mass that the target still has for it. Exact."""

    name, summary, source = "one-by-one", "try fixed children in turn", "-"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy", "sampling"})
    accepts: ClassVar[frozenset[Kind]] = frozenset({"point"})

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        path: tuple[int, ...] = ()
        at = -1
        while True:
            left, stood = rows.probs(at).clone(), None
            for child in tree.children[at + 1]:
                token = tree.tokens[child]
                if coins.accept(float(left[token] / left.sum())):
                    stood = child
                    break
                left[token] = 0.0
            if stood is None:
                return Verdict(path, coins.token(left, rows.position(at)))
            path, at = (*path, stood), stood
