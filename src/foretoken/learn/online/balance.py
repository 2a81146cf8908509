"""The loss "amft": imitation and acceptance in a balance that moves once per update.

Imitation is KL(p || q), the reward's loss 1 - alpha. The weight of imitation starts at 1 and
follows what would have raised acceptance on the held-out rows (`recipes.amft`, which says what is
known of the method and what is reconstructed). Cost: two gradients over one batch, one over the
slice.
Source: He, Feng, Li 2508.06944; as a controller of an online drafter, own (our notes on amft, 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foretoken.learn.online.buffer import Sample, rows
from foretoken.learn.online.loss import accepted
from foretoken.learn.recipes.amft import Controller, flat_gradient
from foretoken.learn.recipes.losses import Loss, forward_kl, tv

if TYPE_CHECKING:
    from foretoken.learn.online.update import Trainee


class Balance:
    """mu of one trainee, and the gradients that move it."""

    def __init__(self, device: torch.device) -> None:
        self.controller = Controller(device=device)
        self._imitation: Tensor | None = None
        self._reward: Tensor | None = None

    @property
    def mu(self) -> float:
        """Weight of imitation."""
        return float(self.controller.mu)

    def loss(self, log_p: Tensor, log_q: Tensor, _: Tensor | None = None, /) -> Tensor:
        """A `recipes.losses.Loss` with the weight of now."""
        return self.controller.mix(forward_kl(log_p, log_q), tv(log_p, log_q))

    def before(self, trainee: Trainee, batch: Sequence[Sample]) -> None:
        """Both gradients where the update starts."""
        self._imitation = gradient(trainee, batch, forward_kl)
        self._reward = gradient(trainee, batch, tv)

    def after(self, trainee: Trainee, held_out: Sequence[Sample]) -> None:
        """Move mu by what the held-out rows say of where the update has come to."""
        if self._imitation is None or self._reward is None or not held_out:
            return
        gradients = (gradient(trainee, held_out, _acceptance), self._imitation, self._reward)
        self._imitation = self._reward = None
        entropies = _entropies(trainee, held_out)
        known = all(bool(vector.isfinite().all()) for vector in gradients)
        if known and all(map(math.isfinite, entropies)):
            self.controller.update(*gradients, *entropies)


def gradient(trainee: Trainee, samples: Sequence[Sample], loss: Loss) -> Tensor:
    """Of the mean over rows, as one vector. Gradients must be on."""
    count, total = rows(samples), torch.zeros((), device=trainee.device)
    for sample in samples:
        mean = loss(*trainee.pair(sample)).sum() / count
        total = total + flat_gradient(mean, trainee.model.parameters())
    return total


def _acceptance(log_p: Tensor, log_q: Tensor, _: Tensor | None = None, /) -> Tensor:
    return accepted(log_p, log_q)


def _entropies(trainee: Trainee, samples: Sequence[Sample]) -> tuple[float, float]:
    """Of p and q, nats, means over rows: of the coarse rows, alike for both."""
    found = torch.zeros(2)
    with torch.no_grad():
        for sample in samples:
            for side, log in enumerate(trainee.pair(sample)):
                found[side] += float(torch.special.entr(log.exp()).sum())
    p, q = (found / rows(samples)).tolist()
    return p, q
