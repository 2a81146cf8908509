"""threshold: its rule, slowly and obviously; and that it is lossy, and says so."""

import random
from typing import Any

import pytest
import torch

from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.threshold import Threshold
from tests.exact import enumeration
from tests.exact.enumeration import SHAPES, Rows, model, outcomes
from tests.exact.every_draft import by_shape, one
from tests.unit.verify.test_siblings import worst


def by_the_book(tree: DraftTree, rows: Any, coins: Any, at: int = -1, path: tuple = ()) -> Verdict:
    p = rows.probs(at).tolist()
    below = {tree.tokens[node]: node for node in range(len(tree)) if tree.parents[node] == at}
    likely = sorted((token for token in below if p[token] >= 0.3), key=lambda token: -p[token])
    token = likely[0] if likely else rows.token(at, coins)
    if token not in below:
        return Verdict(path, token)
    return by_the_book(tree, rows, coins, below[token], (*path, below[token]))


@pytest.mark.parametrize("kind", KINDS)
def test_against_the_book(kind: Kind) -> None:
    lengths, q = set(), model(4, 3, 1)
    for seed in range(5):
        p, dice = model(4, 3, seed + 50), random.Random(seed)
        for shape in ("2x2", "uneven", "chain3", "fan3") * 3:
            tree = one(by_shape(q, kind), SHAPES[shape], kind, dice)
            rows = Rows(p, tree)
            found, expected = (
                judge(tree, rows, Coins(PositionRandom(seed), 1))
                for judge in (Threshold().judge, by_the_book)
            )
            assert found == expected
            lengths.add(len(found.path))
    assert len(lengths) >= 3


def test_the_threshold_itself_passes_and_less_does_not() -> None:
    tree = DraftTree([1], [-1])
    for chance, always in ((0.3, True), (0.2999, False)):
        row = torch.tensor([1 - chance, chance], dtype=torch.float64)
        rows = Rows({(): row, (1,): row}, tree)
        found = {v.path for v, _ in outcomes(lambda coins: Threshold().judge(tree, rows, coins))}  # noqa: B023
        assert found == ({(0,)} if always else {(0,), ()})


def test_the_end_of_the_text_is_the_bonus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumeration.Rows, "ends", lambda self, token: token == 0)
    tree = DraftTree([1, 0, 1], [-1, 0, 1])
    rows = Rows({(): torch.tensor([0.1, 0.9]), (1,): torch.tensor([0.9, 0.1])}, tree)
    assert Threshold().judge(tree, rows, Coins(PositionRandom(0), 1)) == Verdict((0,), 0)


def test_it_is_lossy_and_says_so() -> None:
    assert worst(Threshold(), "sampled") > 0.1
    assert Threshold.exact == {"greedy"}
    assert Threshold.summary.startswith("lossy")
