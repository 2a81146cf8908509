"""Linear layers whose tables are trained. Used by `sketch`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretoken.draft.sketched import Sketch, gathered


class SketchedLinear(nn.Module):
    """y = x W^T + b with W[i, g m + j] = table[i, g, codes[i, g, j]]; x [..., n] -> [..., r].

    Only the table (float32, [r, G, 2^bits]) is trained. W is made when it is first asked for and
    then kept, until the table was written to or a gradient came (fused optimisers change a tensor
    without a trace).
    """

    codes: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, table: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())
        self.register_buffer("codes", codes)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self._weight: Tensor | None = None
        self._version = -1

    def weight(self) -> Tensor:
        """W [r, n], with the gradient of the table behind it."""
        if self._weight is None or self._version != self.table._version:
            self._weight = gathered(self.table.detach(), self.codes)
            self._version = self.table._version
        made: Tensor = _gather(self.table, self)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.linear(x, self.weight(), self.bias)


class _Gather(torch.autograd.Function):
    """Gives out the W that the layer keeps; its gradient is summed by code."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, layer: SketchedLinear) -> Tensor:  # noqa: ARG004
        ctx.layer = layer
        assert layer._weight is not None
        return layer._weight.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layer: SketchedLinear = ctx.layer
        layer._weight = None
        of_weight = gradients[0].reshape(layer.codes.shape)
        out = torch.zeros_like(layer.table)
        return out.scatter_add_(2, layer.codes.long(), of_weight), None


_gather: Any = _Gather.apply


def to_tables(model: Any, sketch: Sketch) -> list[nn.Parameter]:
    """Replace the sketched layers, in place, and freeze all else; the tables, to be trained."""
    model.requires_grad_(False)
    for name in sketch.codes:
        parent, _, last = name.rpartition(".")
        old = model.get_submodule(name)
        place = old.weight.device
        codes, table = sketch.codes[name].to(place), sketch.tables[name].to(place)
        setattr(model.get_submodule(parent), last, SketchedLinear(codes, table, old.bias))
    return [m.table for m in model.modules() if isinstance(m, SketchedLinear)]


def tables_of(model: Any) -> dict[str, Tensor]:
    """A copy of the tables as they are now, by layer."""
    return {
        name: module.table.detach().clone()
        for name, module in model.named_modules()
        if isinstance(module, SketchedLinear)
    }
