"""How the weight of a product lies in memory: in oneDNN's blocks, or as tiles."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

PACK_ROWS = 16  # the row count that oneDNN lays the weight out for; others stay correct


class PackedWeight(Protocol):
    """A weight [out, in] in an order that is made for its product."""

    name: str

    def __init__(self, weight: Tensor) -> None: ...

    @property
    def place(self) -> tuple[int, int]:
        """(address, bytes)."""

    def dense(self) -> Tensor:
        """[out, in]: the weight as it was given."""

    def fill(self, weight: Tensor) -> None:
        """Another weight of this shape takes its place, as soon as the next product."""

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., in] -> x W^T + bias [..., out]."""


class Blocked:
    """In oneDNN's blocked layout; see `PackedWeight`."""

    name = "packed"

    def __init__(self, weight: Tensor) -> None:
        self.fill(weight)

    @property
    def place(self) -> tuple[int, int]:
        """See `PackedWeight`."""
        mkldnn = torch.ops.mkldnn
        return int(mkldnn.data_ptr(self._packed)), int(mkldnn._nbytes(self._packed))

    def dense(self) -> Tensor:
        """See `PackedWeight`."""
        weight: Tensor = self._packed.to_dense()
        return weight

    def fill(self, weight: Tensor) -> None:
        """See `PackedWeight`."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `PackedWeight`."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.contiguous(), self._packed, bias, "none", [], ""
        )
        return out


def has_amx() -> bool:
    """Whether the processor has AMX's tiles."""
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)  # PyTorch's, since 2.6
    return asked is not None and bool(asked())


def as_tiles(weight: Tensor) -> type[PackedWeight] | None:
    """What lays a weight as tiles, where that can be."""
    if weight.dtype == torch.bfloat16 and has_amx():
        with suppress(ImportError):  # no numba for this Python
            from foretoken.target.tiles import Tiles, suits

            return Tiles if suits(weight) else None
    return None


def laid(weight: Tensor) -> PackedWeight:
    """The best there is for a weight here."""
    return (as_tiles(weight) or Blocked)(weight)
