"""The processes of one training run: this one alone, or those that `accelerate launch` started.

Only what data-parallel training of a small model needs: who I am, the mean of a tensor over all,
the same tensor for all. Gradients are averaged here, once a step in one piece, and not by a wrapper
around the model, so that a recipe may call the model as it likes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.errors import ConfigError
from foretoken.target.load import choose_device


class Processes:
    """Rank, count and communication. Without a launcher accelerate is not needed.

    device: "auto", or where a process that is alone computes. Raises ConfigError.
    """

    def __init__(self, device: str = "auto") -> None:
        self._accelerator: Any = None
        self._device = choose_device(device)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import Accelerator
            except ImportError:
                accepted = "accelerate for more than one process: pip install 'foretoken[train]'"
                raise ConfigError("processes", os.environ["WORLD_SIZE"], accepted) from None
            self._accelerator = Accelerator()

    @property
    def rank(self) -> int:
        """0-based number of this process."""
        return 0 if self._accelerator is None else int(self._accelerator.process_index)

    @property
    def world(self) -> int:
        """How many processes train together."""
        return 1 if self._accelerator is None else int(self._accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Whether this one evaluates, reports and writes files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes: its own GPU, if PyTorch sees one."""
        if self._accelerator is not None:
            return torch.device(self._accelerator.device)
        return self._device

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes."""
        if self._accelerator is None:
            return tensor
        out: Tensor = self._accelerator.reduce(tensor, reduction="mean")
        return out

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over all processes, in one message per dtype."""
        if self._accelerator is None:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = self.mean(torch.cat([tensor.flatten() for tensor in group]))
            sizes = [tensor.numel() for tensor in group]
            for tensor, values in zip(group, flat.split(sizes), strict=True):
                tensor.copy_(values.view_as(tensor))

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's values."""
        if self._accelerator is None:
            return
        from accelerate.utils import broadcast

        for tensor in tensors:
            tensor.copy_(broadcast(tensor, from_process=0))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says yes: all get the same answer."""
        if self._accelerator is None:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=device)).item() > 0)

    def wait(self) -> None:
        """Until all are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
