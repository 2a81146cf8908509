"""Our KV cache: preallocated rows behind transformers' cache interface, many sessions in one pool.

Every layer's keys and values lie in one tensor [2 * layers, slots, heads, rows, head_dim] (one per
shape, where layers differ). A session owns a slot; row r of its slot is token r. A forward writes
its fresh tokens and draft after the committed rows of each slot and attends to a plain slice of the
tensor: nothing that grows with the context is copied. Sliding-window layers keep all rows too (the
mask hides what is out of the window), because a cache that drops rows could not be rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

ROWS_STEP = 64  # capacity grows in steps of so many rows


class ShapeProbe(Cache):  # type: ignore[misc]
    """Stands in for the cache in one forward and notes what each layer would store."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.shapes: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Note (heads, head_dim) of keys and of values."""
        self.shapes[layer_idx] = (
            (key.shape[1], key.shape[3]),
            (value.shape[1], value.shape[3]),
        )
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Nothing is stored."""
        return 0


class KVPool(Cache):  # type: ignore[misc]
    """The memory of all sessions. `place` says where the next forward writes; `update` obeys."""

    def __init__(
        self,
        shapes: dict[int, tuple[tuple[int, int], tuple[int, int]]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(layers=[])
        self._dtype, self._device = dtype, device
        self._where: dict[
            tuple[int, int], tuple[int, int]
        ] = {}  # (layer, 0 key | 1 value) -> group
        members: dict[tuple[int, int], int] = {}
        groups: list[tuple[int, int]] = []
        for layer, pair in sorted(shapes.items()):
            for side, shape in enumerate(pair):
                if shape not in groups:
                    groups.append(shape)
                    members[shape] = 0
                self._where[layer, side] = (groups.index(shape), members[shape])
                members[shape] += 1
        self._sizes = [(members[shape], *shape) for shape in groups]
        self.store: list[Tensor] = []
        self.rows = 0  # capacity of a slot
        self.handles: list[SlotCache] = []  # live ones are dense: handles[i].slot == i
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._addresses: np.ndarray | None = None
        self._lo, self._hi = 0, 0
        self._starts: Sequence[int] = ()
        self._at: int | tuple[Tensor, Tensor] = 0
        self._length = 0

    def shape_of(self, layer: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(heads, head_dim) of a layer's keys and of its values."""
        keys, values = (self._sizes[self._where[layer, side][0]][1:] for side in (0, 1))
        return keys, values

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(t.numel() * t.element_size() for t in self.store)

    def acquire(self, capacity: int) -> SlotCache:
        """A slot of at least `capacity` rows; grows the pool when it must (a copy, once)."""
        slots = self.store[0].shape[1] if self.store else 0
        self._grow(slots if len(self.handles) < slots else max(1, 2 * slots), capacity)
        handle = SlotCache(self, len(self.handles))
        self.handles.append(handle)
        return handle

    def ensure(self, rows: int) -> None:
        """Grow until every slot holds `rows` rows (padding rows of a batch need room, too)."""
        self._grow(self.store[0].shape[1], rows)

    def _grow(self, slots: int, rows: int) -> None:
        rows = max(self.rows, -(-rows // ROWS_STEP) * ROWS_STEP)
        if self.store and rows == self.rows and slots == self.store[0].shape[1]:
            return
        # zeros, not empty: a masked row still meets the softmax's 0 * value, and 0 * NaN is NaN.
        # Not inference tensors, even in a forward: `keep` writes to them outside of one. All rows
        # are copied, since another session's prompt may be read and not yet kept.
        store: list[Tensor] = []
        with torch.inference_mode(False):
            for i, (members, heads, dim) in enumerate(self._sizes):
                new = torch.zeros(
                    members, slots, heads, rows, dim, dtype=self._dtype, device=self._device
                )
                if self.store:
                    new[:, : self.store[i].shape[1], :, : self.rows] = self.store[i]
                store.append(new)
        self._arrays, self._addresses = [], None
        self.store, self.rows = store, rows  # last: out of memory leaves the sessions as they were

    def clear(self) -> None:
        """Give all memory back; nobody has a slot."""
        self.store, self.rows, self._arrays, self._addresses = [], 0, [], None

    def release(self, handle: SlotCache) -> None:
        """Free a slot; the last one moves into the hole, so that the live slots stay dense."""
        last = self.handles[-1]
        if last is not handle:
            for t in self.store:
                t[:, handle.slot, :, : last.used] = t[:, last.slot, :, : last.used]
            self.handles[handle.slot] = last
            last.slot = handle.slot
        self.handles.pop()

    def swap(self, a: int, b: int) -> None:
        """Exchange two slots, so that the sessions of a forward lie side by side."""
        n = max(self.handles[a].used, self.handles[b].used)
        for t in self.store:
            t[:, [a, b], :, :n] = t[:, [b, a], :, :n]
        self.handles[a], self.handles[b] = self.handles[b], self.handles[a]
        self.handles[a].slot, self.handles[b].slot = a, b

    def place(self, lo: int, starts: Sequence[int], rows: int, length: int) -> None:
        """Before a forward: slots lo.. write `rows` rows from their start; attend to `length`."""
        self._lo, self._hi, self._length = lo, lo + len(starts), length
        self._starts = starts
        if len(starts) == 1:
            self._at = starts[0]
        else:
            at = torch.tensor(starts, device=self._device)[:, None]
            self._at = (
                torch.arange(lo, self._hi, device=self._device)[:, None],
                at + torch.arange(rows, device=self._device),
            )

    def place_static(self, slots: Tensor, positions: Tensor, length: int) -> None:
        """As `place`, with the rows to write in tensors [B, 1] and [B, n] (compiled graphs)."""
        self._lo, self._hi, self._length = 0, slots.shape[0], length
        self._starts = ()
        self._at = (slots, positions)

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by every attention layer: store [B, H, n, D], give back [B, H, length, D]."""
        return self._put(layer_idx, 0, key), self._put(layer_idx, 1, value)

    def held(self) -> list[tuple[Tensor, Tensor]]:
        """What the placed forward attends to: keys and values [B, H, length, D] of each layer."""
        whole = [rows[:, self._lo : self._hi, :, : self._length].unbind() for rows in self.store]
        places = ((self._where[layer, 0], self._where[layer, 1]) for layer in self._layers())
        return [(whole[g][m], whole[h][n]) for (g, m), (h, n) in places]

    def arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(keys, values) [slots, heads, rows, head_dim] of each layer as `array_of` gives them, for
        whoever writes to them from outside of PyTorch. Good until the pool grows."""
        if not self._arrays:
            self._arrays = [
                (array_of(self._plane(layer, 0)), array_of(self._plane(layer, 1)))
                for layer in self._layers()
            ]
        return self._arrays

    def addresses(self) -> tuple[np.ndarray, tuple[int, int]]:
        """([layers, 6] for each layer: where its keys and its values lie, where those of the placed
        forward's first session lie, bytes between slots and between heads; (slots, rows)). Good
        until the pool grows."""
        if self._addresses is None:
            self._addresses = np.array(
                [
                    (*(2 * (keys.ctypes.data, values.ctypes.data)), *keys.strides[:2])
                    for keys, values in self.arrays()
                ]
            )
        out = self._addresses.copy()
        out[:, 2:4] += self._lo * out[:, 4:5]
        return out, (self.store[0].shape[1], self.rows)

    def _layers(self) -> list[int]:
        return [layer for layer, side in self._where if not side]

    def written(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(slot, row) [B * n] of the n rows that the placed forward writes for each session."""
        slots = np.repeat(np.arange(self._lo, self._hi), n)
        return slots, (np.array(self._starts)[:, None] + np.arange(n)).reshape(-1)

    def _plane(self, layer: int, side: int) -> Tensor:
        """[slots, heads, rows, head_dim]"""
        group, member = self._where[layer, side]
        return self.store[group][member]

    def _put(self, layer: int, side: int, new: Tensor) -> Tensor:
        rows = self._plane(layer, side)
        if isinstance(self._at, int):
            rows[self._lo, :, self._at : self._at + new.shape[2]] = new[0]
        else:
            slots, at = self._at
            rows[slots, :, at] = new.transpose(1, 2)
        return rows[self._lo : self._hi, :, : self._length]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Models ask only to make positions and masks, which we pass in."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:  # noqa: ARG002
        """As above."""
        return self._length, 0


class SlotCache:
    """One session's memory: the KVCache of `foretoken.target.base`."""

    def __init__(self, pool: KVPool, slot: int) -> None:
        self.pool, self.slot = pool, slot
        self.length = 0
        self.fresh = 0  # rows of committed tokens that the last score wrote after `length`
        self.used = 0  # rows that hold something: committed, fresh and draft
        self._alive = True

    @property
    def capacity(self) -> int:
        """Rows of the slot."""
        return self.pool.rows

    def keep(self, path: Sequence[int]) -> None:
        """Commit the fresh rows of the last score and the draft rows on the path, moved together.

        One index operation per stored shape for all layers; none when the path's rows already lie
        side by side (a chain that was accepted from its start).
        """
        base = self.length + self.fresh
        if any(node != i for i, node in enumerate(path)):
            source = torch.tensor([base + node for node in path], device=self.pool._device)
            for t in self.pool.store:
                rows = t[:, self.slot]
                rows[:, :, base : base + len(path)] = rows[:, :, source]
        self.length = self.used = base + len(path)
        self.fresh = 0

    def truncate(self, n: int) -> None:
        """Forget all but the first n tokens."""
        if not 0 <= n <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} rows to {n}")
        self.length, self.used, self.fresh = n, n, 0

    def reserve(self, capacity: int) -> None:
        """Make room for so many rows at least (in every slot: they are of one size)."""
        self.pool.ensure(capacity)

    def release(self) -> None:
        """Give the slot back."""
        if self._alive:
            self._alive = False
            self.pool.release(self)


def array_of(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor on a CPU as an array; bfloat16, which numpy lacks, as its 16 bits."""
    tensor = tensor.detach()
    array: np.ndarray = (
        tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    ).numpy()
    return array
