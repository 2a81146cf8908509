import pytest
import torch

from foretoken.learn.recipes.amft import (
    LARGEST_STEP,
    AmftOptions,
    Controller,
    flat_gradient,
    meta_gradient,
)
from foretoken.learn.recipes.losses import acceptance, forward_kl, tv

V = 7


def problem(seed=0):
    """(target, held-out target, logits) of a few contexts, float64."""
    generator = torch.Generator().manual_seed(seed)
    p, held, z = (torch.randn(4, V, generator=generator, dtype=torch.float64) for _ in range(3))
    return p.log_softmax(-1), held.log_softmax(-1), z


def test_the_meta_gradient_is_the_finite_difference_of_one_step():
    p, held, z = problem()
    rate, mu, epsilon = 0.1, 0.4, 1e-5

    def value(weights):
        return acceptance(held, weights.log_softmax(-1)).mean()

    def after(mu):
        w = z.clone().requires_grad_()
        log_q = w.log_softmax(-1)
        loss = mu * forward_kl(p, log_q).mean() + (1 - mu) * tv(p, log_q).mean()
        (grad,) = torch.autograd.grad(loss, w)
        return value((w - rate * grad).detach())

    difference = (after(mu + epsilon) - after(mu - epsilon)) / (2 * epsilon)
    w = z.clone().requires_grad_()
    log_q = w.log_softmax(-1)
    imitation = flat_gradient(forward_kl(p, log_q).mean(), [w], keep=True)
    reward = flat_gradient(tv(p, log_q).mean(), [w])
    stepped = w.detach() - rate * (mu * imitation + (1 - mu) * reward).view_as(w)
    stepped.requires_grad_()
    gradient = flat_gradient(value(stepped), [stepped])
    got = meta_gradient(gradient, imitation, reward, rate)
    torch.testing.assert_close(got, difference, rtol=1e-5, atol=1e-9)


def test_equal_losses_do_not_move_the_weight():
    controller = Controller(AmftOptions(mu_max=0.5))
    gradient = torch.randn(9)
    assert controller.update(torch.randn(9), gradient, gradient.clone(), 1.0, 1.0) == 0.5


@pytest.mark.parametrize(("harmful", "end"), [("reward", 1.0), ("imitation", 0.0)])
def test_the_helpful_side_wins(harmful, end):
    """One loss goes where U grows, the other the opposite way."""
    controller = Controller(AmftOptions())
    controller.mu.fill_(0.5)
    value = torch.tensor([1.0, 0.0])
    good, bad = -value, value  # descending -value raises U
    pair = (good, bad) if harmful == "reward" else (bad, good)
    for _ in range(40):
        controller.update(value, *pair, 1.0, 1.0)
    assert controller.mu.item() == end


def test_a_drafter_that_is_too_sure_goes_back_to_imitation():
    controller, zero = Controller(AmftOptions()), torch.zeros(3)
    controller.mu.fill_(0.5)
    assert controller.update(zero, zero, zero, 2.0, 1.0) > 0.5
    assert controller.wanted == 2.0
    controller.update(zero, zero, zero, 1.0, 1.9)
    assert controller.wanted == pytest.approx(1.9)


def test_the_weight_stays_in_bounds_and_finite():
    options = AmftOptions(mu_min=0.2, mu_max=0.8, mu_rate=100.0, kappa=100.0)
    controller, value = Controller(options), torch.ones(2)
    before = controller.mu.item()
    after = controller.update(value, value, -value, 0.0, 0.0)
    assert before - after == pytest.approx(LARGEST_STEP)
    for _ in range(50):
        controller.update(value, value, -value, 0.0, 0.0)
    assert controller.mu.item() == pytest.approx(0.2)
    for _ in range(50):
        controller.update(value, -value, value, 0.0, 0.0)
    assert controller.mu.item() == pytest.approx(0.8)
    log_p = torch.randn(3, V).log_softmax(-1)
    weights = log_p.clone().requires_grad_()  # a perfect drafter: alpha is 1
    log_q = weights.log_softmax(-1)
    kl = flat_gradient(forward_kl(log_p, log_q).mean(), [weights], keep=True)
    distance = flat_gradient(tv(log_p, log_q).mean(), [weights], keep=True)
    reward = flat_gradient(acceptance(log_p, log_q).mean(), [weights])
    assert 0.2 <= controller.update(reward, kl, distance, 1.0, 1.0) <= 0.8


def test_its_state_goes_on():
    one, other = Controller(), Controller()
    one.update(torch.ones(2), torch.ones(2), -torch.ones(2), 1.5, 1.0)
    tensor = other.mu
    other.load_state_dict(one.state_dict())
    assert other.mu is tensor
    assert (other.mu.item(), other.wanted) == (one.mu.item(), one.wanted)


def drafted(target, how, seed, steps=250, lr=0.1):
    """alpha of a bigram drafter of rank 1, trained from cold."""
    generator = torch.Generator().manual_seed(seed)
    sides = ((V, 1), (1, V))
    factors = [(torch.randn(*side, generator=generator) / 2).requires_grad_() for side in sides]
    optimiser, controller = torch.optim.Adam(factors, lr=lr), Controller(AmftOptions(mu_rate=0.2))
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        log_q = (factors[0] @ factors[1]).log_softmax(-1)
        imitation, reward = forward_kl(target, log_q).mean(), tv(target, log_q).mean()
        if how == "learned" and step % 5 == 0:
            grads = [
                flat_gradient(loss, factors, keep=True) for loss in (-reward, imitation, reward)
            ]
            entropies = [-(x.exp() * x).sum(-1).mean().item() for x in (target, log_q)]
            controller.update(*grads, *entropies)
        mixes = {"kl": imitation, "tv": reward, "learned": controller.mix(imitation, reward)}
        optimiser.zero_grad()
        mixes[how].backward()
        optimiser.step()
    return acceptance(target, (factors[0] @ factors[1]).log_softmax(-1)).mean().item()


def test_a_learned_weight_is_as_good_as_either_loss_alone():
    means = {}
    for how in ("kl", "tv", "learned"):
        alphas = []
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            target = (3.0 * torch.randn(V, V, generator=generator)).log_softmax(-1)
            alphas.append(drafted(target, how, seed))
        means[how] = sum(alphas) / len(alphas)
    assert means["learned"] >= max(means["kl"], means["tv"]) - 0.01, means
