"""The Monte-Carlo tree search of ADED's reference code (our notes on aded, 3B steps 3 to 5).

Faithful but for two repairs. Reward: the reference looks an edge up by the wrong half of the state
pair, so that its reward is 1 nearly always; here it is the intended 1 + sum of the edges' weights.
Order: children stand by (-weight, token id) and the dice are the caller's, where the reference
follows the order of a hash map, which differs from run to run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from foretoken.draft.trigram_table import Row
from foretoken.tree import DraftTree
from foretoken.types import Budget

Read = Callable[[int, int], Row]


@dataclass(frozen=True)
class Constants:
    """The reference's constants, by the brief's names."""

    c1: float = 32.0
    c2: float = 8.0
    iterations: int = 150
    length: int = 4  # states of a searched path, the root included
    keep: int = 24  # paths


@dataclass(slots=True)
class _Node:
    token: int
    weight: float  # of the edge that leads here
    path: tuple[int, ...]  # tokens below the root
    visits: int = 0
    reward: float = 0.0
    children: list[_Node] = field(default_factory=list)


def search(read: Read, a: int, b: int, dice: random.Random, how: Constants) -> list[list[int]]:
    """Draft paths below the pair (a, b), most visited first, each with one greedy token added."""
    root = _Node(b, 0.0, ())
    nodes = [root]
    for _ in range(how.iterations):
        trail = _select(root, how)
        leaf = trail[-1]
        if len(trail) < how.length and not leaf.children:
            row = read(_last(a, b, leaf.path)[0], leaf.token)
            leaf.children = [
                _Node(t, w, (*leaf.path, t)) for t, w in zip(row[0], row[1], strict=True)
            ]
            nodes += leaf.children
            if leaf.children:
                trail.append(leaf.children[-1])
        edges = sum(node.weight for node in trail[1:])
        reward = 1.0 + edges + _roll_out(read, _last(a, b, trail[-1].path), len(trail), dice, how)
        for node in trail:
            node.visits += 1
            node.reward += reward
    best = sorted(nodes, key=lambda node: -node.visits)[: how.keep]
    paths = [list(node.path) for node in best]
    for path in paths:
        path.extend(read(*_last(a, b, path))[0][:1])
    return [list(path) for path in dict.fromkeys(tuple(path) for path in paths) if path]


def to_tree(paths: list[list[int]], budget: Budget) -> DraftTree:
    """The paths cut to the budget as the reference does: the path with most distinct tokens goes
    first, shared prefixes counted once per path; then breadth first up to the cap."""
    paths = sorted((path[: budget.depth] for path in paths), key=lambda path: len(set(path)))
    while paths and sum(len(set(path)) for path in paths) > budget.nodes:
        paths.pop()
    by_depth = [p[:d] for d in range(1, 1 + max(map(len, paths), default=0)) for p in paths]
    return DraftTree.from_paths(by_depth).first(budget.nodes)


def _select(root: _Node, how: Constants) -> list[_Node]:
    trail = [root]
    while trail[-1].children and len(trail) < how.length:
        parent = trail[-1]
        explore = how.c1 + math.log((parent.visits + how.c2 + 1.0) / how.c2)
        scale = explore * math.sqrt(parent.visits)
        best, best_score = parent.children[0], -math.inf
        for child in parent.children:
            n = child.visits
            if n == 0:
                best = child
                break
            score = child.reward / n + scale * child.weight / (1.0 + n)
            if score > best_score:
                best, best_score = child, score
        trail.append(best)
    return trail


def _roll_out(
    read: Read, pair: tuple[int, int], length: int, dice: random.Random, how: Constants
) -> float:
    """Sum of the edge weights of a random walk from `pair` to the full path length."""
    total = 0.0
    while length < how.length:
        tokens, weights = read(*pair)
        if not tokens:
            break
        at = dice.choices(range(len(tokens)), weights)[0]
        total += weights[at]
        pair = (pair[1], tokens[at])
        length += 1
    return total


def _last(a: int, b: int, path: list[int] | tuple[int, ...]) -> tuple[int, int]:
    """The last pair of the context (a, b) followed by `path`."""
    if len(path) > 1:
        return path[-2], path[-1]
    return (b, path[0]) if path else (a, b)
