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
from foretoken.target.lean import Lean, lean, norms
from foretoken.target.linear import hooked
from foretoken.target.pack import Rows, lay
from foretoken.target.widen import FAMILIES
from foretoken.tree import EMPTY

if TYPE_CHECKING:
    from foretoken.target.nested import NestedTarget

# Most products that one core does sooner than PyTorch calls its operations: rows of a forward times
# weights of the layers, and what attention adds.
WORK = 8_000_000


def small_target(model: Any, name: str = "") -> HFTarget:
    """The target interface of a model that drafts: by loops, where it is suited. Raises as
    `HFTarget`."""
    if suited(model):
        try:
            return SmallTarget(model, name)
        except ImportError:  # no numba for this Python, or this numpy
            pass
    return HFTarget(model, name)


def target_like(given: HFTarget | NestedTarget, model: Any) -> HFTarget:
    """The target interface of a model that takes another one's place, and drafts as it does."""
    kind = small_target if isinstance(given, SmallTarget) else HFTarget
    return kind(model, given.name)


def suited(model: Any) -> bool:
    """Whether the model's layers can run as loops: a family whose lean forward is known, float32
    on a CPU, plain linear layers, full attention, little arithmetic."""
    if not _small(model.config) or any(p.dtype != torch.float32 for p in model.parameters()):
        return False
    if model.device.type != "cpu" or set(attention_windows(model).values()) != {None}:
        return False
    found = lean(model, {"full_attention": None})
    linears = [] if found is None else [_linears(layer) for layer in found.layers()]
    plain = all(_plain(linear) for each in linears for linear in each)
    return bool(linears) and plain and all(each.bias is None for few in linears for each in few[3:])


def may_loop(name: str, device: torch.device) -> bool:
    """Whether the model of a folder or hub name is one for loops, as far as its configuration says;
    such a one is loaded in float32."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError):  # loading it will say what is wrong
        return False
    # the output layer is read whole in any case, in twice the bytes
    return (
        device.type == "cpu" and _small(config) and config.vocab_size * config.hidden_size <= WORK
    )


def layer_weights(config: Any) -> int:
    """Weights in the layers of a model with this configuration, of one of `FAMILIES`."""
    attention = 2 * (config.num_attention_heads + config.num_key_value_heads) * _head_size(config)
    inner = attention + 3 * config.intermediate_size
    return int(config.num_hidden_layers * config.hidden_size * inner)


def _small(config: Any) -> bool:
    known = config.model_type in FAMILIES and config.hidden_act == "silu"
    return known and 0 < layer_weights(config) <= WORK


def _head_size(config: Any) -> int:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size)


class SmallTarget(HFTarget):
    """An HFTarget whose forwards of few rows run as loops; see `suited`."""

    def __init__(self, model: Any, name: str = "") -> None:
        from foretoken.target import loops  # numba takes half a second to import

        super().__init__(model, name)
        config = model.config
        self._loops = loops
        self._per_row = layer_weights(config)  # products
        columns = config.num_hidden_layers * config.num_attention_heads * _head_size(config)
        self._per_column = 2 * columns
        self._weights: list[loops.Weights] = []
        self._scales: list[float] = []
        self._last: Any = None  # norm
        first = self.new_cache(1)  # compiles now, and not while a draft is timed
        self.score([Job(first, [0], EMPTY)])
        first.release()

    @property
    def how(self) -> str:
        """See HFTarget."""
        return f"{super().how} loops" if self._lean is not None else super().how

    def new_cache(self, capacity: int) -> SlotCache:
        """See `Target`. Weights that others took the place of are found anew."""
        cache = super().new_cache(capacity)
        if self._lean is not None and not suited(self.model):
            self._lean = None  # somebody hooked into a layer meanwhile
        if self._lean is not None:
            self._weights = [self._of_layer(layer) for layer in self._lean.layers()]
            self._scales = [layer.self_attn.scaling for layer in self._lean.layers()]
            self._last = self._norm(self.model.model.norm)
        return cache

    def _of_layer(self, layer: Any) -> Any:
        a = layer.self_attn
        biases = (linear.bias for linear in (a.q_proj, a.k_proj, a.v_proj))
        own = norms(a) or (None, None)
        around = (layer.input_layernorm, layer.post_attention_layernorm)
        parts: list[Any] = [_array(linear.weight) for linear in _linears(layer)]
        parts += [_array(bias)[None] for bias in biases]
        return self._loops.Weights(*parts, *(self._norm(each) for each in (*own, *around)))

    def _norm(self, module: Any) -> Any:
        from foretoken.target.jit import Norm

        weight, eps = (None, 0.0) if module is None else (module.weight, module.variance_epsilon)
        return Norm(_array(weight), eps)

    def _call(self, lo: int, batch: Sequence[Rows]) -> tuple[Tensor, int]:
        n = max(map(len, batch))
        length = max(rows.start for rows in batch) + n
        work = n * len(batch) * (self._per_row + self._per_column * length)
        if self._lean is None or work > WORK:
            return super()._call(lo, batch)
        self.pool.ensure(length)
        self.pool.place(lo, [rows.start for rows in batch], n, length)
        # of one session, only the root's and the draft's rows are wanted
        first = max(len(batch[0].fresh) - 1, 0) if len(batch) == 1 else 0
        states = self._looped(self._lean, batch, n)
        logits: Tensor = self.model.get_output_embeddings()(states[:, first:])
        return logits, first

    def _looped(self, lean: Lean, batch: Sequence[Rows], n: int) -> Tensor:
        """[B, n, H]: what the output layer reads."""
        ids, positions, views = lay(batch, n)
        inner, loops, at = self.model.model, self._loops, positions.reshape(-1)
        states = self._embedded(inner.embed_tokens, ids)
        x = states.numpy().reshape(ids.size, -1)  # the same memory
        cos, sin = (table.numpy()[at] for table in lean.table(int(at.max()) + 1, states))
        where = (*self.pool.written(n), np.array([rows.base for rows in batch]))
        sees, arrays = _seen(batch, views, n), self.pool.arrays()
        for planes, weights, scale in zip(arrays, self._weights, self._scales, strict=True):
            place = loops.Place(*planes, *where, sees)
            loops.layer(x, cos, sin, place, weights, scale)
        loops.rms(x, self._last, x)
        return states

    @staticmethod
    def _embedded(module: Any, ids: np.ndarray) -> Tensor:
        """[B, n, H], in memory of its own."""
        if _plain(module, nn.Embedding):  # without a call of PyTorch
            return torch.from_numpy(_array(module.weight)[ids])
        states: Tensor = module(torch.from_numpy(ids)).clone()
        return states


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
