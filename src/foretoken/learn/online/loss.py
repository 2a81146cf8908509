"""Losses of online learning, on rows of which the target's likeliest tokens are known.

Both rows are reduced to k + 1 outcomes: the k tokens that were kept and "another token". Every loss
of `recipes.losses` is then what it always is, of a coarser distribution: a lower bound of the
divergence of the whole rows, equal where nothing is left for the rest. The acceptance reported is
the sum over the kept tokens alone, hence a lower bound of the whole row's, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foretoken.learn.recipes.losses import LOSSES, Loss, acceptance, forward_kl, reverse_kl

MIX = "osd-mix"  # what the published code calls JSD
AMFT = "amft"  # imitation and acceptance in a balance that is learned, see recipes.amft


def osd_mix(log_p: Tensor, log_q: Tensor, _: Tensor | None = None) -> Tensor:
    """0.9 KL(p || q) + 0.1 KL(q || p) [N]; the Jensen-Shannon divergence is "jsd"."""
    return 0.9 * forward_kl(log_p, log_q) + 0.1 * reverse_kl(log_p, log_q)


ONLINE: dict[str, Loss] = {**LOSSES, MIX: osd_mix}


def names() -> tuple[str, ...]:
    """What the option `loss` may be."""
    return (*ONLINE, AMFT)


def coarse(logits: Tensor, ids: Tensor) -> Tensor:
    """[n, k + 1] float32 log-probabilities of the tokens `ids` [n, k], k < V, and of all others
    together; logits: [n, V], any temperature taken."""
    whole = logits.float()
    rest = whole.scatter(-1, ids, -torch.inf).logsumexp(dim=-1, keepdim=True)
    named = whole.gather(-1, ids)
    return torch.cat((named, rest), dim=-1) - whole.logsumexp(dim=-1, keepdim=True)


def accepted(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[n] of coarse rows: sum of min(p, q) over the tokens that have a name."""
    return acceptance(log_p[:, :-1], log_q[:, :-1])
