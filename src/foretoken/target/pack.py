"""Many sessions' fresh tokens and draft trees -> one rectangle of ids, positions and masks.

Row layout of a session: its fresh committed tokens in order (the last one is the root), then the
draft's nodes, then padding. Column c of a session's cache is its token c; the forward's own rows
stand after the committed ones. Everything is written into buffers that are made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foretoken.tree import DraftTree


@dataclass(frozen=True)
class Rows:
    """One session's part of a forward."""

    base: int  # rows in its cache that everything here comes after
    fresh: Sequence[int]  # may be empty if the tree is not: a draft that grows
    tree: DraftTree
    # leading nodes of the tree whose rows are in the cache, right after `base`; if any, nothing is
    # fresh
    scored: int = 0

    def __len__(self) -> int:
        return len(self.fresh) + len(self.tree) - self.scored

    @property
    def start(self) -> int:
        """Row of the cache that the first of these rows is written to."""
        return self.base + self.scored


def local_view(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(sees [n, c] bool, offset [c]) of the c columns after `base`, of which the last n are rows
    of this forward: which column each row sees, and each column's position minus base."""
    f, c = len(rows.fresh), len(rows.fresh) + len(rows.tree)
    offset = np.arange(c)
    if len(rows.tree):
        offset[f:] = np.asarray(rows.tree.depths) + (f - 1)
    if rows.scored:  # one level of a draft that grows: as short as can be
        sees = np.zeros((c - rows.scored, c), dtype=np.bool_)
        for row, node in zip(sees, range(rows.scored, c), strict=True):
            row[rows.tree.path(node)] = True
        return sees, offset
    sees = np.zeros((c, c), dtype=np.bool_)
    sees[:f, :f] = np.tri(f, dtype=np.bool_)
    if len(rows.tree):
        sees[f:, :f] = True
        sees[f:, f:] = rows.tree.mask()[1:, 1:]
    return sees, offset


def lay(
    batch: Sequence[Rows], n: int
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """(ids, positions, views): [B, n] of either, padded as in `Packed`; each session's own view."""
    ids = np.zeros((len(batch), n), dtype=np.int64)
    positions = np.zeros((len(batch), n), dtype=np.int64)
    views = [local_view(rows) for rows in batch]
    for b, (rows, (_, offset)) in enumerate(zip(batch, views, strict=True)):
        m = len(rows)
        ids[b, : len(rows.fresh)] = rows.fresh
        ids[b, len(rows.fresh) : m] = rows.tree.tokens[rows.scored :]
        positions[b] = rows.base
        positions[b, :m] += offset[rows.scored :]
    return ids, positions, views


@dataclass(frozen=True)
class Packed:
    """What a model is called with."""

    ids: Tensor  # [B, n] token ids, padded with 0
    positions: Tensor  # [B, n] position ids; padding repeats the session's first one
    masks: dict[int | None, Tensor]  # window -> [B, 1, fold * n, L] additive


class Packer:
    """Fills the rectangle; the masks lie in buffers that are made once and grow by doubling.

    windows: None for layers that see everything, else the sliding window's size in tokens.
    fold: query heads per KV head where the attention function wants them folded into rows, else 1.
    """

    def __init__(
        self, windows: Sequence[int | None], fold: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.windows, self.fold, self.dtype, self.device = tuple(windows), fold, dtype, device
        self._buffers: dict[int | None, Tensor] = {}

    def pack(self, batch: Sequence[Rows], n: int, length: int) -> Packed:
        """n: rows per session, padding included. length: columns attended to."""
        ids, positions, views = lay(batch, n)
        masks = {w: self._mask(w, batch, views, n, length) for w in self.windows}
        return Packed(self._send(ids), self._send(positions), masks)

    def _send(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _mask(
        self,
        window: int | None,
        batch: Sequence[Rows],
        views: Sequence[tuple[np.ndarray, np.ndarray]],
        n: int,
        length: int,
    ) -> Tensor:
        hidden = np.full((len(batch), n, length), True)
        for b, (rows, (sees, offset)) in enumerate(zip(batch, views, strict=True)):
            m, base = len(rows), rows.base
            hidden[b, :m, :base] = False
            hidden[b, :m, base : base + len(offset)] = ~sees
            # padding rows look at one finite column, so that nothing turns into NaN
            hidden[b, m:, 0] = False
            if window is not None:
                column = np.arange(base + len(offset))
                column[base:] = offset + base
                row = column[rows.start :]
                hidden[b, :m, : len(column)] |= row[:, None] - column >= window
        return self._fill(window, self._send(hidden), n, length)

    def _fill(self, window: int | None, hidden: Tensor, n: int, length: int) -> Tensor:
        b = hidden.shape[0]
        size = b * self.fold * n * length
        buffer = self._buffers.get(window)
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(2 * size, dtype=self.dtype, device=self.device)
            self._buffers[window] = buffer
        mask = buffer[:size].view(b, 1, self.fold, n, length)
        mask.zero_().masked_fill_(hidden[:, None, None], float("-inf"))
        return mask.view(b, 1, self.fold * n, length)
