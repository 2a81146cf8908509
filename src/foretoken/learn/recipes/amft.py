"""AMFT's controller: how much to imitate and how much to reward is learned, not scheduled.

The loss is mu * imitation + (1 - mu) * reward. For a drafter imitation is KL(p || q), dense and
good from cold, and the reward loss is one of acceptance (1 - alpha, -log alpha). Every few steps mu
moves by one step of gradient on U, the acceptance on held-out rows: had the last inner step been
made with a little more imitation, U would have changed by

    dU/dmu = -rate * grad U . (grad imitation - grad reward)

Source: He, Feng, Li 2508.06944. The formulas are the specification's reconstruction of it. What
differs here: (1) the optimiser rescales gradients anyway (Muon, AdamW), so only the direction is
used: dU/dmu is divided by the lengths of both vectors and lies in -1 .. 1; (2) the entropy that is
guarded is the target's own running mean, not a constant: a drafter peakier than its target is sent
back to imitation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

LARGEST_STEP = 0.05  # of mu, so that one noisy slice cannot turn the training over


class AmftOptions(BaseModel):
    """How the weight of imitation moves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mu_min: float = Field(0.0, ge=0, le=1, description="least weight of imitation")
    mu_max: float = Field(1.0, ge=0, le=1, description="most weight of imitation, and the first")
    mu_every: int = Field(20, ge=1, description="steps between moves of the weight")
    mu_rate: float = Field(0.05, ge=0, description="move of the weight per unit of agreement")
    kappa: float = Field(0.02, ge=0, description="move per nat that the drafter is too sure by")
    entropy_memory: float = Field(0.9, ge=0, lt=1, description="memory of the target's entropy")


class Controller:
    """mu and what it depends on; `mu` is one tensor for good, changed in place."""

    def __init__(
        self, options: AmftOptions | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.options = options or AmftOptions()
        self.mu = torch.tensor(self.options.mu_max, dtype=torch.float32, device=device)
        self.wanted: float | None = None  # running mean entropy of p, nats

    def mix(self, imitation: Tensor, reward: Tensor) -> Tensor:
        """The loss."""
        return self.mu * imitation + (1 - self.mu) * reward

    def update(
        self, value: Tensor, imitation: Tensor, reward: Tensor, entropy_p: float, entropy_q: float
    ) -> float:
        """Move mu; returns it. value: gradient of U, to be made large, as one vector; imitation,
        reward: those of the two losses. Entropies in nats, means over positions.
        """
        options = self.options
        keep = options.entropy_memory
        self.wanted = (
            entropy_p if self.wanted is None else keep * self.wanted + (1 - keep) * entropy_p
        )
        scale = (value.norm() * (imitation - reward).norm()).clamp_min(1e-30)
        agreement = (meta_gradient(value, imitation, reward, 1.0) / scale).item()
        move = options.mu_rate * agreement + options.kappa * (self.wanted - entropy_q)
        move = min(max(move, -LARGEST_STEP), LARGEST_STEP)
        self.mu.add_(move).clamp_(options.mu_min, options.mu_max)
        return float(self.mu)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"mu": float(self.mu), "wanted": self.wanted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.mu.fill_(state["mu"])
        self.wanted = state["wanted"]


def meta_gradient(value: Tensor, imitation: Tensor, reward: Tensor, rate: float) -> Tensor:
    """dU/dmu after one step of plain gradient descent of size `rate`; see the module."""
    return -rate * torch.dot(value, imitation - reward)


def flat_gradient(
    loss: Tensor, parameters: Iterable[nn.Parameter], *, keep: bool = False
) -> Tensor:
    """The gradient of `loss` as one vector, zeros for parameters that it does not depend on. keep:
    the graph is needed again."""
    chosen = list(parameters)
    grads = torch.autograd.grad(loss, chosen, retain_graph=keep, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(weight) if grad is None else grad).flatten()
            for weight, grad in zip(chosen, grads, strict=True)
        ]
    )
