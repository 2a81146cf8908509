"""What is left of the target's law under rejections, against slow arithmetic in float64; and the
helpers with which the tests of the four rules enumerate."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from foretoken import registry
from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.prompt.sampling import TargetRows, Warper
from foretoken.tree import DraftTree, Kind
from foretoken.types import Sampling, Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.siblings import Laws, Left, first_accepted
from tests.exact.enumeration import (
    SHAPES,
    Rows,
    distance,
    drafts,
    height,
    law,
    model,
    outcomes,
)  # fmt: skip
from tests.exact.every_draft import Table

EXACT, TREES = 1e-12, 100
Drafts = list[tuple[DraftTree, float]]
RULES: dict[str, Kind] = {
    "token": "sampled", "multi-round": "sampled", "recursive": "without_replacement",
    "mixed": "mixed",
}  # fmt: skip


# --- helpers ------------------------------------------------------------------------------------


def make(name: str) -> Verifier:
    rule: Verifier = registry.find("verifier", name)()
    return rule


@cache
def every_draft(kind: Kind, shape: str, vocab: int) -> tuple[Table, Drafts]:
    """(p, every draft); p and q are related, and no law of a tiny model is like another."""
    depth = height(SHAPES[shape])
    q = model(vocab, depth, vocab)
    return model(vocab, depth, 10 + vocab, q, 0.4), list(drafts(q, kind, SHAPES[shape]))


def worst(rule: Any, kind: Kind) -> float:
    """The largest distance to the target's law over all shapes, vocabularies of 2 and 3."""
    found = 0.0
    for shape in SHAPES:
        for vocab in (2, 3):
            p, trees = every_draft(kind, shape, vocab)
            if len(trees) <= TREES:
                depth = height(SHAPES[shape])
                found = max(found, distance(p, law(rule, p, trees, depth)[0], depth + 1))
    return found


def accepted(rule: Any, p: Table, trees: Drafts, depth: int) -> float:
    """Expected accepted tokens."""
    return law(rule, p, trees, depth)[1]


def context_free(row: Sequence[float], depth: int) -> Table:
    """The same row everywhere."""
    same = torch.tensor(row, dtype=torch.float64)
    return dict.fromkeys(model(len(row), depth, 0), same)


class Told:
    """Coins that fall as they are told; the chances that they were asked for stay."""

    def __init__(self, *falls: bool) -> None:
        self.falls, self.chances = list(falls), []

    def accept(self, chance: float) -> bool:
        self.chances.append(min(float(chance), 1.0))
        return self.falls.pop(0)

    def token(self, probs: Tensor, position: int) -> int:
        return int(probs.argmax())


def chain(rule: str, p: Tensor, q: Tensor, tokens: Sequence[int], coins: Any) -> Verdict:
    """A verdict on a chain of drawn tokens under real float32 rows; p, q: [n+1, V], [n, V]."""
    tree = DraftTree(
        tokens, range(-1, len(tokens) - 1), (), RULES[rule], q, list(range(len(tokens)))
    )
    warper = Warper(Sampling(temperature=1.0), [0], (), 99, p.shape[1])
    return make(rule).judge(tree, TargetRows(p.log(), tree, [0], warper), coins)


# --- the core -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("kind", ["sampled", "without_replacement"])
@pytest.mark.parametrize("scale", [1.0, 3.0])  # rows count in proportion to their entries
def test_rejections_leave_the_residual(
    dtype: torch.dtype, tolerance: float, kind: Kind, scale: float
) -> None:
    """norm((r - q)_+), again and again, against plain arithmetic with normalised laws."""
    torch.manual_seed(1)
    p, q = (4 * torch.rand(2, 50, dtype=dtype)).softmax(-1)
    left, row, drawn = Left(p), (q * scale)[None], []
    r, law, kept = p.double() / p.double().sum(), q.double() / q.double().sum(), p.clone()
    for i in range(4):
        likely = (r / law).where((r > 0) == (i == 0), torch.inf)  # the first has some chance
        token = int(likely.index_fill(0, torch.tensor(drawn, dtype=torch.long), torch.inf).argmin())
        tree = DraftTree(
            [*drawn, token], [-1] * (len(drawn) + 1), (), kind, row, [0] * (len(drawn) + 1)
        )
        before = [] if kind == "sampled" else drawn
        coins = Told(False)
        assert not left.accepts(token, Laws(tree).law(len(drawn), before), coins)
        assert 0.0 < coins.chances[0] < 1.0 or i > 0
        assert coins.chances == [pytest.approx(float(r[token] / law[token]), rel=tolerance)]
        r = (r - law).clamp_min(0.0)
        r = r / r.sum()
        assert r[token] == 0.0
        assert torch.allclose(left.row.double() / left.mass, r, rtol=0.0, atol=tolerance)
        drawn.append(token)
        if kind == "without_replacement":
            law[token] = 0.0
            law = law / law.sum()
    assert torch.equal(p, kept)
    assert torch.equal(row[0], q * scale)


@pytest.mark.parametrize("rest", [1e-6, 1e-9, 1e-20, 1e-40])
def test_a_peaked_row_keeps_the_law_of_its_rest(rest: float) -> None:
    """float32: the first token has all of the mass that can be seen; the others have a law."""
    q = torch.tensor([1.0, 0.5 * rest, 0.3 * rest, 0.2 * rest])
    p = torch.tensor([0.1, 0.3, 0.3, 0.3])
    tree = DraftTree([0, 1, 3], [-1] * 3, (), "without_replacement", q[None], [0] * 3)
    coins = Told(False, False, False)
    left = Left(p)
    assert first_accepted(left, range(3), tree, Laws(tree), coins) is None
    # r: (0.1, 0.3, 0.3, 0.3), then thirds on 1..3; q: one-hot, then (0.5, 0.3, 0.2) on 1..3
    assert coins.chances[:2] == [pytest.approx(0.1, rel=1e-4), pytest.approx(2 / 3, rel=1e-4)]
    # then (0, 0.1/3, 0.4/3) against (0.6, 0.4) on 2, 3
    assert coins.chances[2] == 1.0
    assert not left.row.isnan().any()


def test_rest_of_a_peaked_row_by_difference_would_be_wrong() -> None:
    q = torch.tensor([1.0, 0.5e-9, 0.5e-9])
    assert float(q.sum() - q[0]) == 0.0
    law = Laws(DraftTree([0, 1], [-1, -1], (), "without_replacement", q[None], [0, 0])).law(1, [0])
    assert float(law.row[1]) / law.mass == pytest.approx(0.5)


def test_a_used_up_row_goes_on_uniformly() -> None:
    """Sequoia's form: exact for a drafter that does the same."""
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.4]).double(), torch.tensor([0.7, 0.3, 0.0, 0.0]).double()
    found, reached = torch.zeros(4).double(), 0.0
    for first, weight in ((0, 0.7), (1, 0.3)):
        for third in (2, 3):
            tree = DraftTree(
                [first, 1 - first, third], [-1] * 3, (), "without_replacement", q[None], [0] * 3
            )
            rows = Rows({(): p, **{(t,): p for t in range(4)}}, tree)
            for verdict, chance in outcomes(lambda c: make("recursive").judge(tree, rows, c)):  # noqa: B023
                token = tree.tokens[verdict.path[0]] if verdict.path else verdict.bonus
                found[token] += weight * 0.5 * chance
                reached += weight * 0.5 * chance * (verdict.path == (2,))
    assert torch.allclose(found, p, atol=EXACT)
    assert reached > 0.3


def test_nothing_left_keeps_what_was_left() -> None:
    """p = q: a rejection has no chance; if rounding brings one, the text goes on from p."""
    p = torch.tensor([0.25, 0.25, 0.5])
    tree = DraftTree([2], [-1], (), "sampled", p[None], [0])
    left = Left(p)
    assert not left.accepts(2, Laws(tree).law(0), Told(False))
    assert torch.equal(left.row, p)


def test_a_drawn_node_without_its_row_is_refused() -> None:
    for kind in ("sampled", "without_replacement"):
        with pytest.raises(ValueError, match=f"node 0 of a '{kind}' draft has no row"):
            Laws(DraftTree([1], [-1], (), kind)).law(0)
    assert Laws(DraftTree([1], [-1])).law(0) is None


# --- what all four rules share ------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_a_chain_of_one_rule_is_that_of_every_rule(name: str) -> None:
    """Coin for coin: with one draw a node all are plain speculative sampling."""
    torch.manual_seed(2)
    found = 0
    for seed in range(100):
        p, q = torch.rand(4, 9).softmax(-1), torch.rand(3, 9).softmax(-1)
        tokens = torch.multinomial(q, 1)[:, 0].tolist()
        verdict = chain(name, p, q, tokens, Coins(PositionRandom(seed), 1))
        assert verdict == chain("token", p, q, tokens, Coins(PositionRandom(seed), 1))
        found += len(verdict.path)
    assert found > 100


@pytest.mark.parametrize("name", RULES)
def test_a_draft_law_equal_to_the_targets_is_accepted_whole(name: str) -> None:
    torch.manual_seed(3)
    for seed in range(50):
        p = torch.randn(4, 9).mul(3).softmax(-1)
        tokens = torch.multinomial(p[:3], 1)[:, 0].tolist()
        verdict = chain(name, p, p[:3], tokens, Coins(PositionRandom(seed), 1))
        assert verdict.path == (0, 1, 2)


@pytest.mark.parametrize("name", [n for n in RULES if n != "mixed"])  # whose q leaves tokens out
def test_with_equal_laws_the_first_sibling_stands(name: str) -> None:
    p = model(3, 2, 4)
    trees = list(drafts(p, RULES[name], SHAPES["uneven"]))
    assert accepted(make(name), p, trees, 2) == pytest.approx(2.0, abs=EXACT)


@pytest.mark.parametrize("name", RULES)
def test_a_vocabulary_of_one(name: str) -> None:
    one = torch.ones(3, 1)
    verdict = chain(name, one, one[:2], [0, 0], Coins(PositionRandom(0), 1))
    assert verdict == Verdict((0, 1), 0)


@pytest.mark.parametrize("name", RULES)
def test_the_end_of_the_text_is_the_bonus_and_nothing_behind_it_is_asked(name: str) -> None:
    p = torch.full((4, 3), 1e-9)
    p[:, 1], p[1, 1], p[1, 2] = 1.0, 1e-9, 1.0  # 1, then the end, then 1 again
    q = p[:3].clone()
    tree = DraftTree([1, 2, 1], [-1, 0, 1], (), RULES[name], q, [0, 1, 2])
    warper = Warper(Sampling(temperature=1.0), [0], (2,), 99, 3)
    rows = TargetRows(p.log(), tree, [0], warper)
    verdict = make(name).judge(tree, rows, Coins(PositionRandom(0), 1))
    assert verdict == Verdict((0,), 2)
    assert set(rows._probs) == {-1, 0}


@pytest.mark.parametrize("name", RULES)
def test_only_rows_of_the_path_are_normalised(name: str) -> None:
    torch.manual_seed(5)
    q = torch.rand(3, 6).softmax(-1)
    tree = DraftTree([4, 1, 2, 3, 0], [-1, -1, 0, 0, 1], (), RULES[name], q, [0, 0, 1, 1, 2])
    for seed in range(50):
        warper = Warper(Sampling(temperature=1.0), [0], (), 99, 6)
        rows = TargetRows(torch.randn(6, 6), tree, [0], warper)
        verdict = make(name).judge(tree, rows, Coins(PositionRandom(seed), 1))
        assert set(rows._probs) == {-1, *verdict.path}


def siblings_law(rule: Any, p: Tensor, q: Tensor, kind: Kind, k: int) -> float:
    """The chance that one of k siblings stands."""
    table = {(): p, **{(t,): p for t in range(len(p))}}
    rows = {(): q, **{(t,): q for t in range(len(q))}}
    return accepted(rule, table, list(drafts(rows, kind, [[]] * k)), 1)
