"""The likeliest tree of a row model: which B nodes have the largest joint probability?

If the rows are right, the sum of the joint probabilities is the expected number of accepted tokens,
so that this is the best tree of its size (our notes on aded, 3C).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import heappop, heappush

from foretoken.draft.trigram_table import Row
from foretoken.tree import DraftTree
from foretoken.types import Budget


def best_first(
    read: Callable[[int, int], Row], a: int, b: int, budget: Budget, eos: Collection[int] = ()
) -> DraftTree:
    """The tree below the pair (a, b), likeliest node first; nothing hangs below an `eos`.

    read: row of a pair, likeliest successor first, probabilities at most 1. A popped node pushes
    its next sibling and its first child only, so that B nodes cost O(B log B).
    """
    tokens: list[int] = []
    parents: list[int] = []
    q: list[float] = []
    nodes, deepest, least = budget.nodes, budget.depth, budget.min_prob
    row = read(a, b)
    if nodes < 1 or deepest < 1 or not row[0]:
        return DraftTree()
    # (-joint, order of arrival, parent, joint of the parent, depth, row, place in it, last token)
    serial = 0
    heap = [(-row[1][0], serial, -1, 1.0, 1, row, 0, b)]
    while heap:
        negative, _, parent, above, depth, row, place, last = heappop(heap)
        joint = -negative
        if joint < least or joint <= 0.0:
            break
        successors, probs = row
        token = successors[place]
        node = len(tokens)
        tokens.append(token)
        parents.append(parent)
        q.append(probs[place])
        if node + 1 == nodes:
            break
        place += 1
        if place < len(successors):
            serial += 1
            heappush(heap, (-above * probs[place], serial, parent, above, depth, row, place, last))
        if depth < deepest and token not in eos:
            below = read(last, token)
            if below[0]:
                serial += 1
                heappush(
                    heap,
                    (-joint * below[1][0], serial, node, joint, depth + 1, below, 0, token),
                )
    return DraftTree(tokens, parents, q)
