"""traversal: exact for every kind, `block` on a chain, never below top-down rejection."""

from dataclasses import replace

import pytest
import torch

from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.prompt.sampling import TargetRows, Warper
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Sampling
from foretoken.verify import traversal
from foretoken.verify.block import Block
from foretoken.verify.mixed import Mixed
from foretoken.verify.siblings import Laws
from foretoken.verify.traversal import Traversal
from foretoken.verify.walk import Walk
from tests.exact import enumeration
from tests.exact.enumeration import (
    SHAPES,
    Rows,
    distance,
    drafts,
    fused,
    height,
    law,
    model,
    outcomes,
    sequences,
)  # fmt: skip
from tests.exact.every_draft import every
from tests.exact.faulty import Rejection
from tests.unit.verify.test_siblings import EXACT, TREES, accepted, every_draft, worst


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_is_the_targets(kind: Kind) -> None:
    assert worst(Traversal(), kind) <= EXACT


@pytest.mark.parametrize(("k", "depth", "vocab"), [(2, 2, 3), (2, 3, 2), (3, 2, 2)])
def test_equal_draws_are_visited_one_by_one(k: int, depth: int, vocab: int) -> None:
    q = model(vocab, depth, k)
    p = model(vocab, depth, k + 9, q, 0.4)
    trees = list(sequences(q, k, depth))
    assert any(tree.draw_nodes for tree, _ in trees)
    found, mean = law(Traversal(), p, trees, depth)
    assert distance(p, found, depth + 1) <= EXACT
    assert mean >= accepted(Rejection(), p, trees, depth) - EXACT


@pytest.mark.parametrize("levels", [((2, 1),), ((1, 2),), ((1, 1), (1, 1))])
def test_any_number_drawn_and_fixed(levels: tuple[tuple[int, int], ...]) -> None:
    """A fixed child whose place a drawn token took is not missed."""
    q, guess = model(3, len(levels), 1), model(3, len(levels), 3)
    p = model(3, len(levels), 2, q, 0.3)
    trees = list(every(fused(q, guess, levels), 0, "mixed"))
    assert distance(p, law(Traversal(), p, trees, len(levels))[0], len(levels) + 1) <= EXACT


@pytest.mark.parametrize("shape", ["chain1", "chain2", "chain3"])
def test_on_a_chain_it_is_block(shape: str) -> None:
    """The same law and mean; with the same coins, the same verdict."""
    depth = height(SHAPES[shape])
    p, trees = every_draft("sampled", shape, 3)
    (one, mean), (other, expected) = (law(r, p, trees, depth) for r in (Traversal(), Block()))
    assert mean == pytest.approx(expected, abs=1e-12)
    assert distance(p, one, depth + 1) + distance(p, other, depth + 1) <= EXACT
    for seed in range(100):
        tree, _ = trees[seed % len(trees)]
        rows = Rows(p, tree)
        coins = [Coins(PositionRandom(seed), 1) for _ in range(2)]
        assert Traversal().judge(tree, rows, coins[0]) == Block().judge(tree, rows, coins[1])


def test_fixed_children_are_accepted_as_by_walk() -> None:
    for shape in SHAPES:
        p, trees = every_draft("point", shape, 3)
        depth = height(SHAPES[shape])
        found, walked = (accepted(rule, p, trees, depth) for rule in (Traversal(), Walk()))
        assert found == pytest.approx(walked, abs=1e-12)


@pytest.mark.parametrize("kind", ["sampled", "without_replacement", "mixed"])
def test_never_below_top_down_rejection(kind: Kind) -> None:
    gains = []
    for i, shape in enumerate(("2x1", "1x2", "2x2", "uneven", "fan2", "chain3")):
        depth = height(SHAPES[shape])
        for seed in range(2):
            q = model(3 if depth < 3 else 2, depth, 10 * i + seed)
            p = model(3 if depth < 3 else 2, depth, 10 * i + seed + 500, q, 0.3)
            trees = list(drafts(q, kind, SHAPES[shape]))
            if len(trees) > TREES:
                continue
            topdown = Mixed() if kind == "mixed" else Rejection()
            gains.append(
                accepted(Traversal(), p, trees, depth) - accepted(topdown, p, trees, depth)
            )
    assert len(gains) >= 8
    assert min(gains) >= -EXACT
    assert max(gains) > 0.01, "and often above it"


class Unnormalised(Laws):
    """Planted fault: q is not renormalised when it loses the tokens drawn before."""

    def law(self, node, drawn=()):
        return super().law(node)


class NoRejections(traversal._Place):
    """Planted fault: what a child's rejection leaves is not taken from the weight."""

    def reject(self) -> None:
        weight = self.weight
        super().reject()
        self.weight = weight


@pytest.mark.parametrize(
    ("name", "fault", "kind"),
    [("Laws", Unnormalised, "without_replacement"), ("_Place", NoRejections, "sampled")],
)
def test_planted_faults_are_found(
    name: str, fault: type, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traversal, name, fault)
    assert worst(Traversal(), kind) > 0.01


def test_siblings_judged_out_of_order_are_found() -> None:
    """Planted fault: without replacement, the order of drawing counts."""

    class Sorted(Traversal):
        def decide(self, tree, rows, coins):
            tree.children[0].sort(key=lambda node: -tree.q[node])
            return super().decide(tree, rows, coins)

    q = model(3, 1, 3)
    trees = list(drafts(q, "without_replacement", SHAPES["fan2"]))
    p = model(3, 1, 4)
    assert distance(p, law(Sorted(), p, trees, 1)[0], 2) > 0.01


def real_rows(tree: DraftTree, vocab: int, seed: int = 0) -> TargetRows:
    torch.manual_seed(seed)
    logits = torch.randn(len(tree) + 1, vocab)
    return TargetRows(logits, tree, [0], Warper(Sampling(temperature=1.0), [0], (), 9999, vocab))


def test_rows_are_asked_for_where_something_was_drafted_or_stands() -> None:
    seen = set()
    for kind in KINDS:
        _, trees = every_draft(kind, "2x2", 3)
        for seed, (tree, _) in enumerate(trees[:60]):
            rows = real_rows(tree, 3, seed)
            verdict = Traversal().judge(tree, rows, Coins(PositionRandom(seed), 1))
            inner = {-1, *(i for i in range(len(tree)) if tree.children[i + 1])}
            last = verdict.path[-1] if verdict.path else -1
            assert set(rows._probs) <= inner | {last}
            seen.add(set(rows._probs) >= inner)
    assert seen == {True, False}, "and not for all of them, if the first branch stands"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_behind_the_end_of_the_text(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact; the token that ends the text is the bonus, its row is not asked for."""
    monkeypatch.setattr(enumeration.Rows, "ends", lambda self, token: token == 0)
    real = enumeration.Rows.probs

    def probs(self, node):
        assert node < 0 or all(self.tree.tokens[i] for i in self.tree.path(node))
        return real(self, node)

    p, trees = every_draft(kind, "1x2", 3)
    assert distance(p, law(Traversal(), p, trees, 2)[0], 3) <= EXACT
    monkeypatch.setattr(enumeration.Rows, "probs", probs)
    for tree, _ in trees:
        rows = Rows(p, tree)
        for verdict, _ in outcomes(lambda coins: Traversal().judge(tree, rows, coins)):  # noqa: B023
            assert all(tree.tokens[node] for node in verdict.path)


def test_a_draft_from_the_target_itself_stands() -> None:
    p = model(3, 2, 1)
    for kind in ("sampled", "without_replacement"):
        trees = list(drafts(p, kind, SHAPES["2x1"]))
        assert accepted(Traversal(), p, trees, 2) == pytest.approx(2.0, abs=1e-12)


def test_a_chain_of_thousands_needs_no_stack_of_calls() -> None:
    tree = DraftTree.chain([0] * 1500)
    rows = real_rows(tree, 2)
    rows.logits[:, 0] = 30.0
    assert len(Traversal().judge(tree, rows, Coins(PositionRandom(0), 1)).path) > 1200


def test_the_rest_of_a_very_peaked_row_is_a_law() -> None:
    """float32: what one token leaves may be so rare that one over its mass overflows."""
    q, p = torch.tensor([1.0, 3e-42, 1e-42]), torch.tensor([0.2, 0.5, 0.3])
    tables = [dict.fromkeys([(), (0,), (1,), (2,)], row) for row in (p, q.double())]
    trees = [
        (replace(tree, dist=tree.dist.float()), chance)
        for tree, chance in drafts(tables[1], "without_replacement", SHAPES["fan2"])
    ]
    found, mean = law(Traversal(), tables[0], trees, 1)
    assert distance(tables[0], found, 2) < 1e-6
    assert mean > 0.6


@pytest.mark.parametrize("kind", ["sampled", "without_replacement"])
def test_single_precision_is_near(kind: Kind) -> None:
    """float32 rows: each verdict's chance is that of float64 rows to rounding."""
    vocab = 4
    q, p = model(vocab, 2, 1), model(vocab, 2, 2)
    for tree, _ in list(drafts(q, kind, SHAPES["uneven"]))[::41]:
        tables = p, {context: row.float() for context, row in p.items()}
        dists = tree.dist, tree.dist.float()
        laws = []
        for table, dist in zip(tables, dists, strict=True):
            same = DraftTree(
                tree.tokens, tree.parents, tree.q, kind, dist, tree.dist_row, (),
                tree.draw_nodes, tree.draw_parents,
            )  # fmt: skip
            rows, found = Rows(table, same), {}
            for verdict, chance in outcomes(lambda coins: Traversal().judge(same, rows, coins)):  # noqa: B023
                found[verdict] = found.get(verdict, 0.0) + chance
            laws.append(found)
        for verdict in {*laws[0], *laws[1]}:
            assert laws[0].get(verdict, 0) == pytest.approx(laws[1].get(verdict, 0), abs=2e-6)
