"""How many nodes each session of a step has scored, where all share one forward.

Sessions that ride together are as wide as the widest of them, so what is chosen is that width: the
likeliest nodes of every session up to there cost nothing more.
Source: own; after Sequoia 2402.12374, sec. 4.3, for a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def by_joint(joints: Sequence[float]) -> list[int]:
    """Nodes, the likeliest first; of equals the earlier, so that parents come before children."""
    return sorted(range(len(joints)), key=lambda n: (-joints[n], n))


def best_width(ranked: Sequence[Sequence[float]], kept: float, cost: Callable[[int], float]) -> int:
    """The width with the most kept x expected tokens - cost: the best of all widths, not the first
    that fails, since the cost may have steps. 0 where none pays.

    ranked: of each session, the joint probabilities of its nodes, falling. kept: accepted per
    promised token of late. cost: in tokens, of so many nodes for every session.
    """
    expected, best, taken = 0.0, 0.0, 0
    for width in range(1, max(map(len, ranked), default=0) + 1):
        expected += sum(joints[width - 1] for joints in ranked if width <= len(joints))
        value = kept * expected - cost(width)
        if value > best:
            best, taken = value, width
    return taken
