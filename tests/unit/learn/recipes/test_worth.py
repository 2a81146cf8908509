"""worth: tokens per step from two forwards, against counting every way a text can come about."""

import copy

import numpy as np
import pytest
import torch
from tests import tiny

from foretoken.learn.recipes.rows import Rows
from foretoken.learn.recipes.worth import expected_steps, runs, worth


def counted(accepted, length):
    """Expected steps, by following every outcome of every draft."""

    def ways(start):
        if start >= len(accepted):
            return 0.0
        total = 1.0
        chance = 1.0
        for k in range(length + 1):
            if k == length or start + k >= len(accepted):
                return total + chance * ways(start + k + 1)
            total += chance * (1 - accepted[start + k]) * ways(start + k + 1)
            chance *= accepted[start + k]
        raise AssertionError

    return ways(0)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_expected_steps_are_those_of_all_outcomes(length: int) -> None:
    rng = np.random.default_rng(length)
    for size in (1, 2, 3, 7, 10):
        chances = rng.random(size).tolist()
        assert expected_steps(chances, length) == pytest.approx(counted(chances, length))


def test_sure_and_hopeless_drafts() -> None:
    assert 10 / expected_steps([1.0] * 10, 4) == pytest.approx(5)
    assert 10 / expected_steps([0.0] * 10, 4) == pytest.approx(1)


def test_a_long_text_has_the_closed_form_of_independent_acceptance() -> None:
    a, g = 0.7, 4
    assert 4000 / expected_steps([a] * 4000, g) == pytest.approx((1 - a ** (g + 1)) / (1 - a), 1e-3)


def test_runs_are_the_answers_of_packed_rows() -> None:
    at = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 1, 1]], dtype=torch.bool)
    found = runs(torch.arange(6.0), at)
    assert found == [[0, 1], [2], [3], [4, 5]]


def test_figures_of_the_target_itself_and_of_a_stranger() -> None:
    target = tiny.model("llama")
    examples = [(tiny.prompt(seed, 12), 4) for seed in range(8)]
    rows = Rows.of(examples, seq=24).batch(0, 4)
    same = worth(copy.deepcopy(target), target, rows, cost=0.5, length=3)
    assert same.alpha == pytest.approx(1)
    assert same.kl == pytest.approx(0, abs=1e-6)
    assert same.tau == pytest.approx(8 / 2)  # answers of eight tokens: two steps each
    assert same.mbsu == pytest.approx(4 / 2.5)
    other = worth(tiny.model("qwen2"), target, rows, cost=0.5, length=3)
    assert other.alpha < 0.9
    assert 1 <= other.tau < 3
    assert other.kl > 0.1


def test_figures_are_those_of_real_drafts() -> None:
    """Speculative sampling on a toy: mean tokens per step over many runs."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    length, steps, tokens, taus = 3, 0, 0, []
    text = []
    for _ in range(40000):
        steps += 1
        for k in range(length + 1):
            if k == length:
                x = rng.choice(5, p=p)
                text.append(x)
                break
            x = rng.choice(5, p=q)
            if rng.random() < min(1, p[x] / q[x]):
                text.append(x)
                continue
            rest = np.maximum(p - q, 0)
            text.append(rng.choice(5, p=rest / rest.sum()))
            break
    tokens = len(text)
    taus = tokens / expected_steps([min(1, q[x] / p[x]) for x in text], length)
    assert taus == pytest.approx(tokens / steps, rel=0.02)


def test_dropped_tokens_are_never_accepted() -> None:
    target = tiny.model("llama")
    rows = Rows.of([(tiny.prompt(seed, 12), 4) for seed in range(8)], seq=24).batch(0, 4)
    whole = worth(target, target, rows, 0.5, 3, keep=range(tiny.VOCAB))
    assert whole.alpha == pytest.approx(1)
    half = worth(target, target, rows, 0.5, 3, keep=range(0, tiny.VOCAB, 2))
    assert half.alpha < 0.9
    assert half.kl == pytest.approx(whole.kl)
    none = [t for t in range(tiny.VOCAB) if t not in set(rows.ids.flatten().tolist())]
    assert worth(target, target, rows, 0.5, 3, keep=none).tau == pytest.approx(1)
