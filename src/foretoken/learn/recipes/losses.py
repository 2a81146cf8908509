"""What a drafter is trained to make small, position by position.

Every loss is `f(log_p, log_q, weight) -> [N]` of float32 log-probabilities [N, V] of the target (a
constant) and the drafter, taken at the temperature that will be served (the caller divides both by
it). weight [N]: how much a position counts, None for all alike; only `tvd++` looks at it. The mean
over positions is the caller's. alpha = sum_x min(p, q) is the chance that a drawn token is accepted
(Leviathan et al. 2211.17192), TV = 1 - alpha.

Sources: training-extras table 3a; TVD++ is Goel et al. 2403.00858; LK losses are Samarin et al.
2602.23881; the choice among divergences is DistillSpec's, Zhou et al. 2310.08461. A token with
p = q gets reward 0, so the gradient of TV there is exactly 0; torch.minimum would split it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(Protocol):
    """See the module: log_p, log_q [N, V] and the weight of each position -> [N]."""

    def __call__(self, log_p: Tensor, log_q: Tensor, weight: Tensor | None = None, /) -> Tensor:
        """[N] float32."""
        ...


LK_ETA = 3.0  # Samarin et al.: how fast the hybrid goes from KL to TV as alpha grows
SMALLEST_SIGMA = 1e-6  # all rewards equal: there is nothing to learn from, and nothing to divide by


def acceptance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """alpha [N] of rows [N, V]; its gradient in q counts tokens with p > q only."""
    return torch.where(log_p > log_q, log_q, log_p).exp().sum(dim=-1)


def log_acceptance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log alpha [N], also where alpha itself would be 0 in float32."""
    return torch.where(log_p > log_q, log_q, log_p).logsumexp(dim=-1)


def forward_kl(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """KL(p || q) [N]; gradient in the drafter's logits: q - p."""
    return (log_p.exp() * (_finite(log_p) - log_q)).sum(dim=-1)


def reverse_kl(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """KL(q || p) [N]; gradient: q (log(q / p) - KL). Infinite where p rules a token out."""
    return (log_q.exp() * (log_q - log_p)).sum(dim=-1)


def jsd(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """Jensen-Shannon divergence [N], at most log 2."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    forward = log_p.exp() * (_finite(log_p) - log_m)
    return (forward + log_q.exp() * (log_q - log_m)).sum(dim=-1) / 2


def tv(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """Total variation 1 - alpha [N]; gradient: -q (r - E_q r), r = [p > q]."""
    return 1 - acceptance(log_p, log_q)


def lk(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """-log alpha [N], the negative log of the acceptance; gradient: that of TV / alpha."""
    return -log_acceptance(log_p, log_q)


def lk_hybrid(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """w KL + (1 - w) TV [N] with w = exp(-3 alpha), a constant of each position."""
    alpha = acceptance(log_p, log_q)
    w = torch.exp(-LK_ETA * alpha.detach())
    return w * forward_kl(log_p, log_q) + (1 - w) * (1 - alpha)


def hard_ce(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """-log q of the target's likeliest token [N]: what greedy decoding accepts."""
    return -log_q.gather(-1, log_p.argmax(dim=-1, keepdim=True)).squeeze(-1)


def advantages(
    log_p: Tensor, log_q: Tensor, weight: Tensor | None = None, *, by_position: bool = False
) -> Tensor:
    """A [N, V] = (r - mu) / sigma of the rewards r = [p > q], a constant.

    mu and sigma are of r over all positions (by `weight`) and tokens (by q). The paper does not
    say over which set they are taken; this one makes TVD++ the gradient of TV times one number.
    by_position: over the tokens of each position alone.
    """
    with torch.no_grad():
        reward = (log_p > log_q).float()
        mu = (log_q.exp() * reward).sum(dim=-1, keepdim=True)
        if not by_position:
            share = torch.ones_like(mu[:, 0]) if weight is None else weight.float()
            mu = (mu[:, 0] * share).sum() / share.sum().clamp_min(1e-30)
        sigma = (mu - mu * mu).clamp_min(0).sqrt()  # of a reward that is 0 or 1
        scale = torch.where(sigma < SMALLEST_SIGMA, 0.0, 1 / sigma.clamp_min(SMALLEST_SIGMA))
        return (reward - mu) * scale


def tvd_plus_plus(log_p: Tensor, log_q: Tensor, weight: Tensor | None = None) -> Tensor:
    """-sum_x A q [N]: its gradient is that of TV / sigma, its value is no distance."""
    return -(advantages(log_p, log_q, weight) * log_q.exp()).sum(dim=-1)


def tvd_plus_plus_each(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """TVD++ with a sigma of each position [N]: another objective, which looks most at positions
    where the drafter is surely wrong."""
    return -(advantages(log_p, log_q, by_position=True) * log_q.exp()).sum(dim=-1)


def expected_length(alphas: Sequence[Tensor] | Tensor) -> Tensor:
    """Expected accepted tokens of a draft whose k-th token is accepted with chance alphas[k]:
    sum_k prod_{j <= k} alpha_j. alphas: [g, ...]; the result is [...]."""
    stacked = alphas if isinstance(alphas, Tensor) else torch.stack(list(alphas))
    return stacked.cumprod(dim=0).sum(dim=0)


def expected_length_loss(alphas: Tensor, gamma: int) -> Tensor:
    """1 - (expected accepted tokens of the draft that begins here) / gamma, at every position.

    alphas: [B, T], chance that the token at each position is accepted given that all before it
    were (along the text, not along the drafter's own draft), 0 where no draft goes on. -> [B, T].
    """
    ahead = F.pad(alphas, (0, gamma - 1)).unfold(1, gamma, 1)  # [B, T, gamma]
    return 1 - expected_length(ahead.movedim(-1, 0)) / gamma


def log_probs(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Float32 log-probabilities of logits of any shape and dtype."""
    return F.log_softmax(logits.float() / temperature, dim=-1)


def _finite(log_p: Tensor) -> Tensor:
    """0 * -inf is no number: what p rules out adds nothing."""
    return log_p.clamp_min(torch.finfo(torch.float32).min)


LOSSES: dict[str, Loss] = {
    "forward-kl": forward_kl,
    "reverse-kl": reverse_kl,
    "jsd": jsd,
    "tv": tv,
    "tvd++": tvd_plus_plus,
    "tvd++-each": tvd_plus_plus_each,
    "lk": lk,
    "lk-hybrid": lk_hybrid,
    "ce": hard_ce,
}
