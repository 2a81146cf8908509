"""recursive: exact for siblings drawn without replacement; the order and the renewal of q count."""

from dataclasses import replace

import pytest
import torch

from foretoken.verify.multi_round import MultiRound
from foretoken.verify.recursive import Recursive
from foretoken.verify.siblings import Laws
from tests.exact.enumeration import SHAPES, distance, drafts, height, law, model
from tests.unit.verify.test_siblings import EXACT, siblings_law, worst

KIND = "without_replacement"


def test_the_law_is_the_targets() -> None:
    assert worst(Recursive(), KIND) <= EXACT


@pytest.mark.parametrize("vocab", [3, 4, 5, 6])
def test_two_siblings(vocab: int) -> None:
    for seed in range(3):
        q = model(vocab, 1, seed)
        p = model(vocab, 1, seed + 20, q, 0.3 * seed)
        found, _ = law(Recursive(), p, drafts(q, KIND, SHAPES["fan2"]), 1)
        assert distance(p, found, 2) <= EXACT


def test_siblings_that_cover_the_support_hold_the_next_token() -> None:
    half = torch.tensor([0.5, 0.5]).double()
    sure = torch.tensor([1.0, 0.0]).double()
    assert siblings_law(Recursive(), sure, half, KIND, 2) == pytest.approx(1.0, abs=EXACT)
    for seed in range(5):
        p, q = model(4, 0, seed)[()], model(4, 0, seed + 9)[()]
        p[seed % 4] = 0.0
        p = p / p.sum()
        assert siblings_law(Recursive(), p, q, KIND, 4) == pytest.approx(1.0, abs=EXACT)


def test_never_below_independent_siblings() -> None:
    for seed in range(15):
        p, q = model(4, 0, seed)[()], model(4, 0, seed + 100)[()]
        without, repeated = (
            siblings_law(Recursive(), p, q, KIND, 2),
            siblings_law(MultiRound(), p, q, "sampled", 2),
        )
        assert without >= repeated - EXACT


class ByProbability(Recursive):
    """Planted fault: siblings are tested from the likeliest down (trees of depth 1)."""

    def decide(self, tree, rows, coins):
        order = sorted(range(len(tree)), key=lambda i: -tree.q[i])
        by_q = replace(tree, tokens=[tree.tokens[i] for i in order])
        verdict = super().decide(by_q, Renamed(rows, order), coins)
        return replace(verdict, path=tuple(order[i] for i in verdict.path))


class Renamed:
    """Rows of a tree whose nodes were put in another order."""

    greedy = False

    def __init__(self, rows, order):
        self.rows, self.ends, self._old = rows, rows.ends, {-1: -1, **dict(enumerate(order))}

    def probs(self, node):
        return self.rows.probs(self._old[node])

    def position(self, node):
        return self.rows.position(self._old[node])


def test_order_by_probability_is_found() -> None:
    found = []
    for seed in range(6):
        q = model(3, 1, seed)
        p, trees = model(3, 1, seed + 20, q, 0.3), list(drafts(q, KIND, SHAPES["fan2"]))
        assert distance(p, law(Recursive(), p, trees, 1)[0], 2) <= EXACT
        found.append(distance(p, law(ByProbability(), p, trees, 1)[0], 2))
    assert max(found) > 0.05
    assert sum(found) / len(found) > 0.01


@pytest.mark.parametrize("shape", ["fan2", "fan3", "1x2"])
def test_q_kept_whole_is_found(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = height(SHAPES[shape])
    q = model(3, depth, 4)
    p = model(3, depth, 5, q, 0.3)
    trees = list(drafts(q, KIND, SHAPES[shape]))
    assert distance(p, law(Recursive(), p, trees, depth)[0], depth + 1) <= EXACT
    whole = Laws.law
    monkeypatch.setattr(Laws, "law", lambda self, node, drawn=(): whole(self, node))
    assert distance(p, law(Recursive(), p, trees, depth)[0], depth + 1) > 1e-3
