"""Linear layers packed for few rows on a CPU.

A draft is checked with 2 to 64 rows at once. PyTorch's `linear` sends such shapes to a general
matrix product that re-packs the weight on every call (float32), or reads it in an order that memory
does not like (bfloat16); oneDNN reads a weight packed once. `foretoken bench --kernels` prints both
on your machine. The product is the same up to the order of its sums.
Tried and left out: joining the layers that read the same input (q, k, v; gate, up) into one product
changed nothing (0.37 B parameters, 1 and 17 rows).
"""

from __future__ import annotations

from itertools import count as _count
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

_numbers = _count()
WORTH = 1 << 19  # weights from which packing pays: smaller ones stay in the processor's cache
PACK_ROWS = 16  # the row count that oneDNN lays the weight out for; others stay correct


class PackedLinear(nn.Module):
    """y = x W^T + b with W held in oneDNN's blocked layout; x [..., in] -> [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACK_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.handle = next(_numbers)
        _LAYERS[self.handle] = self

    @property
    def place(self) -> tuple[int, int]:
        """(address, bytes) of the weight."""
        mkldnn = torch.ops.mkldnn
        return int(mkldnn.data_ptr(self.packed)), int(mkldnn._nbytes(self.packed))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if torch.compiler.is_compiling():
            traced: Tensor = packed_linear(x, self.handle, self.out_features)
            return traced
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.contiguous(), self.packed, self.bias, "none", [], ""
        )
        return out


# torch.compile cannot look into oneDNN's layout, so that graphs refer to a layer by its number.
_LAYERS: WeakValueDictionary[int, PackedLinear] = WeakValueDictionary()


@torch.library.custom_op("foretoken::packed_linear", mutates_args=())
def packed_linear(x: Tensor, handle: int, out_features: int) -> Tensor:  # noqa: ARG001
    """The product of the packed layer with this number: [..., in] -> [..., out_features]."""
    layer = _LAYERS[handle]
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        x.contiguous(), layer.packed, layer.bias, "none", [], ""
    )
    return out


@packed_linear.register_fake
def _(x: Tensor, handle: int, out_features: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(*x.shape[:-1], out_features)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether packing applies: on a CPU whose PyTorch carries oneDNN, in float32, or in bfloat16
    where the processor has it."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def made_by_height(model: nn.Module) -> bool:
    """Whether products are made for every row count anew, which takes a millisecond for each kind
    of layer: by oneDNN, for bfloat16 and for packed weights."""
    first = next(model.parameters())
    if first.dtype == torch.bfloat16:
        return can_pack(first.dtype, first.device)
    return is_packed(model)


def is_packed(model: nn.Module) -> bool:
    """Whether a layer is packed."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def pack_linears(model: nn.Module) -> int:
    """Replace the large nn.Linear of a model that we loaded ourselves; how many were replaced.

    The plain weights are dropped where nothing else (a tied embedding) holds them.
    """
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child.weight.numel() >= WORTH:
                setattr(module, name, PackedLinear(child))
                count += 1
    return count
