"""block: exact, the optimum of all exact rules for one path, and the last test that passes counts."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.prompt.sampling import TargetRows, Warper
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Sampling
from foretoken.verify import block
from foretoken.verify.block import Block
from foretoken.verify.token import Token
from foretoken.verify.walk import Walk
from tests.exact import enumeration
from tests.exact.enumeration import SHAPES, Rows, distance, drafts, height, law, model, outcomes
from tests.exact.every_draft import Context, Table
from tests.exact.faulty import Block as ByTheBook
from tests.unit.verify.test_siblings import EXACT, accepted, context_free, every_draft, worst

CHAINS = ("chain1", "chain2", "chain3")
TOY = context_free([1 / 3, 2 / 3], 2), context_free([2 / 3, 1 / 3], 2)  # p, q


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_is_the_targets(kind: Kind) -> None:
    assert worst(Block(), kind) <= EXACT


def toy(rule: object) -> tuple[float, float]:
    """(expected accepted, distance) on the toy."""
    p, q = TOY
    found, mean = law(rule, p, drafts(q, "sampled", SHAPES["chain2"]), 2)
    return mean, distance(p, found, 3)


def test_the_toy_of_the_literature() -> None:
    mean, far = toy(Block())
    assert (mean * 9, far) == pytest.approx((11, 0), abs=1e-12)
    assert toy(Token())[0] * 9 == pytest.approx(10, abs=1e-12)


def uncapped(tree: DraftTree, rows: Rows) -> list:
    """Planted fault: the whole chain passes with the product of its ratios, at most 1."""
    trunk, ratio = weigh(tree, rows), 1.0
    for drafted in trunk:
        token = tree.tokens[drafted.node]
        p = rows.probs(tree.parents[drafted.node])
        ratio *= float(p[token] / tree.dist[tree.dist_row[drafted.node]][token])
    return [*trunk[:-1], replace(trunk[-1], weight=min(1.0, ratio))]


weigh = block.weigh


def test_planted_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test uncapped (as in HSD's public code), the first failure taken for the end, the
    residual without the weight."""
    monkeypatch.setattr(block, "weigh", uncapped)
    mean, far = toy(Block())
    assert (mean * 9, far) == pytest.approx((12, 1 / 9), abs=1e-12)
    assert worst(Block(), "sampled") > 0.01
    monkeypatch.undo()
    p, trees = every_draft("sampled", "chain3", 3)
    first = law(ByTheBook("first failure ends it"), p, trees, 3)[0]
    assert distance(p, first, 4) > 0.01
    real = block.owed
    monkeypatch.setattr(block, "owed", lambda p, _, token, law: real(p, 1.0, token, law))
    assert worst(Block(), "sampled") > 0.01


@pytest.mark.parametrize("shape", CHAINS)
def test_as_by_the_book(shape: str) -> None:
    """The same joint law of path and token, draft by draft."""
    p, trees = every_draft("sampled", shape, 3)
    for tree, _ in trees:
        rows = Rows(p, tree)
        found, expected = ({}, {})
        for rule, into in ((Block(), found), (ByTheBook(), expected)):
            for verdict, chance in outcomes(lambda coins: rule.judge(tree, rows, coins)):  # noqa: B023
                into[verdict] = into.get(verdict, 0.0) + chance
        for verdict in {*found, *expected}:
            assert found.get(verdict, 0) == pytest.approx(expected.get(verdict, 0), abs=1e-12)


def optimum(p: Table, q: Table, vocab: int, g: int) -> float:
    """The most accepted drafts of any exact rule that keeps a prefix of a chain and adds a token.

    A linear programme over the chance of (chain x, kept t, token y).
    """

    def chance(table: Table, text: Context) -> float:
        return float(np.prod([table[text[:i]][text[i]] for i in range(len(text))]))

    def texts(n: int) -> list[Context]:
        return list(itertools.product(range(vocab), repeat=n))

    cells = [(x, t, y) for x in texts(g) for t in range(g + 1) for y in range(vocab)]
    equal, values = [], []
    for x in texts(g):
        equal.append([float(cell[0] == x) for cell in cells])
        values.append(chance(q, x))
    for text in texts(g + 1):
        rest = [chance(p, text) / chance(p, text[: t + 1]) for t in range(g + 1)]
        equal.append([rest[t] * (text[: t + 1] == (*x[:t], y)) for x, t, y in cells])
        values.append(chance(p, text))
    solved = linprog([-t for _, t, _ in cells], A_eq=equal, b_eq=values, method="highs")
    return -float(solved.fun)


def test_no_exact_rule_for_one_path_accepts_more() -> None:
    cases = [(2, 2, seed) for seed in range(8)] + [(3, 2, 9), (2, 3, 10)]
    gains = []
    for vocab, g, seed in cases:
        q = model(vocab, g, seed)
        p = model(vocab, g, seed + 50, q, 0.3)
        trees = list(drafts(q, "sampled", SHAPES[f"chain{g}"]))
        mean = accepted(Block(), p, trees, g)
        assert mean == pytest.approx(optimum(p, q, vocab, g), abs=1e-9)
        gains.append(mean - accepted(Token(), p, trees, g))
    assert min(gains) >= -EXACT
    assert max(gains) > 0.01
    assert optimum(*TOY, 2, 2) * 9 == pytest.approx(11)


def test_expected_length_is_the_sum_of_expected_weights() -> None:
    for shape in CHAINS:
        p, trees = every_draft("sampled", shape, 3)
        weights = sum(
            chance * sum(drafted.weight for drafted in weigh(tree, Rows(p, tree)))
            for tree, chance in trees
        )
        mean = accepted(Block(), p, trees, height(SHAPES[shape]))
        assert mean == pytest.approx(weights, abs=1e-12)


def test_a_draft_from_the_target_itself_stands() -> None:
    p = model(3, 3, 1)
    trees = list(drafts(p, "sampled", SHAPES["chain3"]))
    assert accepted(Block(), p, trees, 3) == pytest.approx(3.0, abs=1e-12)


def test_fixed_chains_are_walked() -> None:
    for shape in CHAINS:
        p, trees = every_draft("point", shape, 3)
        depth = height(SHAPES[shape])
        walked = accepted(Walk(), p, trees, depth)
        assert accepted(Block(), p, trees, depth) == pytest.approx(walked, abs=1e-12)


class Stops(Block):
    """What stands beside the trunk is left out."""

    def decide(self, tree, rows, coins):
        trunk = {drafted.node for drafted in weigh(tree, rows)}
        verdict = super().decide(tree, rows, coins)
        kept = tuple(node for node in verdict.path if node in trunk)
        beside = [tree.tokens[node] for node in verdict.path if node not in trunk]
        return replace(verdict, path=kept, bonus=beside[0] if beside else verdict.bonus)


def test_a_correction_that_was_drafted_beside_the_trunk_goes_on() -> None:
    p, trees = every_draft("without_replacement", "2x2", 3)
    assert accepted(Block(), p, trees, 2) > accepted(Stops(), p, trees, 2) + 0.1


@pytest.mark.parametrize("kind", ["sampled", "mixed", "point"])
def test_nothing_behind_the_end_of_the_text(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that ends the text is the bonus; rows behind it are not asked for."""
    monkeypatch.setattr(enumeration.Rows, "ends", lambda self, token: token == 0)
    assert worst(Block(), kind) <= EXACT
    p, trees = every_draft(kind, "chain3", 2)
    for tree, _ in trees:
        ended = [i for i in range(3) if 0 in (tree.tokens[j] for j in tree.path(i))]

        class Watched(Rows):
            def probs(self, node):
                assert node not in ended  # noqa: B023
                return super().probs(node)

        rows = Watched(p, tree)
        for verdict, _ in outcomes(lambda coins: Block().judge(tree, rows, coins)):  # noqa: B023
            assert all(tree.tokens[node] for node in verdict.path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_drafts_and_rare_laws(dtype: torch.dtype) -> None:
    """p(x) = 0 ends the trunk; a q that underflowed to 0 is not divided by."""
    tree = DraftTree(
        [0, 1, 1], [-1, 0, 1], (), "sampled", torch.eye(3, dtype=dtype)[[0, 2, 1]], [0, 1, 2]
    )
    logits = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, -torch.inf, 0], [0, 0, 0]], dtype=dtype)
    warper = Warper(Sampling(temperature=1.0), [0], (), 99, 3)
    rows = TargetRows(logits, tree, [0], warper)
    assert [drafted.weight for drafted in weigh(tree, rows)] == pytest.approx([1 / 3, 1.0, 0.0])
    for seed in range(20):
        verdict = Block().judge(tree, rows, Coins(PositionRandom(seed), 1))
        assert len(verdict.path) < 3
