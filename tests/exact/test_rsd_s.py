"""RSD-S is exact: stochastic beam search with a rule for siblings drawn without replacement.

Scores are continuous, so trees are sampled, in bulk, by the functions that the drafter uses; each
distinct tree is then judged with every coin followed both ways. The text must have the target's
law up to the noise of the sample, and must not where siblings stand in the wrong order.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, power_divergence

from foretoken import registry
from foretoken.draft.gumbel import conditioned, exponential, survivors, without_replacement
from foretoken.draft.lm_rsd_s import StochasticBeam
from foretoken.tree import DraftTree
from foretoken.types import Budget
from tests.exact.enumeration import distance, law, model

V, DEPTH, TREES = 3, 2, 200_000
NOISE, BIAS = 0.003, 0.02  # total variation that the sample's noise stays below, and a bias above
ALARM = 1e-3
Key = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]  # first tokens; below each, in order


@cache
def pair(seed: int) -> tuple[dict, dict]:
    """(p, q): rows of every context up to two tokens."""
    return model(V, DEPTH, seed), model(V, DEPTH - 1, seed + 100)


@cache
def sampled(width: int, seed: int) -> dict[Key, float]:
    """Distinct trees of two levels with their frequency."""
    q, generator = pair(seed)[1], torch.Generator().manual_seed(seed)
    root = q[()].expand(TREES, -1)
    k = min(width, V)
    first, left = without_replacement(root, k, generator)
    zero = np.zeros(TREES)
    scores = conditioned(zero, zero, left, exponential(left.shape, generator))
    below = torch.stack([q[(x,)] for x in range(V)])
    second, left = without_replacement(below[first.ravel()], k, generator)
    left = left.reshape(TREES, k, k)
    above = np.log(q[()].numpy())[first]
    children = conditioned(above, scores, left, exponential(left.shape, generator))
    assert np.abs(children[..., 0] - scores).max() < 1e-9
    best = np.sort(survivors(children.reshape(TREES, -1), width), -1)  # by parent, in drawn order
    tokens = np.take_along_axis(second.reshape(TREES, -1), best, -1)
    packed, counts = np.unique(np.hstack([first, best // k, tokens]), axis=0, return_counts=True)
    out: dict[Key, float] = {}
    for row, count in zip(packed.tolist(), counts.tolist(), strict=True):
        parents, drawn = row[k : k + len(best[0])], row[k + len(best[0]) :]
        groups = tuple(
            tuple(t for p, t in zip(parents, drawn, strict=True) if p == i) for i in range(k)
        )
        out[tuple(row[:k]), groups] = count / TREES
    return out


def tree(key: Key, q: dict, by_probability: bool = False) -> DraftTree:
    """The draft of a key; `by_probability` is the fault: siblings as q ranks them."""
    first, below = key
    pairs = list(zip(first, below, strict=True))
    if by_probability:
        pairs.sort(key=lambda pair: -q[()][pair[0]])
    tokens, parents, rows = [x for x, _ in pairs], [-1] * len(pairs), [0] * len(pairs)
    for i, (x, drawn) in enumerate(pairs):
        tokens += sorted(drawn, key=lambda t: -q[(x,)][t]) if by_probability else drawn
        parents += [i] * len(drawn)
        rows += [i + 1] * len(drawn)
    dist = torch.stack([q[()], *(q[(x,)] for x, _ in pairs)])
    laws = [float(dist[row, t]) for row, t in zip(rows, tokens, strict=True)]
    return DraftTree(tokens, parents, laws, "without_replacement", dist, rows)


def bias(rule: str, width: int, seed: int, by_probability: bool = False) -> float:
    p, q = pair(seed)
    drafts = [(tree(key, q, by_probability), w) for key, w in sampled(width, seed).items()]
    found, _ = law(registry.find("verifier", rule)(), p, drafts, DEPTH)
    return distance(p, found, DEPTH + 1)


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("rule", ["recursive", "traversal"])
@pytest.mark.parametrize("seed", [1, 11])
def test_exact_in_drawn_order_only(rule: str, width: int, seed: int) -> None:
    assert bias(rule, width, seed) < NOISE
    assert bias(rule, width, seed, by_probability=True) > BIAS, "the test would not see a bias"


def test_a_rule_that_weighs_siblings_as_a_set_is_biased_by_a_beam() -> None:
    """How many survive says something of the first ones: `build` refuses the pair."""
    assert bias("optimal", 3, 5) > 3 * NOISE
    assert not registry.find("verifier", "optimal").fits(registry.find("drafter", "lm-rsd-s"))


def test_the_best_sequence_is_a_plain_draw() -> None:
    """With any width the sequence of the best score has probability q, and is not all there is."""
    q = pair(1)[1]
    found: Counter[tuple[int, int]] = Counter()
    for key, weight in sampled(3, 1).items():
        # the best first token has the best sequence, whose second token was drawn first
        found[key[0][0], key[1][0][0]] += round(weight * TREES)
    cells = [(x, y) for x in range(V) for y in range(V)]
    expected = [float(q[()][x] * q[(x,)][y]) * TREES for x, y in cells]
    assert power_divergence([found[c] for c in cells], expected)[1] > ALARM


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_drafter_grows_the_same_trees(width: int) -> None:
    """Frequencies of the drafter's own trees against those made in bulk."""
    q, count = pair(1)[1], 1500
    keys: Counter[Key] = Counter()
    for seed in range(count):
        growth = StochasticBeam(
            Budget(9, DEPTH), torch.Generator().manual_seed(seed), False, width=width
        )
        while growth.frontier:
            rows = [q[tuple(growth.tokens[node : node + 1])] for node in growth.frontier]
            growth.grow(torch.stack(rows).float().log())
        children = growth.tree().children
        token = growth.tokens.__getitem__
        groups = tuple(tuple(map(token, children[node + 1])) for node in children[0])
        keys[tuple(map(token, children[0])), groups] += 1
    bulk = sampled(width, 1)
    common = [key for key in bulk if bulk[key] * count >= 5]
    columns = [[keys[key] for key in common], [bulk[key] * TREES for key in common]]
    rest = [count - sum(columns[0]), TREES - sum(columns[1])]
    if rest[1] * count > 5 * TREES:
        columns = [[*column, r] for column, r in zip(columns, rest, strict=True)]
    else:
        assert rest[0] <= 5 + 5 * rest[1] * count / TREES
    assert chi2_contingency(columns).pvalue > ALARM
