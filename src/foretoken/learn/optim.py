"""Optimiser and schedule: Muon for matrices, AdamW for the rest, warmup - stable - decay."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

# Coefficients of the quintic Newton-Schulz iteration of Muon (Jordan et al., 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Schedule(Protocol):
    """What `schedule` reads of a configuration."""

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""

    @property
    def warmup(self) -> int:
        """Steps of rising rate."""

    @property
    def decay(self) -> float:
        """Fraction of the steps with a falling rate."""


class Muon(Optimizer):
    """Momentum whose update is made nearly orthogonal. For 2-D matrices only.

    torch.optim.Muon iterates in bfloat16, one matrix at a time, which is slow on a processor
    without it; this one keeps the dtype of the weights and stacks matrices of equal shape.
    The update has the root mean square of AdamW's, so that both take the same learning rate.
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Apply one update from the gradients; parameters without a gradient stay."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes[weight.shape].append(weight)
            for weights in shapes.values():
                self._update(weights, group)

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        steps = []
        for weight in weights:
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            assert weight.grad is not None
            state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            steps.append(weight.grad.lerp(state["momentum"], group["momentum"]))  # Nesterov
        scale = 0.2 * max(weights[0].shape) ** 0.5
        for weight, update in zip(weights, orthogonal(torch.stack(steps)), strict=True):
            weight.mul_(1 - group["lr"] * group["decay"])
            weight.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearest nearly-orthogonal matrices: [k, m, n] -> [k, m, n], singular values about 1."""
    a, b, c = NEWTON_SCHULZ
    flipped = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if flipped else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if flipped else x


def build_optimisers(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    kind: str = "muon",
    parameters: Iterable[nn.Parameter] | None = None,
) -> list[Optimizer]:
    """ "muon": Muon on the matrices inside the layers, AdamW on embeddings, output layer and norms.
    "adamw": AdamW on all. Only the matrices decay. parameters: those to train, None for all."""
    outside = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        outside.add(id(head.weight))
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for weight in model.parameters() if parameters is None else parameters:
        inside = weight.ndim == 2 and id(weight) not in outside
        (matrices if inside else others).append(weight)
    adam: dict[str, Any] = {"lr": lr, "betas": (0.9, 0.95), "fused": True}
    made: list[Optimizer] = []
    if matrices and kind == "muon":
        made.append(Muon(matrices, lr=lr, decay=weight_decay))
    elif matrices:
        made.append(AdamW(matrices, weight_decay=weight_decay, **adam))
    if others:
        made.append(AdamW(others, weight_decay=0.0, **adam))
    return made


def schedule(step: int, config: Schedule) -> float:
    """Factor on the learning rate at 0-based `step`: linear up, 1, then linear to nearly 0.

    The last `decay * steps` steps go down. Nothing before them depends on `steps`, so a run can
    be made longer by resuming from a checkpoint that lies before the decay.
    """
    down = max(1, round(config.steps * config.decay))
    rise = (step + 1) / max(1, config.warmup)
    return min(1.0, rise, (config.steps - step) / (down + 1))
