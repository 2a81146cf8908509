"""What stands between the products of a Llama-like layer, in bfloat16: norms, angles, gates.

In PyTorch it is forty small operations a layer, each of which takes longer to call than to do; here
four loops, compiled by numba, with the same roundings to bfloat16 in the same places. A bfloat16 is
handed over as its 16 bits (uint16), since numpy has no such type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from foretoken.target.attention import unfold
from foretoken.target.cache import KVPool, array_of
from foretoken.target.jit import compiled, exp, narrow, wide
from foretoken.target.lean import Lean, norms
from foretoken.target.linear import together

Array = np.ndarray
MOST = 256  # rows: the loops have one thread, and what reads a long text has work for many
_F, _DTYPE = np.float32, torch.bfloat16


@compiled
def _scaled(row: Array, weight: Array, eps: float, out: Array) -> None:
    """out [H] = RMS norm of row [H], scaled by weight [H]; nothing where the weight is empty."""
    total = _F(0.0)
    for i in range(weight.size):
        total += wide(row[i]) * wide(row[i])
    inverse = _F(1.0) / np.sqrt(total / _F(row.size) + _F(eps))
    for i in range(weight.size):
        out[i] = narrow(wide(weight[i]) * wide(narrow(wide(row[i]) * inverse)))


@compiled
def norm(x: Array, more: Array, weight: Array, eps: float, out: Array) -> None:
    """x [R, H] grows by `more` ([R, H], or no rows); out [R, H] = its norm, scaled by weight."""
    for r in range(x.shape[0]):
        row = x[r]
        if more.shape[0]:
            plus = more[r]
            for i in range(row.size):
                row[i] = narrow(wide(row[i]) + wide(plus[i]))
        _scaled(row, weight, eps, out[r])


@compiled
def gate(both: Array, out: Array) -> None:
    """out [R, I] = silu(gates) * ups of rows [gates, ups], both [R, 2 I]."""
    size = out.shape[1]
    for r in range(both.shape[0]):
        row, put = both[r], out[r]
        for i in range(size):
            a = wide(row[i])
            a = wide(narrow(a / (_F(1.0) + exp(-a))))
            put[i] = narrow(a * wide(row[size + i]))


@compiled
def _turned(head: Array, cos: Array, sin: Array, put: Array) -> None:
    """put [D] = head [D] at its position's angles [D]; the first half of sin is negative."""
    half = head.size // 2
    for i in range(half):
        a, b = wide(head[i]), wide(head[i + half])
        put[i] = narrow(wide(narrow(a * wide(cos[i]))) + wide(narrow(b * wide(sin[i]))))
    for i in range(half):
        a, b = wide(head[i]), wide(head[i + half])
        c, s = wide(cos[i + half]), wide(sin[i + half])
        put[i + half] = narrow(wide(narrow(b * c)) + wide(narrow(a * s)))


class Norms(NamedTuple):
    """Weights [D] of the norms of queries and keys, empty where the family has none."""

    q: Array
    k: Array
    eps: float


@compiled
def turn(
    rows: Array, between: Norms, angles: tuple[Array, Array], planes: tuple[Array, Array],
    at: tuple[Array, Array], folded: Array,
) -> None:  # fmt: skip
    """Queries and keys are normed and turned; keys and values are stored.

    rows: [R, heads + 2 kv, D] queries, keys, values. angles: cos, sin [R, D]. planes: keys and
    values of the layer [slots, kv, rows, D]. at: slot and row [R] of either that each is stored in.
    folded: [B, kv, heads / kv * n, D], the queries as `attention.folded_attention` reads them.
    """
    (cos, sin), (keys, values), (slots, to) = angles, planes, at
    kv = keys.shape[1]
    heads = rows.shape[1] - 2 * kv
    group = heads // kv
    n = folded.shape[2] // group
    for r in range(rows.shape[0]):
        for g in range(kv):
            key, value = rows[r, heads + g], rows[r, heads + kv + g]
            put = values[slots[r], g, to[r]]
            _scaled(key, between.k, between.eps, key)
            _turned(key, cos[r], sin[r], keys[slots[r], g, to[r]])
            for i in range(value.size):
                put[i] = value[i]
        for h in range(heads):
            query, place = rows[r, h], (h % group) * n + r % n
            _scaled(query, between.q, between.eps, query)
            _turned(query, cos[r], sin[r], folded[r // n, h // group, place])


class _Layer(NamedTuple):
    """What a forward needs of one layer. It is found once a session: in the midst of a forward,
    which empties the processor's caches, an attribute of a module is dear."""

    before: Array  # norms' weights
    between: Norms
    after: Array
    looks: tuple[nn.Module, ...]  # q, k, v
    o: nn.Module
    gates: tuple[nn.Module, ...]  # gate, up
    down: nn.Module
    scale: float
    window: int | None


class Glued(Lean):
    """A lean forward with these loops in steps of up to `MOST` rows."""

    def stands(self) -> bool:
        """See `Lean`; what took another's place since is found."""
        self._found = [self._layer(i, layer) for i, layer in enumerate(self._layers())]
        return super().stands()

    @torch.inference_mode()
    def prepare(self, pool: KVPool) -> None:
        """See `Lean`: a forward of one token, by which the loops are compiled or loaded."""
        (kv, _), _ = pool.shape_of(0)
        slot, here = pool.acquire(1), torch.zeros(1, 1, dtype=torch.long)
        pool.place(slot.slot, [0], 1, 1)
        seen = torch.zeros(1, 1, self._model.config.num_attention_heads // kv, 1, dtype=_DTYPE)
        self(here, here, dict.fromkeys(self._windows.values(), seen), pool, slice(0, 1))
        slot.release()

    def _layer(self, i: int, layer: Any) -> _Layer:
        a, mlp, eps = layer.self_attn, layer.mlp, self._model.model.norm.variance_epsilon
        before, after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        none = np.empty(0, np.uint16)
        q, k = [array_of(each.weight) for each in norms(a)] or [none, none]
        return _Layer(
            array_of(before), Norms(q, k, eps), array_of(after), (a.q_proj, a.k_proj, a.v_proj),
            a.o_proj, (mlp.gate_proj, mlp.up_proj), mlp.down_proj, a.scaling, self.window(i),
        )  # fmt: skip

    def __call__(
        self, ids: Tensor, positions: Tensor, masks: Mapping[int | None, Tensor], pool: KVPool,
        kept: slice,
    ) -> Tensor:  # fmt: skip
        """See `Lean`."""
        if ids.numel() > MOST:
            return super().__call__(ids, positions, masks, pool, kept)
        inner, (b, n), at = self._model.model, ids.shape, positions.reshape(-1).numpy()
        states = inner.embed_tokens(ids)
        read = torch.empty_like(states)  # what the next product reads
        x, h = (array_of(each).reshape(len(at), -1) for each in (states, read))
        table = self.table(next(iter(masks.values())).shape[-1], states)
        cos, sin = (array_of(each)[at] for each in table)
        where, last, more = pool.written(n), inner.norm, x[:0]
        for layer, planes, held in zip(self._found, pool.arrays(), pool.held(), strict=True):
            eps, d = layer.between.eps, planes[0].shape[3]
            norm(x, more, layer.before, eps, h)
            rows = array_of(together(layer.looks, read)).reshape(len(x), -1, d)
            kv = planes[0].shape[1]
            heads = rows.shape[1] - 2 * kv
            folded = torch.empty(b, kv, heads // kv * n, d, dtype=_DTYPE)
            turn(rows, layer.between, (cos, sin), planes, where, array_of(folded))
            seen = scaled_dot_product_attention(
                folded, *held, masks[layer.window], scale=layer.scale
            )
            seen = unfold(seen, heads, n).reshape(b, n, -1)
            norm(x, array_of(layer.o(seen)).reshape(x.shape), layer.after, eps, h)
            both = array_of(together(layer.gates, read)).reshape(len(x), -1)
            gated = torch.empty(b, n, both.shape[1] // 2, dtype=_DTYPE)
            gate(both, array_of(gated).reshape(len(x), -1))
            more = array_of(layer.down(gated)).reshape(x.shape)
        norm(x, more, array_of(last.weight), last.variance_epsilon, h)
        logits: Tensor = self._model.get_output_embeddings()(read[:, kept])
        return logits
