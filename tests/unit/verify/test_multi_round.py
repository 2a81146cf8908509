"""multi-round: exact for independent draws; equal draws share a node and count each."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foretoken.tree import DraftTree
from foretoken.verify.multi_round import MultiRound
from foretoken.verify.token import Token
from tests.exact.enumeration import (
    SHAPES,
    Rows,
    distance,
    drafts,
    law,
    model,
    outcomes,
    sequences,
)  # fmt: skip
from tests.exact.every_draft import Context, Table
from tests.unit.verify.test_siblings import EXACT, accepted, siblings_law, worst


def test_the_law_is_the_targets() -> None:
    assert worst(MultiRound(), "sampled") <= EXACT


@pytest.mark.parametrize(("k", "depth", "vocab"), [(2, 2, 3), (3, 2, 2), (2, 3, 2)])
def test_independent_sequences_keep_the_law(k: int, depth: int, vocab: int) -> None:
    q = model(vocab, depth, 5)
    p, trees = model(vocab, depth, 6, q, 0.3), list(sequences(q, k, depth))
    found, mean = law(MultiRound(), p, trees, depth)
    assert distance(p, found, depth + 1) <= EXACT
    assert mean > accepted(Token(), p, trees, depth) + 0.01


# --- draws that share a node, against the same rule on draws that share nothing ----------------


def unmerged(tree: DraftTree, draw: int = -1) -> list[tuple[int, Any]]:
    """The draws as nested lists: (token, what was drawn below this very draw)."""
    return [
        (tree.tokens[tree.draws.nodes[d]], unmerged(tree, d)) for d in tree.draws.children[draw + 1]
    ]


def slow(
    forest: list[tuple[int, Any]], p: Table, q: Table, context: Context
) -> Iterator[tuple[Context, float]]:
    """(what is written, its probability); after a token, all draws of that token go on."""
    left, reached = p[context], 1.0
    for token, _ in forest:
        chance = min(1.0, float(left[token] / q[context][token]))
        if chance > 0.0:
            below = [child for t, children in forest if t == token for child in children]
            for text, mass in slow(below, p, q, (*context, token)):
                yield text, reached * chance * mass
        reached *= 1.0 - chance
        rest: Tensor = (left - q[context]).clamp_min(0.0)
        left = rest / rest.sum() if rest.sum() > 1e-14 else left
        if reached < 1e-14:
            return
    for token, mass in enumerate(left.tolist()):
        yield (*context, token), reached * mass


def written(rule: MultiRound, tree: DraftTree, p: Table) -> dict[Context, float]:
    out: dict[Context, float] = {}
    rows = Rows(p, tree)
    for verdict, chance in outcomes(lambda coins: rule.judge(tree, rows, coins)):
        text = (*(tree.tokens[i] for i in verdict.path), verdict.bonus)
        out[text] = out.get(text, 0.0) + chance
    return out


def test_merged_draws_survive_together() -> None:
    """Draft by draft the same law as of draws that stand alone, for each that shares a node."""
    shared = 0
    for vocab, tall in ((2, False), (3, False), (2, True)):
        q = model(vocab, 3, 7)
        p = model(vocab, 3, 8, q, 0.5)
        made = sequences(q, 2, 3) if tall else drafts(q, "sampled", SHAPES["2x2"])
        for tree, _ in list(made)[:200]:
            expected: dict[Context, float] = {}
            for text, mass in slow(unmerged(tree), p, q, ()):
                expected[text] = expected.get(text, 0.0) + mass
            found = written(MultiRound(), tree, p)
            for text in {*expected, *found}:
                assert found.get(text, 0.0) == pytest.approx(expected.get(text, 0.0), abs=EXACT)
            shared += bool(tree.draw_nodes)
    assert shared > 100


class Deduplicated(MultiRound):
    """Planted fault: equal draws are tested once."""

    def decide(self, tree, rows, coins):
        return super().decide(replace(tree, draw_nodes=(), draw_parents=()), rows, coins)


class Alone(MultiRound):
    """Only the draw that was accepted goes on: exact, but it forgets drafts."""

    def decide(self, tree, rows, coins):
        first: dict[tuple[int, int], int] = {}
        for draw, (node, parent) in enumerate(
            zip(tree.draws.nodes, tree.draw_parents, strict=True)
        ):
            first.setdefault((node, parent), draw)
        heirs = set(first.values())
        # a later draw of the same node under the same parent is tested, and has no children
        kept = [d for d, above in enumerate(tree.draw_parents) if above < 0 or above in heirs]
        new = {-1: -1, **{d: i for i, d in enumerate(kept)}}
        nodes = [tree.draw_nodes[d] for d in kept]
        cut = replace(
            tree, draw_nodes=nodes, draw_parents=[new[tree.draw_parents[d]] for d in kept]
        )
        return super().decide(cut, rows, coins)


def test_multiplicity_counts() -> None:
    found = []
    for seed in range(8):
        q = model(3, 1, seed)
        p, trees = model(3, 1, seed + 20, q, 0.3), list(drafts(q, "sampled", SHAPES["fan3"]))
        assert distance(p, law(MultiRound(), p, trees, 1)[0], 2) <= EXACT
        found.append(distance(p, law(Deduplicated(), p, trees, 1)[0], 2))
    assert max(found) > 0.005


def test_children_of_later_draws_are_not_forgotten() -> None:
    q = model(2, 2, 9)
    p = model(2, 2, 10, q, 0.3)
    trees = [(t, w) for t, w in drafts(q, "sampled", SHAPES["2x1"]) if t.draw_nodes]
    assert accepted(MultiRound(), p, trees, 2) > accepted(Alone(), p, trees, 2) + 0.005


# --- how much it accepts ------------------------------------------------------------------------


def test_two_draws_do_not_cover_two_tokens() -> None:
    """q = (1/2, 1/2), p = (1, 0): both draws may be the wrong one."""
    p, q = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double()
    assert siblings_law(MultiRound(), p, q, "sampled", 2) == pytest.approx(0.75, abs=EXACT)


def test_more_draws_accept_more() -> None:
    for seed in range(10):
        p, q = model(3, 0, seed)[()], model(3, 0, seed + 50)[()]
        rates = [siblings_law(MultiRound(), p, q, "sampled", k) for k in (1, 2, 3)]
        assert rates == sorted(rates)
        assert rates[0] == pytest.approx(float(torch.minimum(p, q).sum()), abs=EXACT)


def test_siblings_may_come_from_several_drafters() -> None:
    """Each draw has its own law; the tests use them in turn. Equal draws do not share a node."""
    p, laws = model(3, 1, 1), torch.stack([model(3, 0, seed)[()] for seed in (2, 3)])
    trees = [
        (DraftTree([a, b], [-1, -1], (), "sampled", laws, [0, 1]), float(laws[0, a] * laws[1, b]))
        for a in range(3) for b in range(3)
    ]  # fmt: skip
    assert distance(p, law(MultiRound(), p, trees, 1)[0], 2) <= EXACT
