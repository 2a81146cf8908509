"""The lean forward in bfloat16 where AMX has tiles: all layers as one program for threads.

A forward of few rows reads every weight once; what it does besides is a thousand small pieces of
work, each of which Python and PyTorch take longer to call than to do. Here a layer is nine steps on
addresses (`foretoken.target.team`): a norm, the product of queries, keys and values, their turning
and storing, the attention, a product, a norm, the product of gates and ups, the gate, a product.
What does not change from call to call stands in a table; the rest is filled into its holes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foretoken.target import attend, bfloat, team
from foretoken.target.cache import KVPool
from foretoken.target.glue import DTYPE, Glued
from foretoken.target.lean import norms
from foretoken.target.linear import Joined, PackedLinear, hooked, side_by_side
from foretoken.target.tiles import IN, Tiles, laid_size

_ALIGN = 64  # bytes
# Of a layer, as `KVPool.addresses` gives them.
_PLANES = ("keys", "values", "own keys", "own values", "per slot", "per head")


class _Product(NamedTuple):
    """A product of a layer, whose weight is tiles."""

    tiles: Tiles
    bias: Tensor | None

    def step(self, x: str, out: str) -> list[int | str]:
        bias = 0 if self.bias is None else self.bias.data_ptr()
        return self.tiles.step(x, out, "r", bias)


class _Layer(NamedTuple):
    module: Any
    looks: _Product  # queries, keys and values, side by side
    o: _Product
    gates: _Product  # gates and ups, side by side
    down: _Product


class Program(Glued):
    """See the module, and `Lean` for its law."""

    name = "program"

    def __init__(self, model: Any, windows: Mapping[str, int | None]) -> None:
        super().__init__(model, windows)
        self._spare: list[np.ndarray] = []  # memory of forwards that are over
        self._written: _Written | None = None

    def stands(self) -> bool:
        """See `Lean`. Every linear layer of it has to be tiles, and nothing more."""
        if not super().stands():
            return False
        layers, inner = list(self._tiled()), self._model.model
        if len(layers) < len(self._found) or not all(map(_fits, layers)):
            return False
        sizes = {(each.module.self_attn.head_dim, each.down.tiles.rows) for each in layers}
        if len(sizes) > 1 or not inner.norm.weight.is_contiguous():
            return False
        parts = _parts(layers, inner)
        if self._written is None or self._written.parts != parts:
            self._written = _Written(layers, [each.window for each in self._found], inner, parts)
        return True

    def _tiled(self) -> Iterator[_Layer]:
        """Its layers, up to the first that has another product."""
        for layer in self.layers():
            a, mlp = layer.self_attn, layer.mlp
            called: tuple[Any, ...] = (
                side_by_side((a.q_proj, a.k_proj, a.v_proj)), a.o_proj,
                side_by_side((mlp.gate_proj, mlp.up_proj)), mlp.down_proj,
            )  # fmt: skip
            parts = []
            for each in called:
                if type(each) not in (PackedLinear, Joined) or hooked(each):
                    return
                if not isinstance(each.packed, Tiles):
                    return
                parts.append(_Product(each.packed, each.bias))
            yield _Layer(layer, *parts)

    def __call__(
        self, ids: Tensor, positions: Tensor, masks: Mapping[int | None, Tensor], pool: KVPool,
        kept: slice,
    ) -> Tensor:  # fmt: skip
        """See `Lean`."""
        written, inner = self._written, self._model.model
        assert written is not None  # it stands
        (b, n), (m, length) = ids.shape, next(iter(masks.values())).shape[-2:]
        # the program writes to it
        states = inner.embed_tokens(ids).clone(memory_format=torch.contiguous_format)
        if states.dtype != DTYPE:
            raise RuntimeError(f"the embedding gives {states.dtype}, the layers read {DTYPE}")
        read = torch.empty(states.shape, dtype=DTYPE)  # what the output layer reads
        cos, sin = self.table(length, states)
        at, (slots, to) = positions.contiguous(), pool.written(n)
        planes, (plane_slots, plane_rows) = pool.addresses()
        held = pool.store  # this memory stays until the program is over
        share = -(-attend.scratch(m, length, written.channels) // _ALIGN) * _ALIGN
        sizes = written.sizes(b, n, m, length) | {"scratch": share * torch.get_num_threads()}
        memory, addresses = self._memory(sizes)
        values: dict[str, int] = addresses | {
            "x": states.data_ptr(), "read": read.data_ptr(), "cos": cos.data_ptr(),
            "sin": sin.data_ptr(), "positions": at.data_ptr(), "slots": slots.ctypes.data,
            "to": to.ctypes.data, "share": share, "b": b, "n": n, "r": b * n, "m": m,
            "length": length, "plane slots": plane_slots, "plane rows": plane_rows,
        }  # fmt: skip
        values |= {f"mask {window}": masks[window].data_ptr() for window in written.windows}
        team.run(written.filled(values, planes))
        del held
        self._spare.append(memory)
        logits: Tensor = self._model.get_output_embeddings()(read[:, kept])
        return logits

    def _memory(self, sizes: Mapping[str, int]) -> tuple[np.ndarray, dict[str, int]]:
        """Memory for these sizes in bytes, and where each lies in it. Memory of an earlier forward
        has been touched, which new memory has not."""
        ends = np.cumsum([-(-size // _ALIGN) * _ALIGN for size in sizes.values()])
        needed = int(ends[-1]) + 2 * _ALIGN
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if memory.size < needed:
            memory = np.empty(2 * needed, np.uint8)  # the text grows
        start = -(-memory.ctypes.data // _ALIGN) * _ALIGN
        places = [start, *(start + ends[:-1]).tolist()]
        return memory, dict(zip(sizes, places, strict=True))


def _fits(each: _Layer) -> bool:
    """Whether the sizes of a layer are those that its steps go by."""
    a, hidden = each.module.self_attn, each.down.tiles.rows
    d, heads, looks = a.head_dim, each.o.tiles.columns, each.looks.tiles.rows
    kv = (looks - heads) // 2
    return (
        d % IN == 0
        and kv > 0
        and kv % d == 0
        and looks == heads + 2 * kv
        and heads == kv * a.num_key_value_groups
        and {each.looks.tiles.columns, each.gates.tiles.columns, each.o.tiles.rows} == {hidden}
        and each.gates.tiles.rows == 2 * each.down.tiles.columns
        and all(norm.weight.is_contiguous() for norm in _norms(each.module))
    )


def _norms(layer: Any) -> list[Any]:
    return [layer.input_layernorm, *norms(layer.self_attn), layer.post_attention_layernorm]


def _parts(layers: Sequence[_Layer], inner: Any) -> list[tuple[Any, ...]]:
    """What a program was written for: it has the addresses of these."""
    out: list[tuple[Any, ...]] = []
    for each in layers:
        products = (each.looks, each.o, each.gates, each.down)
        out.append((id(each.module), each.module.self_attn.scaling))
        out += [(id(product.tiles), id(product.bias)) for product in products]
    for norm in [norm for each in layers for norm in _norms(each.module)] + [inner.norm]:
        out.append((norm.weight.data_ptr(), norm.variance_epsilon))
    return out


class _Written:
    """The program of a model, with holes."""

    def __init__(
        self,
        layers: Sequence[_Layer],
        windows: Sequence[int | None],
        inner: Any,
        parts: list[tuple[Any, ...]],
    ) -> None:
        self.parts = parts
        self.windows = list(dict.fromkeys(windows))
        self._rows: list[list[int | str]] = []
        self._kept: list[Any] = [layers]  # whose addresses it has
        a = layers[0].module.self_attn
        self.channels, self._hidden = a.head_dim, layers[0].down.tiles.rows
        self._looks = max(each.looks.tiles.rows for each in layers)
        self._seen = max(each.o.tiles.columns for each in layers)
        self._gates = max(each.gates.tiles.rows for each in layers)
        lay, attention = attend.steps()
        for window in self.windows:
            self._rows.append([lay, f"mask {window}", f"laid {window}", "b", "m", "length"])
        more: int | str = 0
        for i, (layer, window) in enumerate(zip(layers, windows, strict=True)):
            self._layer(i, layer, more, f"laid {window}", attention)
            more = "made"
        self._norm(more, inner.norm, "read", 0)
        names = {cell for row in self._rows for cell in row if isinstance(cell, str)}
        planes = [f"{name} {i}" for i in range(len(layers)) for name in _PLANES]
        self._names = sorted(names - set(planes))
        places = {name: 1 + i for i, name in enumerate([*self._names, *planes])}
        shape = (len(self._rows), team.WIDTH)
        self._fixed, self._holes = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for r, row in enumerate(self._rows):
            for c, cell in enumerate(row):
                if isinstance(cell, str):
                    self._holes[r, c] = places[cell]
                else:
                    self._fixed[r, c] = cell

    def sizes(self, b: int, n: int, m: int, length: int) -> dict[str, int]:
        """Bytes of what lies between the steps."""
        rows = {"rows": self._looks, "made": self._hidden, "both": self._gates}
        tiles = {"normed": self._hidden, "seen": self._seen, "gated": self._gates // 2}
        out = {name: b * n * many * 2 for name, many in rows.items()}
        out |= {name: laid_size(b * n, many) for name, many in tiles.items()}
        out["folded"] = b * n * self._seen * 2 + 16 * self.channels * 2
        laid = b * attend.blocks(m, attend.QUERIES) * attend.blocks(length, attend.COLUMNS) * 1024
        return out | {f"laid {window}": laid for window in self.windows}

    def filled(self, values: Mapping[str, int], planes: np.ndarray) -> np.ndarray:
        """The program with these values and addresses."""
        given = np.array([0, *(values[name] for name in self._names)], np.int64)
        out: np.ndarray = self._fixed + np.concatenate((given, planes.reshape(-1)))[self._holes]
        return out

    def _norm(
        self, more: int | str, norm: Any, out: str = "normed", tile: int = laid_size(16, IN)
    ) -> None:
        step, (weight, eps) = bfloat.steps()[0], self._of(norm)
        self._rows.append([step, "x", more, weight, out, eps, "r", self._hidden, tile])

    def _of(self, norm: Any) -> tuple[int, int]:
        """Address of its weight, bits of its eps."""
        weight = norm.weight.detach()  # its memory, whatever the parameter becomes
        self._kept.append(weight)
        return weight.data_ptr(), _bits(norm.variance_epsilon)

    def _layer(self, i: int, each: _Layer, more: int | str, laid: str, attention: int) -> None:
        _, gate, turn = bfloat.steps()
        layer, a = each.module, each.module.self_attn
        (q, q_eps), (k, k_eps) = [self._of(norm) for norm in norms(a)] or [(0, 0), (0, 0)]
        d, heads = a.head_dim, each.o.tiles.columns // a.head_dim
        kv = (each.looks.tiles.rows // d - heads) // 2
        keys, values, own_keys, own_values, per_slot, per_head = (f"{at} {i}" for at in _PLANES)
        self._norm(more, layer.input_layernorm)
        self._rows += [
            each.looks.step("normed", "rows"),
            [turn, "rows", q, k, "cos", "sin", "positions", keys, values, "slots", "to", "folded",
             q_eps, k_eps, "b", "n", heads, kv, d, "plane slots", "plane rows"],
            [attention, "folded", own_keys, own_values, laid, "seen", "scratch", per_slot,
             per_head, "share", "b", kv, "m", "n", "length", d, _bits(a.scaling)],
            each.o.step("seen", "made"),
        ]  # fmt: skip
        self._norm("made", layer.post_attention_layernorm)
        self._rows += [
            each.gates.step("normed", "both"),
            [gate, "both", "gated", "r", each.gates.tiles.rows // 2, laid_size(16, IN)],
            each.down.step("gated", "made"),
        ]


def _bits(value: float) -> int:
    """Of a float32."""
    return int(np.float32(value).view(np.uint32))
