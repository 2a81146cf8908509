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
from foretoken.target.linear import PackedLinear, hooked, side_by_side
from foretoken.target.tiles import IN, Tiles

_ALIGN = 64  # bytes
# Of a layer's keys and values: where they lie, where those of the forward's first session lie,
# bytes between sessions and between heads.
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

    def stands(self) -> bool:
        """See `Lean`. Every linear layer of it has to be tiles, and nothing more."""
        if not super().stands():
            return False
        layers = list(self._tiled())
        if len(layers) < len(self._found) or layers[0].module.self_attn.head_dim % IN:
            return False
        self._written = _Written(layers, [each.window for each in self._found], self._model.model)
        self._spare: list[np.ndarray] = []  # memory of forwards that are over
        self._planes: tuple[Any, np.ndarray] = (None, np.empty(0))
        return True

    def _tiled(self) -> Iterator[_Layer]:
        """Its layers, up to the first that has another product."""
        for layer in self.layers():
            a, mlp = layer.self_attn, layer.mlp
            called = (
                side_by_side((a.q_proj, a.k_proj, a.v_proj)), a.o_proj,
                side_by_side((mlp.gate_proj, mlp.up_proj)), mlp.down_proj,
            )  # fmt: skip
            parts = []
            for each in called:
                if not isinstance(each, PackedLinear) or hooked(each):
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
        (b, n), (m, length) = ids.shape, next(iter(masks.values())).shape[-2:]
        states = inner.embed_tokens(ids).clone()  # the program writes to it
        read = torch.empty(states.shape, dtype=DTYPE)  # what the output layer reads
        cos, sin = self.table(length, states)
        at, (slots, to) = positions.contiguous(), pool.written(n)
        planes, (plane_slots, plane_rows) = self._addresses(pool)
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
            memory = np.empty(needed, np.uint8)
        start = -(-memory.ctypes.data // _ALIGN) * _ALIGN
        places = [start, *(start + ends[:-1]).tolist()]
        return memory, dict(zip(sizes, places, strict=True))

    def _addresses(self, pool: KVPool) -> tuple[np.ndarray, tuple[int, int]]:
        """[layers, 6], see _PLANES; slots and rows of the pool."""
        arrays = pool.arrays()
        if self._planes[0] is not arrays:
            found = [
                (k.ctypes.data, v.ctypes.data, k.ctypes.data, v.ctypes.data, *k.strides[:2])
                for k, v in arrays
            ]
            self._planes = (arrays, np.array(found, np.int64))
        planes = self._planes[1].copy()
        planes[:, 2:4] += pool.first * planes[:, 4:5]
        return planes, (arrays[0][0].shape[0], arrays[0][0].shape[2])


class _Written:
    """The program of a model, with holes."""

    def __init__(self, layers: Sequence[_Layer], windows: Sequence[int | None], inner: Any) -> None:
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
        self._norm(more, inner.norm)
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
        channels = {
            "rows": self._looks, "seen": self._seen, "made": self._hidden, "both": self._gates,
            "gated": self._gates // 2,
        }  # fmt: skip
        out = {name: b * n * many * 2 for name, many in channels.items()}
        out["folded"] = b * n * self._seen * 2 + 16 * self.channels * 2
        laid = b * attend.blocks(m, attend.QUERIES) * attend.blocks(length, attend.COLUMNS) * 1024
        return out | {f"laid {window}": laid for window in self.windows}

    def filled(self, values: Mapping[str, int], planes: np.ndarray) -> np.ndarray:
        """The program with these values and addresses."""
        given = np.array([0, *(values[name] for name in self._names)], np.int64)
        out: np.ndarray = self._fixed + np.concatenate((given, planes.reshape(-1)))[self._holes]
        return out

    def _norm(self, more: int | str, norm: Any) -> None:
        weight, eps = self._of(norm)
        self._rows.append([bfloat.steps()[0], "x", more, weight, "read", eps, "r", self._hidden])

    def _of(self, norm: Any) -> tuple[int, int]:
        """Address of its weight, bits of its eps."""
        self._kept.append(norm.weight)
        return norm.weight.data_ptr(), _bits(norm.variance_epsilon)

    def _layer(self, i: int, each: _Layer, more: int | str, laid: str, attention: int) -> None:
        _, gate, turn = bfloat.steps()
        layer, a = each.module, each.module.self_attn
        (q, q_eps), (k, k_eps) = [self._of(norm) for norm in norms(a)] or [(0, 0), (0, 0)]
        d, heads = a.head_dim, each.o.tiles.columns // a.head_dim
        kv = (each.looks.tiles.rows // d - heads) // 2
        keys, values, own_keys, own_values, per_slot, per_head = (f"{at} {i}" for at in _PLANES)
        self._norm(more, layer.input_layernorm)
        self._rows += [
            each.looks.step("read", "rows"),
            [turn, "rows", q, k, "cos", "sin", "positions", keys, values, "slots", "to", "folded",
             q_eps, k_eps, "b", "n", heads, kv, d, "plane slots", "plane rows"],
            [attention, "folded", own_keys, own_values, laid, "seen", "scratch", per_slot,
             per_head, "share", "b", kv, "m", "n", "length", d, _bits(a.scaling)],
            each.o.step("seen", "made"),
        ]  # fmt: skip
        self._norm("made", layer.post_attention_layernorm)
        self._rows += [
            each.gates.step("read", "both"),
            [gate, "both", "gated", "r", each.gates.tiles.rows // 2],
            each.down.step("gated", "made"),
        ]


def _bits(value: float) -> int:
    """Of a float32."""
    return int(np.float32(value).view(np.uint32))
