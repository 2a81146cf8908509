"""token: exact for all kinds of draft, the textbook's acceptance, the trunk of a tree only."""

import pytest
import torch

from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.token import Token
from tests.exact.enumeration import SHAPES, Rows, distance, drafts, height, law, model, outcomes
from tests.unit.verify.test_siblings import (
    EXACT,
    Told,
    accepted,
    context_free,
    every_draft,
    siblings_law,
    worst,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_is_the_targets(kind: Kind) -> None:
    assert worst(Token(), kind) <= EXACT


def test_the_known_toy() -> None:
    """p = (1/3, 2/3), q = (2/3, 1/3), two drafts: 9 E[accepted] = 10."""
    p, q = context_free([1 / 3, 2 / 3], 2), context_free([2 / 3, 1 / 3], 2)
    found = accepted(Token(), p, list(drafts(q, "sampled", SHAPES["chain2"])), 2)
    assert 9 * found == pytest.approx(10, abs=EXACT)


@pytest.mark.parametrize("vocab", [2, 3, 5])
def test_the_chance_to_accept_is_the_overlap(vocab: int) -> None:
    p, q = model(vocab, 0, 1)[()], model(vocab, 0, 2)[()]
    found = siblings_law(Token(), p, q, "sampled", 1)
    assert found == pytest.approx(float(torch.minimum(p, q).sum()), abs=EXACT)


def test_a_fixed_draft_is_accepted_with_its_own_probability() -> None:
    p, q = model(4, 0, 1)[()], model(4, 0, 2)[()]
    found = siblings_law(Token(), p, q, "point", 1)
    assert found == pytest.approx(float(p[q.argmax()]), abs=EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_is_judged_as_its_trunk(kind: Kind) -> None:
    """The same verdicts, with the same chances, as if the other branches were not there."""
    branches = 0
    for shape in ("fan3", "2x2", "uneven"):
        p, trees = every_draft(kind, shape, 3)
        for tree, _ in trees[:40]:
            trunk, draw = [], -1
            while tree.draws.children[draw + 1]:
                draw = tree.draws.children[draw + 1][0]
                trunk.append(tree.draws.nodes[draw])
            alone = DraftTree(
                [tree.tokens[i] for i in trunk], range(-1, len(trunk) - 1), (), kind, tree.dist,
                [tree.dist_row[i] for i in trunk] if tree.dist_row else (),
            )  # fmt: skip
            branches += len(tree) - len(trunk)
            assert verdicts(tree, p, dict(enumerate(range(len(tree))))) == verdicts(
                alone, p, dict(enumerate(trunk))
            )
    assert branches > 0


def verdicts(tree: DraftTree, p: dict, names: dict[int, int]) -> dict:
    """Verdict -> probability, with the nodes under other names."""
    out: dict = {}
    rows = Rows(p, tree)
    for verdict, chance in outcomes(lambda coins: Token().judge(tree, rows, coins)):
        key = (tuple(names[i] for i in verdict.path), verdict.bonus)
        out[key] = out.get(key, 0.0) + chance
    return {key: pytest.approx(chance, abs=EXACT) for key, chance in out.items()}


def test_an_accepted_leaf_ends_with_the_targets_own_draw() -> None:
    p = context_free([0.2, 0.5, 0.3], 1)
    tree = DraftTree([1], [-1], (), "sampled", p[()][None], [0])
    assert Token().judge(tree, Rows(p, tree), Told(True)) == Verdict((0,), 1)
    for seed in range(20):  # with the number of its own position
        coins, plain = (Coins(PositionRandom(seed), 1) for _ in range(2))
        rows = Rows(p, tree, 1)
        assert Token().judge(tree, rows, coins).bonus == plain.token(p[(1,)], 2)


class Untouched(Token):
    """Planted fault: what follows a rejection is drawn from p."""

    def decide(self, tree, rows, coins):
        class Deaf:
            accept = staticmethod(coins.accept)
            token = staticmethod(lambda probs, at: coins.token(rows.probs(-1), at))

        return super().decide(tree, rows, Deaf)


def test_a_planted_fault_is_found() -> None:
    p, trees = every_draft("sampled", "chain1", 3)
    assert distance(p, law(Untouched(), p, trees, 1)[0], 2) > 0.01
    assert distance(p, law(Token(), p, trees, height(SHAPES["chain1"]))[0], 2) <= EXACT
