"""How a draft branches, where a policy decides it: what travels in `Budget.shape`.

A draft is made of *slots*: the first child of a node, its second, and so on. A shape says what a
slot is worth, and the `Budget.nodes` slots of largest worth are the draft. The worth of a slot may
look at its ancestors, at the model's row there and at earlier siblings, never at the token that
will stand in it (U0 of our notes on length-policies). The drafter sees to it that no slot is worth
more than its parent's or its earlier sibling's. So whatever outranks a slot was drawn without
looking at that slot's token, and leaving the slot out is no bias: the draft is what drawing one
slot after the other, the worthiest first, would give, at one forward of the model per level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """A node of a growing draft, as a shape sees it; the root is `ROOT`."""

    joint: float  # probability of its path under the drafter
    ranks: tuple[int, ...]  # which child of its parent each node of its path is; the first is 0

    @property
    def depth(self) -> int:
        """0 for the root."""
        return len(self.ranks)


ROOT = Place(1.0, ())
SURE = (1.0,)  # the likeliest row that there is


class Shape(ABC):
    """What a policy may ask of a drafter that gives "shapes".

    A policy whose shapes are not `settled` needs "turns" as well: the drafter must draw siblings
    one after the other, and the rule must judge each by itself.
    """

    width: int = 1 << 30  # nodes of a level that may have children: the worthiest
    # Whether `worth` looks at ranks alone. Then the number of children of every node is known
    # before anything is drawn, which rules need that weigh siblings as a set.
    settled: bool = False

    @abstractmethod
    def worth(self, at: Place, rank: int, likeliest: Sequence[float], left: float | None) -> float:
        """What the child of this rank is worth below `at`, in expected accepted tokens or anything
        else that grows with them; 0 or less: there is none, and no later one.

        likeliest: the row's largest probabilities, falling; entry `rank` is the child's own where
        children are fixed. left: share of the row that earlier siblings left, where they are drawn;
        None where children are fixed. Asked with `SURE` and nothing drawn, too, to know if
        the node's row is worth a forward: a sure row must be worth no less than any other.
        """

    def within(self, nodes: int, depth: int) -> Shape:  # noqa: ARG002
        """The shape for so many nodes and levels; a settled one must have no more of them."""
        return self

    def goes_on(self, before: float, now: float) -> bool:  # noqa: ARG002
        """Whether to grow another level; before, now: worth of the draft without and with the last.

        Asked where children are fixed. Where they are drawn, tokens that may yet be left out would
        have a say in what replaces them.
        """
        return True
