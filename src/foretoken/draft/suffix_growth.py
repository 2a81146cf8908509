"""Drafts out of a counted suffix tree: what may follow a match, likeliest first.

Source: SuffixDecoding, Oliaro et al., arXiv 2411.04975 (methods/modelfree-extras.md, C): path mode
follows the likeliest child, tree mode takes the likeliest nodes. A child's share is count(child) /
count(parent), 1 inside an edge; its probability is the share times what shares are worth after so
long a match. The score of a draft is the sum of its joint probabilities, which is the number of its
tokens that are expected to stand. Below a leaf, where nothing is counted any more, the text that
stands there goes on with share 1, so that drafts may be longer than the tree is deep: there the
authors' drafts end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from foretoken.draft.suffix_tree import NOWHERE, SuffixTree

WIDE = 64  # children


class Place(NamedTuple):
    """Where a match ends: after `at` tokens of the path to `node`. own: places that count there
    but are not followed by anything yet, which is the tail of the growing text itself."""

    tree: SuffixTree
    node: int
    at: int
    own: int

    @property
    def times(self) -> int:
        """How many times the match was written before."""
        return self.tree.count[self.node] - self.own


class Room(NamedTuple):
    """What a draft may take up."""

    nodes: int
    depth: int
    least: float  # joint probability
    eos: Collection[int]  # nothing stands below one


class Guess(NamedTuple):
    """A draft, parents before children."""

    tokens: list[int]
    parents: list[int]
    q: list[float]
    depths: list[int]  # 0 for children of the root
    score: float


def follow(place: Place, room: Room, worth: Sequence[float]) -> Guess:
    """The likeliest path. worth: of shares, by depth; the last one holds from there on."""
    tree, node, at, own = place
    tokens, q = list[int](), list[float]()
    joint, score, last = 1.0, 0.0, len(worth) - 1
    most = min(room.nodes, room.depth)
    while len(tokens) < most:
        depth, share = len(tokens), 1.0
        if at >= tree.end[node] and tree.below[node]:
            share = 1.0 / (tree.count[node] - own)
            node, own = tree.best[node], 0
            share *= tree.count[node]
        there = tree.start[node] + at
        chance = share * worth[depth if depth < last else last]
        joint *= chance
        if joint < room.least or there >= len(tree.text[node]):
            break
        tokens.append(tree.text[node][there])
        q.append(chance)
        score += joint
        at += 1
        if tokens[-1] in room.eos:
            break
    n = len(tokens)
    return Guess(tokens, list(range(-1, n - 1)), q, list(range(n)), score)


def spread(place: Place, room: Room, worth: Sequence[float]) -> Guess:
    """The likeliest tree: nodes of the largest joint probability. worth: as in `follow`."""
    tree, _, _, own = place
    texts, starts, ends, below = tree.text, tree.start, tree.end, tree.below
    tokens, parents, q, depths = list[int](), list[int](), list[float](), list[int]()
    score, serial, last, least = 0.0, 0, len(worth) - 1, room.least
    # (-joint, order of arrival, q, token, parent, depth, node, tokens of its path)
    heap: list[tuple[float, int, float, int, int, int, int, int]] = []
    negative, token, depth, node, at = -1.0, NOWHERE, -1, place.node, place.at
    while True:
        depth, parent = depth + 1, len(tokens) - 1
        sure = worth[depth if depth < last else last]
        most = negative * sure  # joint probability of a sure child, negative
        if depth < room.depth and most <= -least and token not in room.eos:
            if at < ends[node] or not below[node]:  # inside an edge, or below the last count
                there = starts[node] + at
                if there < len(texts[node]):
                    serial += 1
                    token = texts[node][there]
                    heappush(heap, (most, serial, sure, token, parent, depth, node, at + 1))
            else:
                for share, token, child in likely(tree, node, own, -least / most):
                    serial += 1
                    item = (share * most, serial, share * sure, token, parent, depth, child, at + 1)
                    heappush(heap, item)
        if not heap or len(tokens) == room.nodes:
            return Guess(tokens, parents, q, depths, score)
        negative, _, chance, token, parent, depth, node, at = heappop(heap)
        tokens.append(token)
        parents.append(parent)
        q.append(chance)
        depths.append(depth)
        score -= negative
        own = place.own if node == place.node else 0


def likely(tree: SuffixTree, node: int, own: int, least: float) -> list[tuple[float, int, int]]:
    """(share, token, child) of the children with a share of `least` or more, likeliest first. Of
    very many only the best is looked at: they follow short matches, which draft little."""
    count, best, children = tree.count, tree.best[node], tree.below[node]
    assert children is not None
    total = count[node] - own
    need = least * total
    if total - count[best] < need or len(children) > WIDE:  # no other has enough, or is looked at
        token = tree.text[best][tree.start[best] + tree.end[node]]
        return [(count[best] / total, token, best)] if count[best] >= need else []
    kept = [(count[c] / total, token, c) for token, c in children.items() if count[c] >= need]
    return sorted(kept, reverse=True)


def top(place: Place) -> tuple[float, int] | None:
    """(share, token) of what most often followed a match; None if nothing did."""
    tree, node, at, own = place
    share = 1.0
    if at >= tree.end[node] and tree.below[node]:
        child = tree.best[node]
        share, node = tree.count[child] / (tree.count[node] - own), child
    there = tree.start[node] + at
    return (share, tree.text[node][there]) if there < len(tree.text[node]) else None


def hope(worth: Sequence[float], nodes: int) -> float:
    """The most that a draft of so many nodes can score: siblings have a share of 1 at most."""
    joint, score = 1.0, 0.0
    for chance in worth[:nodes]:
        joint *= chance
        score += joint
    for _ in range(nodes - len(worth)):
        joint *= worth[-1]
        score += joint
    return score
