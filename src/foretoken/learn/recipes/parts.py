"""What the training loop asks of the parts that a recipe gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor


class Piece(Protocol):
    """What the loop asks of rows: `rows.Batch`, or alike."""

    @property
    def learned(self) -> Tensor:
        """How many predictions count, a scalar."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        ...

    def rows(self, first: int, last: int) -> Self:
        """Rows first .. last - 1."""
        ...

    def __len__(self) -> int: ...


P = TypeVar("P", bound=Piece)
P_co = TypeVar("P_co", bound=Piece, covariant=True)


class Source(Protocol[P_co]):
    """Where rows come from: `rows.Rows`, or alike."""

    @property
    def sha256(self) -> str:
        """Of all that is trained on."""
        ...

    @property
    def tokens_per_epoch(self) -> int:
        """Those that are learned, each once."""
        ...

    def batch(self, step: int, count: int, rank: int, world: int) -> P_co:
        """This process's share of the `count` rows of a step; depends on nothing else."""
        ...


LossOf = Callable[[P], tuple[Tensor, dict[str, Tensor]]]


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of all that is drawn in a step, so that nothing depends on how the run got there."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1


class Stateful(Protocol):
    """Something that changes between steps beside the weights, such as a learned weight of the
    loss: kept in checkpoints. Tensors and plain values only."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...
