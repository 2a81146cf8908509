"""k-seq: exact for independent draws; its factor; how near it comes to the optimum (SpecTr)."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foretoken.bound.rates import k_seq_factor, k_seq_rate, multi_round
from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.verify import k_seq
from foretoken.verify.block import Block
from foretoken.verify.k_seq import KSeq, factor
from foretoken.verify.siblings import Law
from foretoken.verify.token import Token
from foretoken.verify.transport import maximum_flow, set_law
from tests.exact.enumeration import SHAPES, Rows, distance, drafts, height, law, model, sequences
from tests.unit.verify.test_siblings import EXACT, accepted, every_draft, worst


def random_pair(seed: int, vocab: int | None = None) -> tuple[Tensor, Tensor, int]:
    """p, q [V] and k; from far apart to near, from flat to peaked."""
    torch.manual_seed(seed)
    size = vocab or 3 + seed % 3
    base = torch.randn(size, dtype=torch.float64) * (0.3 + seed % 4)
    other = base + torch.randn(size, dtype=torch.float64) * (0.1 + seed % 3)
    return base.softmax(0), other.softmax(0), 2 + seed % 4


def covered(p: Tensor, q: Tensor, k: int, rho: float) -> tuple[float, float]:
    """(beta, A): the mass that one trial accepts, and that of k trials."""
    beta = min(float(torch.minimum(q, p / rho).sum()), 1.0)
    return beta, 1.0 - (1.0 - beta) ** k


def written(p: Tensor, q: Tensor, k: int, rho: float) -> Tensor:
    """[V]: the law of the token that is written with a factor."""
    beta, chance = covered(p, q, k, rho)
    rest = (p - rho * q).clamp(min=0.0)
    rest = rest if rest.any() else p  # as the rule does; chance is 1 then, to rounding
    return torch.minimum(q, p / rho) * chance / beta + (1.0 - chance) * rest / rest.sum()


def test_the_law_is_the_targets() -> None:
    assert worst(KSeq(), "sampled") <= EXACT


@pytest.mark.parametrize(("k", "depth", "vocab"), [(2, 2, 3), (2, 3, 2), (3, 2, 2)])
def test_sequences(k: int, depth: int, vocab: int) -> None:
    """Survivors are draws: merged sequences count each. More is accepted than of one sequence."""
    q = model(vocab, depth, k)
    p = model(vocab, depth, k + 9, q, 0.4)
    trees = list(sequences(q, k, depth))
    assert any(tree.draw_nodes for tree, _ in trees)
    found, mean = law(KSeq(), p, trees, depth)
    assert distance(p, found, depth + 1) <= EXACT
    chain = list(drafts(q, "sampled", SHAPES[f"chain{depth}"]))
    assert mean > accepted(Token(), p, chain, depth) + 0.05


def test_the_factor_is_the_least_valid_one() -> None:
    """beta and A agree there; below it the residual would have to be negative somewhere."""
    short = 0
    for seed in range(60):
        p, q, k = random_pair(seed)
        rho = factor(p, Law(q, 1.0), k)
        beta, chance = covered(p, q, k, rho)
        assert 1.0 <= rho <= k
        assert chance <= rho * beta + 1e-14
        assert rho == pytest.approx(1.0) or chance == pytest.approx(rho * beta, abs=1e-13)
        rest = p - torch.minimum(q, p / rho) * chance / beta
        torch.testing.assert_close(rest, (p - rho * q).clamp(min=0.0), atol=1e-12, rtol=0)
        torch.testing.assert_close(written(p, q, k, rho), p, atol=1e-12, rtol=0)
        less = 0.9 * rho
        beta, chance = covered(p, q, k, less)
        short += bool((p - torch.minimum(q, p / less) * chance / beta).min() < -1e-6)
    assert short > 30


def test_a_scaled_row_is_the_same_law() -> None:
    p, q, k = random_pair(3)
    assert factor(p, Law(3.0 * q, 3.0), k) == pytest.approx(factor(p, Law(q, 1.0), k), abs=1e-12)


def test_equal_laws_and_single_draws_have_factor_one() -> None:
    for seed in range(20):
        p, q, k = random_pair(seed)
        assert factor(p, Law(p, 1.0), k) == pytest.approx(1.0, abs=1e-12)
        assert factor(p, Law(q, 1.0), 1) == 1.0
    p = model(3, 2, 1)
    trees = list(drafts(p, "sampled", SHAPES["2x1"]))
    assert accepted(KSeq(), p, trees, 2) == pytest.approx(2.0, abs=1e-12)


def test_the_factor_agrees_with_that_of_bound() -> None:
    """Two solvers: what they accept agrees (where the excess is flat, factors need not)."""
    for seed in range(60):
        p, q, k = random_pair(seed, 2 + seed)
        rho, other = factor(p, Law(q, 1.0), k), k_seq_factor(p.numpy(), q.numpy(), k)
        assert covered(p, q, k, rho)[1] == pytest.approx(covered(p, q, k, other)[1], abs=1e-12)


@pytest.mark.parametrize("vocab", [2, 50, 20_000])
def test_single_precision_is_near(vocab: int) -> None:
    for seed in range(12):
        p, q, k = (x.float() if isinstance(x, Tensor) else x for x in random_pair(seed, vocab))
        rho = factor(p, Law(q, float(q.double().sum())), k)
        found = written(p.double(), q.double(), k, rho)
        assert float((found - p.double()).abs().sum()) / 2 < 2e-6


def test_few_passes_suffice() -> None:
    """The excess may be flat at one end, where secant steps creep."""
    for seed in range(200):
        p, q, k = random_pair(seed, 2 + seed % 7)
        calls = []

        def excess(rho: float) -> float:
            calls.append(rho)  # noqa: B023
            beta, chance = covered(p, q, k, rho)  # noqa: B023
            return chance - rho * beta

        k_seq.least(excess, float(k), 1e-15)
        assert len(calls) < 130


def test_one_draw_is_the_standard_rule() -> None:
    """With the same coins, the same verdict."""
    p, trees = every_draft("sampled", "chain3", 3)
    for seed in range(120):
        tree, _ = trees[seed % len(trees)]
        rows = Rows(p, tree)
        coins = [Coins(PositionRandom(seed), 1) for _ in range(2)]
        assert KSeq().judge(tree, rows, coins[0]) == Token().judge(tree, rows, coins[1])


@pytest.mark.parametrize("k", [2, 3])
def test_between_its_bound_and_the_optimum(k: int) -> None:
    """(1 - (1 - 1/k)^k) optimum <= k-seq <= optimum; above recursive rejection where tried."""
    shape = SHAPES[f"fan{k}"]
    for seed in range(12):
        p, q, _ = random_pair(seed, 3 if k == 3 else None)
        q_table = {(): q, **{(x,): q for x in range(len(q))}}
        p_table = {(): p, **{(x,): p for x in range(len(p))}}
        found = accepted(KSeq(), p_table, list(drafts(q_table, "sampled", shape)), height(shape))
        best = float(maximum_flow(p.numpy(), set_law(q.tolist(), k, True)).sum())
        assert (1 - (1 - 1 / k) ** k) * best - 1e-9 <= found <= best + 1e-9
        assert found == pytest.approx(
            k_seq_rate(p.numpy(), q.numpy(), k, k_seq_factor(p.numpy(), q.numpy(), k)), abs=1e-9
        )
        assert found >= multi_round(p.numpy(), q.numpy(), k)[-1] - 1e-9


class Merged(KSeq):
    """Planted fault: equal draws count once."""

    def decide(self, tree, rows, coins):
        return super().decide(replace(tree, draw_nodes=(), draw_parents=()), rows, coins)


def test_planted_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    p, trees = every_draft("sampled", "2x1", 2)
    assert distance(p, law(Merged(), p, trees, 2)[0], 3) > 0.01
    monkeypatch.setattr(k_seq, "factor", lambda p, law, k: 0.9 * factor(p, law, k))
    assert distance(p, law(KSeq(), p, trees, 2)[0], 3) > 0.01


def test_draws_without_replacement_are_not_for_it() -> None:
    """Planted fault: distinct siblings are told to be independent ones."""
    q, p = model(3, 1, 3), model(3, 1, 6)
    trees = [
        (replace(tree, kind="sampled"), chance)
        for tree, chance in drafts(q, "without_replacement", SHAPES["fan2"])
    ]
    assert distance(p, law(KSeq(), p, trees, 1)[0], 2) > 0.01


def test_disjoint_laws_reject_everything() -> None:
    p, q = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    assert 1.0 <= factor(p, Law(q, 1.0), 4) <= 4.0
    table_p, table_q = {(): p, (0,): p, (1,): p}, {(): q, (0,): q, (1,): q}
    found, mean = law(KSeq(), table_p, drafts(table_q, "sampled", SHAPES["fan3"]), 1)
    assert mean == 0.0
    assert distance(table_p, found, 2) <= EXACT


def test_a_sharp_target_takes_what_was_drafted() -> None:
    """p one-hot: the token is written always, and stands if it was drafted."""
    p = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    q, _, _ = random_pair(1, 3)
    table_p = {(): p, **{(x,): p for x in range(3)}}
    table_q = {(): q, **{(x,): q for x in range(3)}}
    trees = list(drafts(table_q, "sampled", SHAPES["fan2"]))
    missed = float((1 - q[1]) ** 2)
    assert accepted(KSeq(), table_p, trees, 1) == pytest.approx(1 - missed, abs=1e-12)


def test_on_a_trunk_block_is_better() -> None:
    q = model(2, 3, 5)
    p = model(2, 3, 6, q, 0.4)
    trees = list(drafts(q, "sampled", SHAPES["chain3"]))
    assert accepted(Block(), p, trees, 3) > accepted(KSeq(), p, trees, 3)
