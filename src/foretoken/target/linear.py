"""Linear layers packed for few rows on a CPU.

A draft is checked with 2 to 64 rows at once. PyTorch's `linear` sends such shapes to a general
matrix product that re-packs the weight on every call (float32), or reads it in an order that memory
does not like (bfloat16). A weight is packed once here: as tiles (`foretoken.target.tiles`) in
bfloat16 where the processor has AMX, in oneDNN's layout elsewhere. `foretoken bench --kernels`
prints packed and plain on your machine. The product is the same up to the order of its sums. Layers
that read the same input (q, k, v; gate, up) are joined: calling oneDNN's takes 25 microseconds, and
a large weight is read faster than small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from itertools import count as _count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from foretoken.target.weights import as_tiles, laid

_numbers = _count()
# weights from which packing pays: smaller ones stay in the processor's cache, but as tiles they can
# be part of a program
WORTH, TILES_WORTH = 1 << 19, 1 << 12
# children of one module that read the same input, by the names of Llama and those after it
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class PackedLinear(nn.Module):
    """y = x W^T + b with W packed; x [..., in] -> [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        self.packed = laid(linear.weight.detach())
        bias: Tensor | None = linear.bias
        self.bias = None if bias is None else bias.detach().to(self.dtype).contiguous()
        self.handle = next(_numbers)
        _LAYERS[self.handle] = self

    @property
    def place(self) -> tuple[int, int]:
        """(address, bytes) of the weight."""
        return self.packed.place

    def dense(self) -> Tensor:
        """[out, in]: the weight as it was given."""
        return self.packed.dense()

    def refill(self, weight: Tensor) -> None:
        """Another weight [out, in] takes the place of the one it has."""
        self.packed.fill(weight.detach().to(self.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if torch.compiler.is_compiling():
            traced: Tensor = packed_linear(x, self.handle, self.out_features)
            return traced
        return self.packed.product(x, self.bias)


class HalfLinear(PackedLinear):
    """A float32 layer whose product is taken in bfloat16, its sums left in float32: half of the
    weight's bytes are read. The weight itself is kept."""

    def __init__(self, linear: nn.Linear) -> None:
        self._whole = linear.weight.detach()
        half = nn.Linear(linear.in_features, linear.out_features, device="meta")
        half.weight = nn.Parameter(self._whole.bfloat16(), requires_grad=False)
        half.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().bfloat16())
        super().__init__(half)
        from foretoken.target.tiles import Tiles

        if not isinstance(self.packed, Tiles):
            raise RuntimeError("no tiles for this weight, or on this processor")
        self._tiles = self.packed

    def dense(self) -> Tensor:
        """[out, in]: the weight as it was given."""
        return self._whole

    def refill(self, weight: Tensor) -> None:
        """See the base class."""
        self._whole = weight.detach().to(self._whole.dtype)
        super().refill(weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], float32."""
        return self._tiles.product(x.bfloat16(), self.bias, torch.float32)


class Joined(PackedLinear):
    """Several layers of one input as one product, side by side."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        first = layers[0]
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        sizes = [layer.out_features for layer in layers]
        whole = nn.Linear(first.in_features, sum(sizes), bool(biases), device="meta")
        weights = torch.cat([layer.weight.detach() for layer in layers])
        whole.weight = nn.Parameter(weights, requires_grad=False)
        if biases:
            whole.bias = nn.Parameter(torch.cat(biases).detach(), requires_grad=False)
        super().__init__(whole)
        self.ends = list(accumulate(sizes))
        # the input that was read last, its product, and whose part of it has been given out; one
        # object, since the model may be run by several threads
        self._held: tuple[Tensor, Tensor, frozenset[int]] | None = None

    def share(self, index: int, x: Tensor) -> Tensor:
        """One layer's output, a view: of the product that was made for the first that asked. It is
        let go when all have asked, or at the next input."""
        held = self._held
        if held is None or held[0] is not x or index in held[2]:
            held = x, self(x), frozenset()
        _, product, given = held
        given |= {index}
        self._held = (x, product, given) if len(given) < len(self.ends) else None
        return product[..., self.bounds(index)]

    def bounds(self, index: int) -> slice:
        """The rows of one layer."""
        return slice(self.ends[index - 1] if index else 0, self.ends[index])


class PackedPart(nn.Module):
    """One layer of a `Joined`, in its own place: x [..., in] -> [..., out]."""

    def __init__(self, joined: Joined, index: int) -> None:
        super().__init__()
        self.joined, self.index = (joined,), index  # in a tuple: it is nobody's child
        rows = joined.bounds(index)
        self.in_features, self.out_features = joined.in_features, rows.stop - rows.start
        self.bias = None if joined.bias is None else joined.bias[rows]

    @property
    def place(self) -> tuple[int, int]:
        """(address, bytes) of the joined weight."""
        return self.joined[0].place

    def dense(self) -> Tensor:
        """[out, in]: the weight as it was given."""
        return self.joined[0].dense()[self.joined[0].bounds(self.index)]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        whole = self.joined[0]
        if torch.compiler.is_compiling():  # a graph makes one product of equal ones itself
            traced: Tensor = whole(x)[..., whole.bounds(self.index)]
            return traced
        return whole.share(self.index, x)


PACKED = (PackedLinear, PackedPart)


def side_by_side(layers: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """What gives the outputs of layers that read the same input, joined at their last dimension:
    one product, if they are all of one, or each layer as it is (replaced, adapted, hooked)."""
    parts = [layer for layer in layers if type(layer) is PackedPart and not hooked(layer)]
    whole = parts[0].joined[0] if parts else None
    if whole is not None and len(parts) == len(whole.ends):
        places = [(part.joined[0], part.index) for part in parts]
        if places == [(whole, index) for index in range(len(layers))]:
            return whole
    return lambda x: torch.cat([layer(x) for layer in layers], dim=-1)


def hooked(module: Any) -> bool:
    """Whether calling the module does something beside its class's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


# torch.compile cannot look into these layouts, so that graphs refer to a layer by its number.
_LAYERS: WeakValueDictionary[int, PackedLinear] = WeakValueDictionary()


@torch.library.custom_op("foretoken::packed_linear", mutates_args=())
def packed_linear(x: Tensor, handle: int, out_features: int) -> Tensor:  # noqa: ARG001
    """The product of the packed layer with this number: [..., in] -> [..., out_features]."""
    layer = _LAYERS[handle]
    return layer.packed.product(x, layer.bias)


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
    first, names = next(model.parameters()), set(packing(model).split())
    if "tiles" in names and not any(type(module) is nn.Linear for module in model.modules()):
        return "packed" in names
    if first.dtype == torch.bfloat16:
        return can_pack(first.dtype, first.device)
    return is_packed(model)


def is_packed(model: nn.Module) -> bool:
    """Whether a layer is packed."""
    return any(isinstance(module, PACKED) for module in model.modules())


def packing(model: nn.Module) -> str:
    """How its layers are packed, in a word; "" if they are not."""
    names = {module.packed.name for module in model.modules() if isinstance(module, PackedLinear)}
    parts = [module.joined[0] for module in model.modules() if isinstance(module, PackedPart)]
    names |= {part.packed.name for part in parts}
    return " ".join(sorted(names) + ["joined"] * bool(parts))


def pack_linears(model: nn.Module, join: bool = False) -> int:
    """Replace the large nn.Linear of a model that we loaded ourselves; how many were replaced.

    The plain weights are dropped where nothing else (a tied embedding) holds them. join: also join
    those that read the same input; not for torch.compile.
    """
    count = 0
    for module in list(model.modules()):
        for names in TOGETHER if join else ():
            count += _join(module, names)
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and _worth([child], join):
                setattr(module, name, PackedLinear(child))
                count += 1
    return count


def pack_head(model: Any) -> None:
    """Replace the output layer alone, if it is a large nn.Linear, of a model that drafts: by one in
    bfloat16 where the processor has tiles."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and _worth([head]):
        half = head.weight.dtype == torch.float32 and as_tiles(head.weight[:0].bfloat16())
        model.set_output_embeddings(HalfLinear(head) if half else PackedLinear(head))


def _worth(layers: Sequence[nn.Linear], join: bool = False) -> bool:
    """Whether these, taken together, are large enough."""
    weights = sum(layer.weight.numel() for layer in layers)
    tiled = join and all(as_tiles(layer.weight) for layer in layers)
    return weights >= (TILES_WORTH if tiled else WORTH)


def _join(module: nn.Module, names: Sequence[str]) -> int:
    """Join these children, if all are there, alike and worth it; how many were replaced."""
    layers = [getattr(module, name, None) for name in names]
    plain = [layer for layer in layers if type(layer) is nn.Linear]
    alike = len({(layer.in_features, layer.bias is None) for layer in plain}) == 1
    if len(plain) < len(names) or not alike or not _worth(plain, join=True):
        return 0
    joined = Joined(plain)
    for index, name in enumerate(names):
        setattr(module, name, PackedPart(joined, index))
    return len(names)
