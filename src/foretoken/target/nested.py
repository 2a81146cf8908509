"""A model that may answer early: after the first of its exits that is sure enough.

The layers are cut into segments at the exits; every exit reads the state there through the model's
own last norm and output layer. Which exit answers depends on the text alone: the first whose
likeliest token has more than its threshold, strictly. A token that was answered early has not
passed the deeper layers; its state waits, and passes them together with those of its neighbours
when a later token needs them. So segments have read different numbers of positions, and no layer
ever does more work than in a plain forward.

Here a session is a single path: drafts are chains. Source: Kavehzadeh et al. 2407.01955; waiting
states after the authors' code, with their positions kept (the public code finds them by lengths,
and loses a row). Exact: the rows of an answer are one exit's, always of the same one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from foretoken.errors import ConfigError
from foretoken.target.attention import BITWISE, FOLDED
from foretoken.target.base import Job
from foretoken.target.cache import ROWS_STEP
from foretoken.target.hf import HFTarget, attention_windows
from foretoken.target.narrow import check_family, layers_of
from foretoken.target.pack import Packer, Rows
from foretoken.tree import EMPTY
from foretoken.types import Scores


class NestedTarget:
    """Implements `Target` on the model of an `HFTarget`, with caches of its own.

    exits: depths in layers, rising; the last is the whole model. thresholds: least probability of
    each exit's likeliest token, at temperature 1; the last exit answers whatever it says.
    Raises ConfigError that names the option, CapabilityError for a family whose layout is unknown.
    """

    def __init__(self, whole: HFTarget, exits: Sequence[int], thresholds: Sequence[float]) -> None:
        model = whole.model
        check_family(model, "exits")
        self.exits = checked_exits(exits, len(layers_of(model)))
        if len(thresholds) != len(self.exits):
            raise ConfigError("thresholds", list(thresholds), f"one for each exit of {self.exits}")
        self.whole, self.model, self.name = whole, model, whole.name
        self.thresholds = tuple(thresholds)
        self.vocab, self.eos, self.max_context = whole.vocab, whole.eos, whole.max_context
        self.max_draft, self.dtype, self.device = whole.max_draft, whole.dtype, whole.device
        self.features = whole.features
        self.answered: Counter[int] = Counter()  # rows by the depth that answered them
        self._kinds = getattr(model.config, "layer_types", None) or []
        self._windows = attention_windows(model)
        heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
        folded = model.config._attn_implementation in (FOLDED, BITWISE)
        self._masks = Packer(
            sorted(set(self._windows.values()), key=lambda w: w or 0),
            heads // kv_heads if folded else 1,
            self.dtype,
            self.device,
        )

    def watch_hidden(self) -> None:
        """See `HFTarget`; the state is the answering exit's."""
        self.features = self.features | {"hidden:final"}

    def wait(self) -> None:
        """See `Target`."""
        self.whole.wait()

    def now(self) -> float:
        """See `Target`."""
        return self.whole.now()

    @property
    def segments(self) -> list[range]:
        """The layers of each segment."""
        return [range(a, b) for a, b in pairwise((0, *self.exits))]

    @property
    def mean_depth(self) -> float:
        """Layers passed before an answer, on average; 0 before any."""
        rows = sum(self.answered.values())
        return sum(depth * n for depth, n in self.answered.items()) / rows if rows else 0.0

    def new_cache(self, capacity: int) -> NestedCache:
        """See `Target`."""
        return NestedCache(self, capacity)

    @torch.inference_mode()
    def score(self, jobs: Sequence[Job]) -> list[Scores]:
        """See `Target`; each session by itself, since each may end elsewhere."""
        return [self._score(job) for job in jobs]

    def _score(self, job: Job) -> Scores:
        cache = job.cache
        if not isinstance(cache, NestedCache):
            raise TypeError("this cache was made by another target")
        if not job.tree.is_chain:
            raise ValueError("a model with exits scores chains only")
        pieces = [[token] for token in job.tree.tokens[job.scored :]]
        if job.fresh:
            cache.cut(cache.length)
            cache.fresh = len(job.fresh)
            pieces.insert(0, list(job.fresh))
        states = torch.cat([self._answer(cache, piece) for piece in pieces])
        watched = {"final": states} if "hidden:final" in self.features else {}
        return Scores(self.model.lm_head(states), watched)

    def _answer(self, cache: NestedCache, tokens: Sequence[int]) -> Tensor:
        """Read the next tokens of the path; the state [1, H] that the output layer reads for the
        last of them, after the exit that answers."""
        ids = torch.tensor([tokens], device=self.device)
        states = self._run(cache, 0, self.model.model.embed_tokens(ids))
        for segment, threshold in enumerate(self.thresholds):
            final: Tensor = self.model.model.norm(states[:, -1:])[0]
            last = segment == len(self.exits) - 1
            if last or self._sure(final, threshold):
                self.answered[self.exits[segment]] += 1
                if not last:
                    cache.wait(segment, states)
                break
            states = self._run(cache, segment + 1, cache.waiting(segment, states))
        return final

    def _sure(self, final: Tensor, threshold: float) -> bool:
        if threshold <= 0.0:
            return True
        return float(self.model.lm_head(final).float().softmax(-1).max()) > threshold

    def _run(self, cache: NestedCache, segment: int, states: Tensor) -> Tensor:
        """States [1, n, H] of the positions that come next in this segment, through its layers."""
        start, n = cache.read[segment], states.shape[1]
        cache.reserve(start + n)
        packed = self._masks.pack([Rows(start, [0] * n, EMPTY)], n, start + n)
        embedded = self.model.model.rotary_emb(states, packed.positions)
        cache.writing = (start, n)
        for index in self.segments[segment]:
            kind = self._kinds[index] if self._kinds else next(iter(self._windows))
            states = self.model.model.layers[index](
                states,
                attention_mask=packed.masks[self._windows[kind]],
                position_ids=packed.positions,
                position_embeddings=embedded,
                past_key_values=cache,
                use_cache=True,
            )
        cache.read[segment] = start + n
        return states


class NestedCache:
    """One session's keys and values, as far as each segment has read, and the states that wait."""

    def __init__(self, target: NestedTarget, capacity: int) -> None:
        self.length = self.fresh = self.capacity = 0
        self.read = [0] * len(target.exits)  # positions that each segment has read, never rising
        self.writing = (0, 0)  # first row and number of rows of the segment that runs
        self._layers = [target.whole.pool.shape_of(i) for i in range(target.exits[-1])]
        self._like = torch.empty(0, dtype=target.dtype, device=target.device)
        self._store: list[tuple[Tensor, Tensor]] = []  # per layer: keys, values [1, h, rows, d]
        # per segment but the last: states [1, n, H] of positions read[m + 1] .. read[m] - 1
        self._waiting: list[Tensor | None] = [None] * (len(target.exits) - 1)
        self.reserve(capacity)

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """transformers' cache interface: take up rows, give all that the layer has."""
        start, n = self.writing
        for mine, new in zip(self._store[layer_idx], (key, value), strict=True):
            mine[:, :, start : start + n] = new
        keys, values = self._store[layer_idx]
        return keys[:, :, : start + n], values[:, :, : start + n]

    def wait(self, segment: int, states: Tensor) -> None:
        """States of positions that go no deeper now."""
        self._waiting[segment] = self.waiting(segment, states)

    def waiting(self, segment: int, states: Tensor) -> Tensor:
        """All states that wait after a segment, with new ones [1, n, H]; nothing waits then."""
        held, self._waiting[segment] = self._waiting[segment], None
        return states if held is None else torch.cat([held, states], dim=1)

    def cut(self, n: int) -> None:
        """Forget all positions from n on, in every segment, and their states."""
        before = list(self.read)
        self.read = [min(read, n) for read in self.read]
        for m, held in enumerate(self._waiting):
            if held is not None:
                left = max(self.read[m] - before[m + 1], 0)
                self._waiting[m] = held[:, :left] if left else None

    def keep(self, path: Sequence[int]) -> None:
        """See `KVCache`; the path is a leading part of the chain."""
        if list(path) != list(range(len(path))):
            raise ValueError("a chain is kept from its front on")
        self.length += self.fresh + len(path)
        self.fresh = 0
        self.cut(self.length)

    def truncate(self, n: int) -> None:
        """See `KVCache`."""
        self.length, self.fresh = min(self.length, n), 0
        self.cut(self.length)

    def reserve(self, capacity: int) -> None:
        """See `KVCache`."""
        if capacity <= self.capacity and self._store:
            return
        rows = -(-max(capacity, 2 * self.capacity, 1) // ROWS_STEP) * ROWS_STEP
        with torch.inference_mode(False):
            store = [
                tuple(self._like.new_zeros(1, heads, rows, dim) for heads, dim in shapes)
                for shapes in self._layers
            ]
            for old, new in zip(self._store, store, strict=False):
                for mine, wider in zip(old, new, strict=True):
                    wider[:, :, : mine.shape[2]] = mine
        self._store = [(keys, values) for keys, values in store]
        self.capacity = rows

    def release(self) -> None:
        """See `KVCache`."""
        self._store, self._waiting = [], [None] * len(self._waiting)


def checked_exits(exits: Sequence[int], layers: int) -> tuple[int, ...]:
    """The exits of a model of so many layers. Raises ConfigError for what cannot be."""
    found = tuple(exits)
    rising = all(a < b for a, b in pairwise(found))
    if not found or not rising or found[0] < 1 or found[-1] != layers:
        raise ConfigError("exits", list(exits), f"rising depths of which the last is {layers}")
    return found


def even_exits(layers: int, count: int = 3) -> tuple[int, ...]:
    """At most `count` exits, evenly spread from the middle of the model to its end: the paper's 6,
    9 and 12 of 12 layers."""
    first = max(layers // 2, 1)
    steps = min(count, layers - first + 1)
    if steps == 1:
        return (layers,)
    return tuple(first + round(i * (layers - first) / (steps - 1)) for i in range(steps))
