"""sketch: centres, coding with compensation, and what they are better than."""

import itertools

import numpy as np
import pytest
import torch

from foretoken.learn.recipes.sketch_codes import (
    Inputs,
    _exact,
    centres,
    coded,
    encode,
    upper,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cost(x, weight, c):
    """Weighted squared distance to the nearest centre."""
    return float((weight * (x[:, None] - c).square().amin(dim=1)).sum())


def best_cost(x, weight, k):
    """Optimal one-dimensional clusters are ranges: every way to cut the sorted weights."""
    order = x.argsort()
    x, weight = x[order], weight[order]
    costs = []
    for cuts in itertools.combinations(range(1, len(x)), k - 1):
        parts = list(zip((0, *cuts), (*cuts, len(x)), strict=True))
        c = torch.stack([(weight[a:b] * x[a:b]).sum() / weight[a:b].sum() for a, b in parts])
        costs.append(cost(x, weight, c))
    return min(costs)


def correlated(seed: int, n: int = 64, rows: int = 2000):
    """Inputs [rows, n] whose columns differ in size and go together."""
    g = generator(seed)
    mix = torch.randn(n, n, generator=g) * 0.3 + torch.eye(n)
    scale = torch.logspace(0.5, -1.5, n)[torch.randperm(n, generator=g)]
    return torch.randn(rows, n, generator=g) @ mix.T * scale


def hessian_of(x):
    inputs = Inputs(x.shape[1], x.device)
    for part in x.split(700):
        inputs.add(part)
    return inputs.hessian()


def output_error(weight, found, x):
    made = found.table.gather(2, found.codes.long()).flatten(1)
    return float(((weight - made) @ x.T).square().sum())


def test_the_hessian_is_that_of_all_inputs() -> None:
    x = correlated(0, 5, 1500).double()
    assert torch.allclose(hessian_of(x), 2 / 1500 * x.T @ x)


def test_upper_is_the_factor_of_the_damped_inverse() -> None:
    h = hessian_of(correlated(1, 12))
    u = upper(h)
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(12)
    assert torch.allclose(u.T @ u @ damped, torch.eye(12).double(), atol=1e-8)
    assert torch.equal(u, u.triu())


@pytest.mark.parametrize("k", [2, 3])
def test_centres_are_near_the_best_that_exist(k: int) -> None:
    x = torch.randn(12, 9, generator=generator(k)).double()
    weight = torch.rand(9, generator=generator(9)).double() + 0.1
    c = centres(x, weight, k, generator())
    ratios = [
        cost(row, weight, own) / best_cost(row, weight, k) for row, own in zip(x, c, strict=True)
    ]
    assert min(ratios) >= 1 - 1e-9
    assert float(np.median(ratios)) < 1.05
    # a fixed point of Lloyd: every centre is the weighted mean of the weights nearest to it
    for row, own in zip(x, c, strict=True):
        nearest = (row[:, None] - own).abs().argmin(dim=1)
        for i in range(k):
            at = nearest == i
            if bool(at.any()):
                assert float(own[i]) == pytest.approx(
                    float((weight * row)[at].sum() / weight[at].sum())
                )


def test_centres_come_in_order_and_ties_go_down() -> None:
    c = centres(
        torch.randn(7, 40, generator=generator()).double(), torch.ones(40).double(), 16, generator()
    )
    assert bool((c.diff(dim=1) >= 0).all())
    codes, _ = encode(
        torch.tensor([[1.0]]).double(), torch.tensor([[[0.0, 2.0]]]).double(), torch.eye(1).double()
    )
    assert codes.tolist() == [[0]]


@pytest.mark.parametrize("bits", [2, 4])
def test_rows_of_few_different_weights_are_coded_without_error(bits: int) -> None:
    g = generator(3)
    values = torch.randn(6, 1 << bits, generator=g)
    weight = values.gather(1, torch.randint(0, 1 << bits, (6, 40), generator=g))
    found = coded(weight, hessian_of(correlated(3, 40)), bits, groups=1)
    assert torch.equal(found.table.gather(2, found.codes.long()).flatten(1), weight)
    assert found.loss == 0
    small = coded(weight, hessian_of(correlated(3, 40)), bits, groups=40 >> bits or 1)
    assert torch.equal(small.table.gather(2, small.codes.long()).flatten(1), weight)


def test_few_values_are_filled_up_with_the_last() -> None:
    x = torch.tensor([[1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]]).double()
    c = torch.zeros(2, 3).double()
    assert _exact(x, c).tolist() == [[1, 2, 3], [0, 0, 0]]
    assert _exact(x[:1], torch.zeros(1, 4).double()).tolist() == [[1, 2, 3, 3]]


def test_compensation_is_that_of_one_column_at_a_time() -> None:
    """Blocks change the order of sums only."""
    g = generator(4)
    w, u = torch.randn(5, 300, generator=g).double(), upper(hessian_of(correlated(4, 300)))
    table = torch.sort(torch.randn(5, 2, 4, generator=g).double(), dim=2).values
    codes, loss = encode(w, table, u)
    left, want = w.clone(), 0.0
    for j in range(300):
        c = table[:, j // 150]
        code = (left[:, j, None] - c).abs().argmin(dim=1, keepdim=True)
        error = (left[:, j] - c.gather(1, code)[:, 0]) / u[j, j]
        want += float(error.square().sum()) / 2
        left[:, j:] -= error[:, None] * u[j, j:]
        assert codes[:, j].tolist() == code[:, 0].tolist()
    assert loss == pytest.approx(want)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_centres_and_compensation_lower_the_output_error(seed: int) -> None:
    x, weight = correlated(seed), torch.randn(32, 64, generator=generator(seed)) * 0.05
    h = hessian_of(x)
    plain = coded(weight, torch.eye(64), 4, 1, exponent=0.0)  # nothing known of the inputs
    even = coded(weight, h, 4, 1, exponent=0.0)
    drawn = coded(weight, h, 4, 1)
    errors = [output_error(weight, found, x) for found in (drawn, even, plain)]
    assert errors[0] < 0.5 * errors[1] < 0.5 * errors[2]


@pytest.mark.parametrize("seed", range(3))
def test_more_bits_and_more_groups_do_not_raise_the_error(seed: int) -> None:
    x, weight = correlated(seed), torch.randn(16, 64, generator=generator(seed)) * 0.05
    h = hessian_of(x)
    by_bits = [output_error(weight, coded(weight, h, bits, 1), x) for bits in (2, 3, 4)]
    by_groups = [output_error(weight, coded(weight, h, 2, g), x) for g in (1, 2, 4, 8)]
    for errors in (by_bits, by_groups):
        assert all(b <= a * 1.02 for a, b in itertools.pairwise(errors))


def test_dead_inputs_get_no_weight() -> None:
    x = correlated(0, 8)
    x[:, 3] = 0
    weight = torch.randn(4, 8, generator=generator())
    found = coded(weight, hessian_of(x), 4, 1)
    made = found.table.gather(2, found.codes.long()).flatten(1)
    assert bool((made[:, 3] == 0).all())
    assert torch.equal(made[:, [0, 1, 2, 4, 5, 6, 7]], weight[:, [0, 1, 2, 4, 5, 6, 7]])


def test_the_same_seed_gives_the_same_codes() -> None:
    weight, h = torch.randn(8, 64, generator=generator()), hessian_of(correlated(0))
    a, b = coded(weight, h, 4, 2), coded(weight, h, 4, 2)
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.table, b.table)
