"""Any decoder-only Hugging Face model as a target: tree scoring with the model's own forward."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.errors import CapabilityError, ConfigError
from foretoken.target.attention import BITWISE, FOLDED
from foretoken.target.base import Job
from foretoken.target.cache import KVPool, ShapeProbe, SlotCache
from foretoken.target.linear import PackedLinear
from foretoken.target.pack import Packed, Packer, Rows
from foretoken.tree import EMPTY
from foretoken.types import Scores

PREFILL_CHUNK = 512  # longer prompts are read in pieces of so many tokens
MASKED = ("sdpa", "eager", FOLDED, BITWISE)  # attention implementations that obey a 4-D mask
WINDOWED = {"full_attention", "sliding_attention"}


def refuse_unsuited(model: Any) -> None:
    """Raise CapabilityError, by name, for a family whose state cannot be rolled back or masked."""
    config = model.config
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise CapabilityError(f"model family {kind!r}: encoder-decoder, not a decoder-only model")
    types = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if getattr(model, "_is_stateful", False) or types - WINDOWED:
        why = f" (layers: {', '.join(sorted(types))})" if types else ""
        raise CapabilityError(
            f"model family {kind!r}: its recurrent state cannot be rolled back after a rejected "
            f"draft{why}; foretoken needs attention layers only"
        )
    if getattr(config, "alibi", False) or kind in {"bloom", "mpt"}:
        raise CapabilityError(
            f"model family {kind!r}: ALiBi positions come from the mask's shape, so a draft tree "
            "cannot be placed; foretoken needs position ids"
        )


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
    and the tree comes in as a 4-D mask with explicit positions. Raises CapabilityError for a
    family that cannot be sped up (named), ConfigError for an attention implementation that does
    not obey masks.
    """

    features = frozenset({"tokens", "logits"})

    def __init__(self, model: Any, name: str = "", exact: str = "default") -> None:
        refuse_unsuited(model)
        implementation = model.config._attn_implementation
        if implementation not in MASKED:
            raise ConfigError(
                "attn_implementation", implementation, f"load the model with one of {MASKED[:2]}"
            )
        self.model = model.eval()
        self.exact = exact
        config = model.config.get_text_config()
        self.name = name or getattr(model.config, "_name_or_path", "") or model.config.model_type
        self.vocab = int(config.vocab_size)
        self.eos = _eos_ids(model)
        self.max_context = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
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

    @property
    def how(self) -> str:
        """How forwards run, for cost curves and reports."""
        packed = any(isinstance(m, PackedLinear) for m in self.model.modules())
        parts = [self.model.config._attn_implementation, "packed" * packed, self.exact]
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

    def new_cache(self, capacity: int) -> SlotCache:
        """See `Target`."""
        return self.pool.acquire(capacity)

    def score(self, jobs: Sequence[Job]) -> list[Scores]:
        """See `Target`. Sessions that read their prompt go alone; all others share a forward."""
        out: dict[int, Scores] = {}
        together: list[int] = []
        for i, job in enumerate(jobs):
            if len(job.fresh) > 1 and len(jobs) > 1:
                out[i] = self._forward([job])[0]
            else:
                together.append(i)
        if together:
            scores = self._forward([jobs[i] for i in together])
            out.update(zip(together, scores, strict=True))
        return [out[i] for i in range(len(jobs))]

    def rows(self, jobs: Sequence[Job]) -> int:
        """How many rows `score` runs for these jobs in its joint forward, padding included."""
        return max((len(j.fresh) + len(j.tree) for j in jobs), default=0) * len(jobs)

    @torch.inference_mode()
    def _forward(self, jobs: Sequence[Job]) -> list[Scores]:
        caches = [self._slot(job) for job in jobs]
        lo = self._side_by_side(caches)
        order = sorted(range(len(jobs)), key=lambda i: caches[i].slot)
        batch = [Rows(caches[i].length, jobs[i].fresh, jobs[i].tree) for i in order]
        if len(batch) == 1:
            batch = [self._read_ahead(lo, batch[0])]
        logits = self._call(lo, batch)
        out: list[Scores | None] = [None] * len(jobs)
        for b, i in enumerate(order):
            caches[i].fresh = len(jobs[i].fresh)
            # the model kept the last rows only, when it could
            end = logits.shape[1] - (max(map(len, batch)) - len(batch[b]))
            out[i] = Scores(logits[b, end - len(jobs[i].tree) - 1 : end])
        return [s for s in out if s is not None]

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
        base, fresh = rows.base, list(rows.fresh)
        while len(fresh) > PREFILL_CHUNK:
            self._call(lo, [Rows(base, fresh[:PREFILL_CHUNK], EMPTY)])
            base, fresh = base + PREFILL_CHUNK, fresh[PREFILL_CHUNK:]
        return Rows(base, fresh, rows.tree)

    def _call(self, lo: int, batch: Sequence[Rows]) -> Tensor:
        """Logits [B, rows kept, V]; for one session only the root's and the draft's rows."""
        n = max(map(len, batch))
        length = max(r.base for r in batch) + n
        self.pool.ensure(length)
        packed = self._packer.pack(batch, n, length)
        self.pool.place(lo, [r.base for r in batch], n, length)
        keep = len(batch[0].tree) + 1 if len(batch) == 1 else 0
        return self._run(packed, keep)

    def _run(self, packed: Packed, keep: int) -> Tensor:
        extra = {"logits_to_keep": keep} if self._keeps_logits else {}
        logits: Tensor = self.model(
            input_ids=packed.ids,
            position_ids=packed.positions,
            attention_mask=self._for_model(packed.masks),
            past_key_values=self.pool,
            use_cache=True,
            **extra,
        ).logits
        return logits[:, -keep:] if keep else logits

    def _for_model(self, masks: dict[int | None, Tensor]) -> Tensor | dict[str, Tensor]:
        """One mask where all layers see alike, else one per layer type."""
        if len(self._windows) == 1:
            return masks[next(iter(self._windows.values()))]
        return {kind: masks[window] for kind, window in self._windows.items()}


def _eos_ids(model: Any) -> tuple[int, ...]:
    eos = getattr(model.generation_config, "eos_token_id", None) if model.can_generate() else None
    if eos is None:
        eos = model.config.eos_token_id
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (int(eos),)
