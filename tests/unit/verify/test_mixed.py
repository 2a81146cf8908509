"""mixed: exact, and as good as theory allows for greedy drafting (Optimal MDSD, sec. 3.4)."""

import pytest
import torch
from torch import Tensor

from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.prompt.sampling import TargetRows, Warper
from foretoken.types import Sampling, Verdict
from foretoken.verify.mixed import Mixed
from foretoken.verify.siblings import Laws, Left
from foretoken.verify.walk import Walk
from tests.exact.enumeration import SHAPES, distance, drafts, height, law, model
from tests.exact.every_draft import every, fused
from tests.unit.verify.test_siblings import EXACT, every_draft, siblings_law, worst


@pytest.mark.parametrize("kind", ["mixed", "point"])
def test_the_law_is_the_targets(kind: str) -> None:
    assert worst(Mixed(), kind) <= EXACT


@pytest.mark.parametrize("levels", [((2, 1),), ((1, 2),), ((1, 1), (1, 1)), ((2, 1), (0, 2))])
def test_any_number_drawn_and_fixed(levels: tuple[tuple[int, int], ...]) -> None:
    """Drawn from the whole row, so that a drawn token may take a fixed one's place."""
    q = model(3, len(levels), 1)
    p = model(3, len(levels), 2, q, 0.3)
    trees = list(every(fused(q, model(3, len(levels), 3), levels), 0, "mixed"))
    assert len({len(tree) for tree, _ in trees}) > 1, "some are shared"
    assert distance(p, law(Mixed(), p, trees, len(levels))[0], len(levels) + 1) <= EXACT


def parts(q: Tensor, k: int) -> tuple[list[int], Tensor]:
    """(the k - 1 likeliest tokens, the law of the drawn one)."""
    fixed = q.argsort(descending=True, stable=True).tolist()[: k - 1]
    rest = q.clone()
    rest[fixed] = 0.0
    return fixed, rest / rest.sum()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_chance_to_go_on_is_the_optimum_of_greedy_drafting(k: int) -> None:
    """p(T) + sum over x not in T of min(p(x), q~(x)): the optimum for this draft law."""
    for seed in range(8):
        p, q = model(5, 0, seed)[()], model(5, 0, seed + 30)[()]
        fixed, rest = parts(q, k)
        found = siblings_law(Mixed(), p, q, "mixed", k)
        best = float(p[fixed].sum() + torch.minimum(p, rest).sum())
        assert found == pytest.approx(best, abs=EXACT)


class FixedFirst(Mixed):
    """Planted fault: the fixed children are tested before the drawn one. Exact, and worse."""

    def decide(self, tree, rows, coins):
        assert tree.depth == 1
        left, laws = Left(rows.probs(-1)), Laws(tree)
        for node in sorted(range(len(tree)), key=lambda i: tree.dist_row and tree.dist_row[i] >= 0):
            if left.accepts(tree.tokens[node], laws.law(node), coins):
                return Verdict((node,), coins.token(rows.probs(node), rows.position(node)))
        return Verdict((), coins.token(left.row, rows.position(-1)))


@pytest.mark.parametrize("k", [2, 3])
def test_fixed_children_first_would_fall_short(k: int) -> None:
    short = []
    for seed in range(8):
        p, q = model(5, 0, seed)[()], model(5, 0, seed + 30)[()]
        fixed, rest = parts(q, k)
        found = siblings_law(FixedFirst(), p, q, "mixed", k)
        others = p.clone()
        others[fixed] = 0.0
        worse = float(p[fixed].sum() + torch.minimum(others, (1 - p[fixed].sum()) * rest).sum())
        assert found == pytest.approx(worse, abs=EXACT)
        best = siblings_law(Mixed(), p, q, "mixed", k)
        assert best >= found - EXACT
        short.append(best - found)
    assert max(short) > 0.05


def test_fixed_children_first_keep_the_law() -> None:
    p, trees = every_draft("mixed", "fan3", 3)
    assert distance(p, law(FixedFirst(), p, trees, 1)[0], 2) <= EXACT


def test_a_hit_among_the_fixed_goes_on_down_the_tree() -> None:
    p, trees = every_draft("mixed", "2x2", 3)

    class Stops(Mixed):
        def decide(self, tree, rows, coins):
            verdict = super().decide(tree, rows, coins)
            for i, node in enumerate(verdict.path):
                if tree.dist_row[node] < 0:
                    return Verdict(verdict.path[:i], tree.tokens[node])
            return verdict

    depth = height(SHAPES["2x2"])
    found, short = (law(rule, p, trees, depth)[1] for rule in (Mixed(), Stops()))
    assert found > short + 0.2


def test_fixed_drafts_alone_are_followed_as_in_walk() -> None:
    """The same coins, the same text: plain decoding's own."""
    torch.manual_seed(1)
    for shape in ("2x2", "uneven", "chain3"):
        _, trees = every_draft("point", shape, 3)
        for seed in range(60):
            tree = trees[0][0]
            logits = torch.randn(len(tree) + 1, 3)
            warper = Warper(Sampling(temperature=1.0), [0], (), 99, 3)
            found, expected = (
                rule.judge(
                    tree, TargetRows(logits, tree, [0], warper), Coins(PositionRandom(seed), 1)
                )
                for rule in (Mixed(), Walk())
            )
            assert found == expected


def test_a_drawn_token_may_take_a_fixed_ones_place() -> None:
    """Drawn x that would have been fixed: once rejected, it is no child of the last draw."""
    q = model(3, 1, 4)
    for seed in range(4):
        p = model(3, 1, seed + 5, q, 0.2)
        trees = list(every(fused(q, q, ((1, 1),)), 0, "mixed"))
        assert {len(tree) for tree, _ in trees} == {1, 2}
        found, mean = law(Mixed(), p, trees, 1)
        assert distance(p, found, 2) <= EXACT
        assert mean >= float(torch.minimum(p[()], q[()]).sum()) - EXACT


def test_drafts_enumerated_are_mixed() -> None:
    trees = list(drafts(model(4, 1, 0), "mixed", SHAPES["fan3"]))
    assert all(list(tree.dist_row).count(-1) == 2 and tree.dist_row[0] == 0 for tree, _ in trees)
