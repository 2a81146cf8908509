"""typical: what Medusa's rule says, slowly and obviously; and that it is lossy, and says so."""

import math
import random
from typing import Any

import pytest
import torch

from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.typical import Typical
from tests.exact import enumeration
from tests.exact.enumeration import SHAPES, Rows, model
from tests.exact.every_draft import by_shape, one
from tests.unit.verify.test_siblings import every_draft, worst


def by_the_book(tree: DraftTree, rows: Any, coins: Any) -> Verdict:
    """Every candidate path, token by token."""
    best, score = (), (0, 0.0)
    for leaf in range(len(tree)):
        kept, likely = [], 0.0
        for node in tree.path(leaf):
            p = rows.probs(tree.parents[node]).tolist()
            entropy = -sum(x * math.log(x) for x in p if x > 0)
            chance = p[tree.tokens[node]]
            if not chance > min(0.09, 0.3 * math.exp(-entropy)):
                break
            kept.append(node)
            likely += math.log(chance)
        if (len(kept), likely) > score and kept:
            best, score = tuple(kept), (len(kept), likely)
    return Verdict(best, rows.token(best[-1] if best else -1, coins))


@pytest.mark.parametrize("kind", KINDS)
def test_against_the_book(kind: Kind) -> None:
    lengths, q = set(), model(4, 3, 1)
    for seed in range(5):
        p, dice = model(4, 3, seed + 50, concentration=0.3), random.Random(seed)
        for shape in ("2x2", "uneven", "chain3", "fan3") * 3:
            tree = one(by_shape(q, kind), SHAPES[shape], kind, dice)
            rows = Rows(p, tree)
            found, expected = (
                judge(tree, rows, Coins(PositionRandom(seed), 1))
                for judge in (Typical().judge, by_the_book)
            )
            assert found == expected
            lengths.add(len(found.path))
    assert len(lengths) >= 3


def test_the_flatter_the_target_the_less_is_asked() -> None:
    flat, sharp = torch.full((100,), 0.01), torch.eye(100)[0]
    assert Typical().bar(flat) == pytest.approx(0.3 / 100)
    assert Typical().bar(sharp) == pytest.approx(0.09)


def test_equal_lengths_go_to_the_likelier_path() -> None:
    p = {(): [0.4, 0.35, 0.25], (0,): [0.2, 0.4, 0.4], (1,): [0.9, 0.05, 0.05]}
    rows = {context: torch.tensor(row) for context, row in p.items()}
    rows |= {(0, 0): rows[()], (1, 0): rows[()]}
    tree = DraftTree([0, 1, 0, 0], [-1, -1, 0, 1])
    assert Typical().judge(tree, Rows(rows, tree), Coins(PositionRandom(0), 1)).path == (1, 3)


def test_the_end_of_the_text_is_the_bonus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumeration.Rows, "ends", lambda self, token: token == 0)
    half = torch.tensor([0.5, 0.5])
    rows = {(): half, (1,): half}  # no row behind the end
    tree = DraftTree([1, 0, 1], [-1, 0, 1])
    found = Typical().judge(tree, Rows(rows, tree), Coins(PositionRandom(0), 1))
    assert found == Verdict((0,), 0)


def test_it_is_lossy_and_says_so() -> None:
    assert worst(Typical(), "sampled") > 0.1
    assert Typical.exact == {"greedy"}
    assert Typical.summary.startswith("lossy")


def test_tokens_that_pass_stand_whatever_the_coins() -> None:
    p, trees = every_draft("point", "chain1", 2)
    tree = trees[0][0]
    assert float(p[()][tree.tokens[0]]) > 0.09
    for seed in range(50):
        assert Typical().judge(tree, Rows(p, tree), Coins(PositionRandom(seed), 1)).path == (0,)
