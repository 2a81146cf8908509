"""What a verifier is: the rule that decides which drafts stand. Pure mathematics, no state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from foretoken.prompt.sampling import PositionRandom, TargetRows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Verdict


class Verifier(ABC):
    """Laws (tests/contract): the exactness claim holds, by enumeration; the path is a path from
    the root; only rows on that path and their children are normalised."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    exact: ClassVar[frozenset[str]]  # subset of {"greedy", "sampling"}
    accepts: ClassVar[frozenset[Kind]]

    @abstractmethod
    def judge(self, tree: DraftTree, rows: TargetRows, random: PositionRandom) -> Verdict:
        """Which nodes stand, and the target's own token after them.

        rows: the target's distribution after the root and after each node, made when asked for.
        random: numbers tied to (request seed, position), so that text does not depend on company.
        """
