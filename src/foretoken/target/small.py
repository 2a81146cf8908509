"""Models that draft: forwards of a few rows on a CPU as compiled loops, where the model is small.

A draft grows by a forward of the small model for each level. Of a model with two layers such a
forward is a hundred operations of PyTorch, 1.5 ms on the machine that this was written on, of which
its arithmetic is a tenth (`foretoken.target.loops`: 0.35 ms, and 0.9 for 2.1 after a target's
forward has emptied the caches). The output layer stays the module that it is, so that trimmed ones
work; weights are read where they lie, so that training in place is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from foretoken.target.base import Job
from foretoken.target.cache import SlotCache, array_of
from foretoken.target.hf import HFTarget, attention_windows
from foretoken.target.lean import Lean, hooked, lean
from foretoken.target.pack import Rows, lay
from foretoken.target.widen import FAMILIES
from foretoken.tree import EMPTY

if TYPE_CHECKING:
    from foretoken.target.nested import NestedTarget

# Most products of a layer stack that one core does sooner than PyTorch calls its operations:
# weights in the layers, times rows.
WORK = 8_000_000


def small_target(model: Any, name: str = "") -> HFTarget:
    """The target interface of a model that drafts; by loops, where it is suited."""
    return SmallTarget(model, name) if suited(model) else HFTarget(model, name)


def target_like(given: HFTarget | NestedTarget, model: Any) -> HFTarget:
    """The target interface of a model that takes another one's place, and drafts as it does."""
    kind = small_target if isinstance(given, SmallTarget) else HFTarget
    return kind(model, given.name)


def suited(model: Any) -> bool:
    """Whether the model's layers can run as loops: a family whose lean forward is known, float32
    on a CPU, plain linear layers, full attention, little arithmetic."""
    first, windows = next(iter(model.parameters())), attention_windows(model)
    here = first.dtype == torch.float32 and first.device.type == "cpu"
    if not here or set(windows.values()) != {None}:
        return False
    if layer_weights(model.config) > WORK or lean(model, windows) is None:
        return False
    linears = [_linears(layer) for layer in model.model.layers]
    plain = all(_plain(linear) for each in linears for linear in each)
    without = all(linear.bias is None for each in linears for linear in each[3:])
    plain = plain and _plain(model.get_input_embeddings(), nn.Embedding)
    return plain and without and model.config.hidden_act == "silu"


def may_loop(name: str, device: torch.device) -> bool:
    """Whether the model of a folder or hub name is small enough and of a family for loops, as far
    as its configuration says; such a one is loaded in float32."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError):  # loading it will say what is wrong
        return False
    return device.type == "cpu" and layer_weights(config) <= WORK


def layer_weights(config: Any) -> float:
    """Weights in the layers of a model with this configuration; infinite for another family."""
    if config.model_type not in FAMILIES:
        return float("inf")
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    attention = 2 * (heads + config.num_key_value_heads) * head
    return float(config.num_hidden_layers * hidden * (attention + 3 * config.intermediate_size))


class SmallTarget(HFTarget):
    """An HFTarget whose forwards of few rows run as loops; see `suited`."""

    def __init__(self, model: Any, name: str = "") -> None:
        from foretoken.target import loops  # numba takes half a second to import

        super().__init__(model, name)
        self._loops = loops
        self._most = int(WORK // layer_weights(model.config))  # rows of a forward
        self._weights: list[loops.Weights] = []
        first = self.new_cache(1)  # compiles now, and not while a draft is timed
        self.score([Job(first, [0], EMPTY)])
        first.release()

    @property
    def how(self) -> str:
        """See HFTarget."""
        return f"{super().how} loops"

    def new_cache(self, capacity: int) -> SlotCache:
        """See `Target`. Weights that others took the place of are found anew."""
        cache = super().new_cache(capacity)
        if self._lean is not None and not suited(self.model):
            self._lean = None  # somebody hooked into a layer meanwhile
        if self._lean is not None:
            self._weights = [self._of_layer(layer) for layer in self.model.model.layers]
        return cache

    def _of_layer(self, layer: Any) -> Any:
        a = layer.self_attn
        biases = (linear.bias for linear in (a.q_proj, a.k_proj, a.v_proj))
        norms = (a.q_norm.weight, a.k_norm.weight) if hasattr(a, "q_norm") else (None, None)
        around = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        return self._loops.Weights(
            *(_array(linear.weight) for linear in _linears(layer)),
            *(_array(bias)[None] for bias in biases),
            *map(_array, (*norms, *around)),
        )

    def _call(self, lo: int, batch: Sequence[Rows]) -> tuple[Tensor, int]:
        n = max(map(len, batch))
        if self._lean is None or n * len(batch) > self._most:
            return super()._call(lo, batch)
        length = max(rows.start for rows in batch) + n
        self.pool.ensure(length)
        self.pool.place(lo, [rows.start for rows in batch], n, length)
        return self._looped(self._lean, batch, n), 0

    def _looped(self, lean: Lean, batch: Sequence[Rows], n: int) -> Tensor:
        """[B, n, V] logits."""
        ids, positions, views = lay(batch, n)
        inner, loops, at = self.model.model, self._loops, positions.reshape(-1)
        x = _array(inner.embed_tokens.weight)[ids.reshape(-1)]
        states = torch.from_numpy(x).view(*ids.shape, -1)
        cos, sin = (table.numpy()[at] for table in lean.table(int(at.max()) + 1, states))
        where = (*self.pool.written(n), np.array([rows.base for rows in batch]))
        sees = _seen(batch, views, n)
        eps = inner.norm.variance_epsilon
        arrays = self.pool.arrays()
        for planes, weights, layer in zip(arrays, self._weights, inner.layers, strict=True):
            place = loops.Place(*planes, *where, sees)
            loops.layer(x, cos, sin, place, weights, eps, layer.self_attn.scaling)
        loops.rms(x, _array(inner.norm.weight), eps, x)
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits


def _plain(module: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    return type(module) is kind and not hooked(module)


def _linears(layer: Any) -> list[Any]:
    """In the order of `loops.Weights`."""
    a, mlp = layer.self_attn, layer.mlp
    return [a.q_proj, a.k_proj, a.v_proj, a.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _array(weight: Tensor | None) -> np.ndarray:
    """The weight's own memory; empty for None."""
    return np.empty(0, np.float32) if weight is None else array_of(weight)


def _seen(
    batch: Sequence[Rows], views: Sequence[tuple[np.ndarray, np.ndarray]], n: int
) -> np.ndarray:
    """[B, n, C] bool of `loops.Place`. A row of padding sees itself and what is committed."""
    out = np.zeros((len(batch), n, max(rows.scored for rows in batch) + n), np.bool_)
    for b, (rows, (sees, _)) in enumerate(zip(batch, views, strict=True)):
        out[b, : len(rows), : sees.shape[1]] = sees
        padding = np.arange(len(rows), n)
        out[b, padding, rows.scored + padding] = True
    return out
