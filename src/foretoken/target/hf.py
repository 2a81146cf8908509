"""Any decoder-only Hugging Face model as a target: tree scoring with the model's own forward."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from foretoken.errors import CapabilityError, ConfigError
from foretoken.target.attention import BITWISE, FOLDED
from foretoken.target.base import Job, reads_alone
from foretoken.target.cache import KVPool, ShapeProbe, SlotCache
from foretoken.target.lean import Lean, lean
from foretoken.target.linear import made_by_height, packing
from foretoken.target.pack import Packed, Packer, Rows
from foretoken.target.shapes import BITWISE_SHAPES, ROUNDED_SHAPES, Shapes
from foretoken.target.suited import TESTED, context_limit, refuse_unsuited, try_tree
from foretoken.tree import EMPTY
from foretoken.types import Scores

MASKED = ("sdpa", "eager", FOLDED, BITWISE)  # attention implementations that obey a 4-D mask


def attention_windows(model: Any) -> dict[str, int | None]:
    """Layer type -> sliding window in tokens (None: sees everything)."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if not types:
        return {"sliding_attention": window} if window else {"full_attention": None}
    return {t: window if t == "sliding_attention" else None for t in dict.fromkeys(types)}


class HFTarget:
    """Implements `foretoken.target.base.Target` for a transformers causal language model.

    The model's weights and code are used as they are: our cache sits behind its cache interface
    and the tree comes in as a 4-D mask with explicit positions. `lean` runs the same operations on
    the same weights where it knows the family. Raises CapabilityError for a
    family that cannot be sped up (named), ConfigError for an attention implementation that does
    not obey masks.
    """

    features: frozenset[str] = frozenset({"tokens", "logits"})

    def __init__(self, model: Any, name: str = "", exact: str = "default") -> None:
        refuse_unsuited(model)
        implementation = model.config._attn_implementation
        if implementation not in MASKED:
            raise ConfigError(
                "attn_implementation", implementation, f"load the model with one of {MASKED[:2]}"
            )
        places = {p.device for p in model.parameters()}
        if len(places) > 1:
            named = ", ".join(sorted(map(str, places)))
            raise CapabilityError(f"the model lies on several devices ({named}); load it on one")
        self.model = model.eval()
        self.exact = exact
        self.shapes = self._shapes_for(exact)
        self.max_draft = self.shapes.chunk - 1
        config = model.config.get_text_config()
        self.name = name or getattr(model.config, "_name_or_path", "") or model.config.model_type
        self.vocab = int(config.vocab_size)
        self.eos = eos_ids(model)
        self.max_context = context_limit(model.config)
        self.dtype = next(p.dtype for p in model.parameters())
        self.device = next(p.device for p in model.parameters())
        self._windows = attention_windows(model)
        folded = implementation in (FOLDED, BITWISE)
        heads = int(getattr(config, "num_attention_heads", 1))
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self._packer = Packer(
            sorted(set(self._windows.values()), key=lambda w: w or 0),
            heads // kv_heads if folded else 1,
            self.dtype,
            self.device,
        )
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.pool = KVPool(self._probe_shapes(), self.dtype, self.device)
        self._lean = self._lean_forward()
        self._hidden: Tensor | None = None  # [B, rows, H] of the last forward, if watched
        if model.config.model_type not in TESTED:
            try_tree(self)

    def _lean_forward(self) -> Lean | None:
        made = lean(self.model, self._windows)
        if made is not None:
            made.prepare(self.pool)
        return made

    def _shapes_for(self, exact: str) -> Shapes:
        if exact == "bitwise":
            return BITWISE_SHAPES
        return ROUNDED_SHAPES if made_by_height(self.model) else Shapes()

    @property
    def how(self) -> str:
        """How forwards run, for cost curves and reports."""
        ours = "" if self._lean is None else self._lean.name
        parts = [self.model.config._attn_implementation, ours, packing(self.model), self.exact]
        return " ".join(part for part in parts if part)

    @torch.inference_mode()
    def _probe_shapes(self) -> dict[int, tuple[tuple[int, int], tuple[int, int]]]:
        probe = ShapeProbe()
        self.model(
            input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device),
            position_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device),
            attention_mask=self._for_model(self._packer.pack([Rows(0, [0], EMPTY)], 1, 1).masks),
            past_key_values=probe,
            use_cache=True,
        )
        if not probe.shapes:
            raise CapabilityError(
                f"model family {self.model.config.model_type!r}: it does not store keys and values "
                "through transformers' cache interface"
            )
        return probe.shapes

    def watch_hidden(self) -> None:
        """From now on `Scores.hidden["final"]` holds what the output layer reads. Called twice, it
        changes nothing."""
        if "hidden:final" not in self.features:
            self.features = self.features | {"hidden:final"}
            self.model.get_output_embeddings().register_forward_pre_hook(self._note_hidden)

    def _note_hidden(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        self._hidden = inputs[0]

    def new_cache(self, capacity: int) -> SlotCache:
        """See `Target`."""
        if self._lean is not None and not self._lean.stands():
            self._lean = self._lean_forward()  # somebody changed the model meanwhile
        return self.pool.acquire(capacity)

    def score(self, jobs: Sequence[Job]) -> list[Scores]:
        """See `Target`. Sessions that read a prompt go alone; all others share a forward."""
        out: dict[int, Scores] = {}
        together: list[int] = []
        for i, job in enumerate(jobs):
            if self.shapes.alone or reads_alone(job, jobs):
                out[i] = self._forward([job])[0]
            else:
                together.append(i)
        if together:
            scores = self._forward([jobs[i] for i in together])
            out.update(zip(together, scores, strict=True))
        return [out[i] for i in range(len(jobs))]

    @torch.inference_mode()
    def _forward(self, jobs: Sequence[Job]) -> list[Scores]:
        caches = [self._slot(job) for job in jobs]
        lo = self._side_by_side(caches)
        order = sorted(range(len(jobs)), key=lambda i: caches[i].slot)
        batch = [_rows(caches[i], jobs[i]) for i in order]
        if len(batch) == 1:
            batch = [self._read_ahead(lo, batch[0])]
        logits, first = self._call(lo, batch)
        hidden, self._hidden = self._hidden, None
        if hidden is not None and hidden.shape[1] > logits.shape[1]:  # cut behind the output layer
            hidden = hidden[:, first : first + logits.shape[1]]
        out: dict[int, Scores] = {}
        for b, i in enumerate(order):
            if jobs[i].fresh:
                caches[i].fresh = len(jobs[i].fresh)
            caches[i].used = caches[i].length + caches[i].fresh + len(jobs[i].tree)
            # from the root's row on; a tree that grows has got its root's row before
            root = max(len(batch[b].fresh) - 1, 0) - first
            rows = slice(root, len(batch[b]) - first)
            states = {} if hidden is None else {"final": hidden[b, rows]}
            out[i] = Scores(logits[b, rows], states)
        return [out[i] for i in range(len(jobs))]

    def wait(self) -> None:
        """See `Target`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def now(self) -> float:
        """See `Target`."""
        return perf_counter()

    @staticmethod
    def _slot(job: Job) -> SlotCache:
        if not isinstance(job.cache, SlotCache):
            raise TypeError("this cache was made by another target")
        return job.cache

    def _side_by_side(self, caches: Sequence[SlotCache]) -> int:
        """First slot of the forward; swaps slots if the sessions do not lie side by side."""
        slots = sorted(c.slot for c in caches)
        if slots[-1] - slots[0] == len(slots) - 1:
            return slots[0]
        for to, cache in enumerate(sorted(caches, key=lambda c: c.slot)):
            if cache.slot != to:
                self.pool.swap(to, cache.slot)
        return 0

    def _read_ahead(self, lo: int, rows: Rows) -> Rows:
        """Run all but the last piece of a long prompt; what is left for the scoring forward."""
        if rows.scored:
            return rows
        base, fresh, chunk = rows.base, list(rows.fresh), self.shapes.chunk
        while len(fresh) > 1 and len(fresh) + len(rows.tree) > chunk:
            piece = fresh[: min(chunk, len(fresh) - 1)]
            self._call(lo, [Rows(base, piece, EMPTY)])
            base, fresh = base + len(piece), fresh[len(piece) :]
        return Rows(base, fresh, rows.tree)

    def _call(self, lo: int, batch: Sequence[Rows]) -> tuple[Tensor, int]:
        """(logits [B, rows kept, V], index of the first row kept)."""
        used = max(map(len, batch))
        n = self.shapes.rows(used)
        length = self.shapes.length(max(r.start for r in batch) + n)
        self.pool.ensure(length)
        packed = self._packer.pack(batch, n, length)
        first, many = 0, n
        if len(batch) == 1 and self._keeps_logits:  # only the root's and the draft's are wanted
            wanted = min(len(batch[0].tree) + 1, used)
            many = self.shapes.rows(wanted)
            first = min(used - wanted, n - many)
        return self._run(packed, lo, [r.start for r in batch], slice(first, first + many)), first

    def _run(self, packed: Packed, lo: int, starts: Sequence[int], kept: slice) -> Tensor:
        """Logits [B, rows kept, V]."""
        n, length = packed.ids.shape[1], next(iter(packed.masks.values())).shape[-1]
        self.pool.place(lo, starts, n, length)
        if self._lean is not None:
            return self._lean(packed.ids, packed.positions, packed.masks, self.pool, kept)
        extra: dict[str, Any] = {}
        if kept.stop < n:
            extra["logits_to_keep"] = torch.arange(kept.start, kept.stop, device=self.device)
        elif kept.start:
            extra["logits_to_keep"] = n - kept.start
        logits: Tensor = self.model(
            input_ids=packed.ids,
            position_ids=packed.positions,
            attention_mask=self._for_model(packed.masks),
            past_key_values=self.pool,
            use_cache=True,
            **extra,
        ).logits
        return logits

    def _for_model(self, masks: dict[int | None, Tensor]) -> Tensor | dict[str, Tensor]:
        """One mask where all layers see alike, else one per layer type."""
        if len(self._windows) == 1:
            return masks[next(iter(self._windows.values()))]
        return {kind: masks[window] for kind, window in self._windows.items()}


def _rows(cache: SlotCache, job: Job) -> Rows:
    if job.scored and (job.fresh or cache.used != cache.length + cache.fresh + job.scored):
        raise ValueError("a draft grows from where the call before it ended")
    base = cache.length + (0 if job.fresh else cache.fresh)
    return Rows(base, job.fresh, job.tree, job.scored)


def eos_ids(model: Any) -> tuple[int, ...]:
    """The tokens that end a text of this model, as it generates."""
    eos = getattr(model.generation_config, "eos_token_id", None) if model.can_generate() else None
    if eos is None:
        eos = model.config.eos_token_id
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (int(eos),)
