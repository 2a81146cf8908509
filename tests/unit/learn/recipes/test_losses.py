import math

import numpy as np
import pytest
import torch

from foretoken.learn.recipes.losses import (
    LOSSES,
    acceptance,
    advantages,
    expected_length,
    log_acceptance,
    log_probs,
)

V = 7
DISTANCES = ("forward-kl", "reverse-kl", "jsd", "tv", "lk")  # 0 at p = q


def pair(seed=0, n=5):
    """Logits of target and drafter [n, V], float64, so that differences can be finite."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(n, V, generator=generator, dtype=torch.float64) for _ in range(2))
    return p.log_softmax(-1), q


def gradient(name, log_p, logits, weight=None):
    z = logits.clone().requires_grad_()
    LOSSES[name](log_p, z.log_softmax(-1), weight).sum().backward()
    return z.grad


def formula(name, log_p, logits):
    """The gradient of the specification's table."""
    p, q = log_p.exp(), logits.softmax(-1)
    alpha = torch.minimum(p, q).sum(-1, keepdim=True)
    reward = (p > q).to(p.dtype)
    of_tv = -q * (reward - (q * reward).sum(-1, keepdim=True))
    kl = (q * (q / p).log()).sum(-1, keepdim=True)
    onehot = torch.zeros_like(p).scatter(-1, p.argmax(-1, keepdim=True), 1.0)
    if name.startswith("tvd++"):
        mu = (q * reward).sum(-1, keepdim=True)
        mu = mu if name == "tvd++-each" else mu.mean()
        return of_tv / (mu - mu**2).sqrt()
    lam = torch.exp(-3 * alpha)
    return {
        "forward-kl": q - p,
        "reverse-kl": q * ((q / p).log() - kl),
        "ce": q - onehot,
        "tv": of_tv,
        "lk": of_tv / alpha,
        "lk-hybrid": lam * (q - p) + (1 - lam) * of_tv,
        "jsd": 0.5 * q * ((2 * q / (p + q)).log() - (q * (2 * q / (p + q)).log()).sum(-1, True)),
    }[name]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(4))
def test_gradients_are_those_of_the_table(name, seed):
    log_p, logits = pair(seed)
    want = formula(name, log_p, logits)
    tolerance = 1e-6 if name.startswith("tvd++") else 1e-12  # its rewards are float32
    torch.testing.assert_close(gradient(name, log_p, logits), want, atol=tolerance, rtol=1e-6)


@pytest.mark.parametrize(
    "name", [n for n in LOSSES if n not in ("tvd++", "tvd++-each", "lk-hybrid")]
)
def test_gradients_are_finite_differences(name):
    log_p, logits = pair(3)
    got = gradient(name, log_p, logits)
    step = 1e-6
    for k in range(V):
        bump = torch.zeros(V, dtype=torch.float64)
        bump[k] = step
        up, down = (LOSSES[name](log_p, (logits + s * bump).log_softmax(-1)) for s in (1, -1))
        torch.testing.assert_close((up - down) / (2 * step), got[:, k], atol=1e-6, rtol=1e-6)


def test_the_gradient_of_tv_is_that_of_one_minus_the_sum_of_minima():
    log_p, logits = pair(5)
    p, step = log_p.exp(), 1e-6
    got = gradient("tv", log_p, logits)
    for k in range(V):
        bump = torch.zeros(V, dtype=torch.float64)
        bump[k] = step
        up, down = (1 - torch.minimum(p, (logits + s * bump).softmax(-1)).sum(-1) for s in (1, -1))
        torch.testing.assert_close((up - down) / (2 * step), got[:, k], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_drafter_gets_no_gradient_and_no_nan(name):
    log_p, _ = pair(1)
    got = gradient(name, log_p, log_p.clone())
    assert torch.isfinite(got).all()
    if name != "ce":
        assert got.abs().max() < 1e-12
    if name in DISTANCES:
        assert LOSSES[name](log_p, log_p).abs().max() < 1e-12


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "reverse-kl"])
def test_tokens_that_the_target_rules_out_are_no_nan(name):
    log_p, logits = pair(2)
    log_p = log_p.masked_fill(torch.arange(V) > 4, -math.inf).log_softmax(-1)
    assert torch.isfinite(LOSSES[name](log_p, logits.log_softmax(-1))).all()
    assert torch.isfinite(gradient(name, log_p, logits)).all()


def test_lk_is_cross_entropy_for_a_certain_target():
    _, logits = pair(4)
    log_p = torch.full_like(logits, -math.inf)
    log_p[:, 2] = 0.0
    for got in ("lk", "forward-kl"):
        torch.testing.assert_close(
            gradient(got, log_p, logits), gradient("ce", log_p, logits), atol=1e-12, rtol=0
        )
    log_q = logits.log_softmax(-1)
    torch.testing.assert_close(LOSSES["lk"](log_p, log_q), -log_q[:, 2])


def test_lk_still_learns_where_alpha_is_no_float():
    log_p = torch.tensor([[0.0, -400.0]]).log_softmax(-1)
    logits = torch.tensor([[-200.0, 0.0]])
    assert acceptance(log_p, logits.log_softmax(-1)).item() == 0.0
    torch.testing.assert_close(gradient("lk", log_p, logits), torch.tensor([[-1.0, 1.0]]))
    assert LOSSES["lk"](log_p, logits.log_softmax(-1)).item() == pytest.approx(200)


def test_the_hybrid_goes_from_kl_to_tv():
    log_p = torch.tensor([[0.0, -60.0]], dtype=torch.float64).log_softmax(-1)
    far = torch.tensor([[-60.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        gradient("lk-hybrid", log_p, far), gradient("forward-kl", log_p, far)
    )
    log_p, logits = pair(6)
    near = log_p + 1e-7 * logits
    lam = math.exp(-3)
    want = lam * gradient("forward-kl", log_p, near) + (1 - lam) * gradient("tv", log_p, near)
    torch.testing.assert_close(gradient("lk-hybrid", log_p, near), want, atol=1e-7, rtol=0)


def test_tvd_plus_plus_looks_at_weighted_positions_only():
    log_p, logits = pair(7, n=6)
    weight = torch.tensor([1, 0, 1, 1, 0, 1.0])
    kept = weight > 0
    alone = gradient("tvd++", log_p[kept], logits[kept])
    torch.testing.assert_close(gradient("tvd++", log_p, logits, weight)[kept], alone)


def test_sampled_tvd_plus_plus_is_unbiased_and_calmer_than_without_the_mean():
    """One token x ~ q per position, loss -A(x) log q(x): what REINFORCE would do."""
    log_p, logits = pair(8, n=1)
    q, reward = logits.softmax(-1)[0], (log_p.exp() > logits.softmax(-1)).double()[0]
    draws = np.random.default_rng(0).choice(V, size=200_000, p=q.numpy())
    score = torch.eye(V, dtype=torch.float64) - q  # of each drawn token, in logits
    centred = advantages(log_p, logits.log_softmax(-1))[0]
    plain = reward * (centred.max() - centred.min())  # same scale, no mean
    exact = gradient("tvd++", log_p, logits)[0]
    spread = []
    for advantage in (centred, plain):
        samples = -(advantage[:, None] * score)[draws]
        error = samples.std(0) / len(draws) ** 0.5
        assert ((samples.mean(0) - exact).abs() < 5 * error + 1e-9).all()
        spread.append(samples.var(0).sum().item())
    assert spread[0] < spread[1]


def test_expected_length_is_what_coins_give():
    alphas = torch.tensor([0.9, 0.6, 0.3])
    coins = np.random.default_rng(0).random((100_000, 3)) < alphas.numpy()
    simulated = coins.cumprod(axis=1).sum(axis=1).mean()
    assert expected_length(alphas).item() == pytest.approx(simulated, abs=0.01)
    alpha, gamma = 0.7, 5
    closed = (1 - alpha ** (gamma + 1)) / (1 - alpha) - 1
    assert expected_length(torch.full((gamma,), alpha)).item() == pytest.approx(closed)


def test_acceptance_and_its_logarithm_agree():
    log_p, logits = pair(9)
    log_q = logits.log_softmax(-1)
    torch.testing.assert_close(acceptance(log_p, log_q).log(), log_acceptance(log_p, log_q))
    torch.testing.assert_close(log_probs(logits, 2.0), (logits.float() / 2).log_softmax(-1))


def trained(name, target, start, steps=300, lr=0.1):
    """The factors of a bigram drafter of rank 1, trained on all contexts alike."""
    factors = [factor.clone().requires_grad_() for factor in start]
    optimiser = torch.optim.Adam(factors, lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimiser.zero_grad()
        LOSSES[name](target, (factors[0] @ factors[1]).log_softmax(-1)).mean().backward()
        optimiser.step()
    return [factor.detach() for factor in factors]


@pytest.mark.parametrize("seed", [0, 3])
def test_a_drafter_that_cannot_be_right_accepts_more_under_tv_and_lk_than_under_kl(seed):
    """From where KL ends, as the shipped recipe does: TV alone may stay in a worse valley."""
    generator = torch.Generator().manual_seed(seed)
    target = (3.0 * torch.randn(V, V, generator=generator)).log_softmax(-1)
    sides = ((V, 1), (1, V))
    start = [0.5 * torch.randn(*side, generator=generator) for side in sides]
    of_kl = trained("forward-kl", target, start)
    alphas = {}
    for name in ("forward-kl", "tv", "tvd++", "lk", "lk-hybrid"):
        left, right = trained(name, target, of_kl)
        alphas[name] = acceptance(target, (left @ right).log_softmax(-1)).mean().item()
    for name in ("tv", "tvd++", "lk", "lk-hybrid"):
        assert alphas[name] > alphas["forward-kl"] + 0.02, alphas


def test_tv_is_slower_than_lk_from_a_cold_start():
    """A drafter that is surely wrong: nearly no mass where p > q."""
    target = torch.tensor([8.0] + [0.0] * (V - 1)).log_softmax(-1)[None]
    alphas = {}
    for name in ("tv", "lk", "tvd++"):
        logits = torch.tensor([[0.0] + [8.0] + [0.0] * (V - 2)], requires_grad=True)
        optimiser = torch.optim.SGD([logits], lr=0.5)
        for _ in range(30):
            optimiser.zero_grad()
            LOSSES[name](target, logits.log_softmax(-1)).mean().backward()
            optimiser.step()
        alphas[name] = acceptance(target, logits.log_softmax(-1)).item()
    assert alphas["tv"] < 0.1
    assert alphas["lk"] > 0.5
    assert alphas["tv"] < alphas["tvd++"]
