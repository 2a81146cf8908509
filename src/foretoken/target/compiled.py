"""Optional: a few static shapes, compiled once (CPU: torch.compile; GPU: CUDA graphs as well).

A small model's forward is mostly overhead of Python and of many tiny kernels; compiling removes it.
Rows are rounded up to a bucket and the attended length to a multiple of 256, so that a handful of
graphs serve everything. Warm-up costs seconds per graph (`warm_up` reports it); the compiled code
is kept on disk (TORCHINDUCTOR_CACHE_DIR, by default in foretoken's cache folder), so later
processes start quicker. Off by default, because a short run would not earn the warm-up back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from foretoken.target.base import Job
from foretoken.target.cost import cache_folder
from foretoken.target.hf import HFTarget
from foretoken.target.pack import Packed
from foretoken.target.shapes import Shapes
from foretoken.tree import DraftTree

BUCKETS = (1, 5, 9, 17, 33, 65)  # a root and 0, 4, 8, 16, 32 or 64 nodes
COMPILED_SHAPES = Shapes(buckets=(*BUCKETS, 512), columns=256)


class CompiledTarget(HFTarget):
    """An HFTarget whose forwards of up to 65 rows per session run compiled; others run as before.

    graphs: replay each shape as a CUDA graph (needs a CUDA device): the inputs are copied into
    buffers that the graph reads, and its logits are copied out.
    """

    def __init__(self, model: Any, name: str = "", graphs: bool | None = None) -> None:
        super().__init__(model, name)
        self.shapes = COMPILED_SHAPES
        self.max_draft = BUCKETS[-1] - 1
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        # every (sessions, rows, length) is one graph; PyTorch's default limit is 8
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
        self._compiled: Callable[..., Tensor] = torch.compile(self._static, dynamic=False)
        self._replays: dict[tuple[int, ...], Replay] = {}

    @property
    def how(self) -> str:
        """See HFTarget."""
        return f"{super().how} compiled"

    def warm_up(
        self,
        context: int,
        rows: Sequence[int] = BUCKETS,
        on_shape: Callable[[int, int, float], None] | None = None,
    ) -> float:
        """Compile every bucket for contexts up to `context`; seconds spent.

        on_shape(rows, length, seconds) is called after each graph.
        """
        began = perf_counter()
        for length in range(
            self.shapes.columns, context + self.shapes.columns, self.shapes.columns
        ):
            base = min(length, self.max_context) - max(rows)
            if base < 1:
                continue
            cache = self.new_cache(base + max(rows))
            cache.length = base  # what the rows hold does not matter for compiling
            for n in rows:
                start = perf_counter()
                self.score([Job(cache, [0], DraftTree([0] * (n - 1), [-1] * (n - 1)))])
                if on_shape is not None:
                    on_shape(n, self.shapes.length(base + n), perf_counter() - start)
            cache.release()
        return perf_counter() - began

    def _static(
        self, ids: Tensor, positions: Tensor, masks: list[Tensor], slots: Tensor, at: Tensor,
        length: int,
    ) -> Tensor:  # fmt: skip
        self.pool.place_static(slots, at, length)
        by_window = dict(zip(self._packer.windows, masks, strict=True))
        logits: Tensor = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._for_model(by_window),
            past_key_values=self.pool,
            use_cache=True,
        ).logits
        return logits

    def _run(self, packed: Packed, lo: int, starts: Sequence[int], kept: slice) -> Tensor:
        n = packed.ids.shape[1]
        if n > BUCKETS[-1] or lo > 0:  # graphs read the first slots; a prompt may be read elsewhere
            return super()._run(packed, lo, starts, kept)
        batch, length = len(starts), next(iter(packed.masks.values())).shape[-1]
        slots = torch.arange(lo, lo + batch, device=self.device)[:, None]
        rows = torch.tensor(starts, device=self.device)[:, None]
        rows = rows + torch.arange(n, device=self.device)
        masks = [packed.masks[w] for w in self._packer.windows]
        inputs = [packed.ids, packed.positions, *masks, slots, rows]
        if self.graphs:
            logits = self._replay(inputs, length, (batch, n, length, self.pool.rows))
        else:
            logits = self._call_static(inputs, length)
        return logits[:, kept]

    def _call_static(self, inputs: list[Tensor], length: int) -> Tensor:
        ids, positions, *masks, slots, rows = inputs
        return self._compiled(ids, positions, masks, slots, rows, length)

    def _replay(self, inputs: list[Tensor], length: int, key: tuple[int, ...]) -> Tensor:
        replay = self._replays.get(key)
        if replay is None or replay.stale(self.pool.store):
            self._replays = {k: r for k, r in self._replays.items() if not r.stale(self.pool.store)}
            replay = Replay(lambda xs: self._call_static(xs, length), inputs, self.pool.store)
            self._replays[key] = replay
        return replay(inputs)


class Replay:
    """One CUDA graph: the inputs are copied in, the output is copied out."""

    def __init__(
        self, run: Callable[[list[Tensor]], Tensor], inputs: list[Tensor], store: list[Tensor]
    ) -> None:
        self._inputs = [x.clone() for x in inputs]
        self._store = _layout(store)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compile and warm up outside of the capture
            for _ in range(2):
                run(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = run(self._inputs)

    def stale(self, store: list[Tensor]) -> bool:
        """Whether the KV pool has moved since the capture (it grew)."""
        return self._store != _layout(store)

    def __call__(self, inputs: list[Tensor]) -> Tensor:
        """Logits for new inputs of the same shapes."""
        for mine, new in zip(self._inputs, inputs, strict=True):
            mine.copy_(new)
        self._graph.replay()
        return self._output.clone()


def _layout(store: list[Tensor]) -> list[tuple[int, torch.Size]]:
    """Where the pool's tensors lie and what shape they have: what a captured graph depends on."""
    return [(t.data_ptr(), t.shape) for t in store]
