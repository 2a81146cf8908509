"""What a verifier is: the rule that decides which drafts stand. Pure mathematics, no state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Verdict

if TYPE_CHECKING:
    from foretoken.draft.base import Drafter


class Verifier(ABC):
    """Laws (tests/contract): the exactness claim holds, by enumeration; the path is a path from
    the root; only rows that the rule reaches are normalised; nothing that it is given changes."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    exact: ClassVar[frozenset[str]]  # subset of {"greedy", "sampling"}
    accepts: ClassVar[frozenset[Kind]]
    looks_ahead: ClassVar[bool] = False  # asks for rows below nodes that may not stand
    max_vocab: ClassVar[int | None] = None  # the largest vocabulary that it serves; None: any
    # weighs a node's draws as a set, so that their number must not hang on what they are
    needs_settled: ClassVar[bool] = False

    @classmethod
    def fits(cls, drafter: Drafter | type[Drafter], turns: bool = False) -> bool:
        """Whether it judges such drafts without bias. turns: a policy decides how many children a
        node has while they are drawn."""
        drawn = drafter.emits != "point"
        counted = drafter.settles and not turns
        return drafter.emits in cls.accepts and not (drawn and cls.needs_settled and not counted)

    def judge(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """Which nodes stand, and the target's own token after them.

        rows: the target's distribution after the root and after each node, made when asked for.
        coins: chance tied to (request seed, position), so that text does not depend on company.
        Greedy text has one right token at each place, and without a draft there is nothing to
        weigh: both are followed, whatever the rule.
        """
        if rows.greedy or not len(tree):
            return follow(tree, rows, coins)
        return self.decide(tree, rows, coins)

    @abstractmethod
    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """`judge` for a draft of at least one node and a target that draws its tokens."""


def follow(
    tree: DraftTree, rows: TargetRows, coins: Coins, at: int = -1, path: tuple[int, ...] = ()
) -> Verdict:
    """From node `at` on, take the target's own token and follow it as long as it was drafted.

    Stops at the end of the text; path: the nodes that stand already.
    """
    while True:
        token = rows.token(at, coins)
        child = next((c for c in tree.children[at + 1] if tree.tokens[c] == token), None)
        if child is None or rows.ends(token):
            return Verdict(path, token)
        path, at = (*path, child), child
