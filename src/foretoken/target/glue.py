"""The lean forward in bfloat16 on a CPU, with loops between its products.

What stands between the products of a layer is forty small operations of PyTorch, each of which
takes longer to call than to do: it is four loops here (`foretoken.target.bfloat`), and the products
of one input are one. In the midst of a forward, which empties the processor's caches, an attribute
of a module is dear as well: they are looked up once a session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from foretoken.target.attention import unfold
from foretoken.target.bfloat import gate, norm, turn
from foretoken.target.cache import KVPool, array_of
from foretoken.target.jit import Array, Norm
from foretoken.target.lean import Lean, norms
from foretoken.target.linear import side_by_side

ROWS = 512  # of a forward, by threads: the loops have one thread, PyTorch's operations all
DTYPE = torch.bfloat16

Product = Callable[[Tensor], Tensor]


class _Layer(NamedTuple):
    """What a forward needs of one layer."""

    before: Norm
    looks: Product  # queries, keys and values, side by side
    between: tuple[Norm, Norm]  # of queries and of keys
    o: Product
    after: Norm
    gates: Product  # gates and ups, side by side
    down: Product
    scale: float
    window: int | None


class Glued(Lean):
    """A lean forward of few rows with these loops; see `Lean` for its law."""

    name = "glued"

    def stands(self) -> bool:
        """See `Lean`. What took another's place meanwhile is found."""
        if not super().stands() or not all(each.weight.dtype == DTYPE for each in self._norms()):
            return False
        self._found = [self._layer(i, layer) for i, layer in enumerate(self.layers())]
        return True

    @torch.inference_mode()
    def prepare(self, pool: KVPool) -> None:
        """See `Lean`: a forward of one token, by which the loops are compiled or loaded."""
        config, here = self._model.config, torch.zeros(1, 1, dtype=torch.long)
        slot = pool.acquire(1)
        pool.place(slot.slot, [0], 1, 1)
        fold = config.num_attention_heads // config.num_key_value_heads
        sees = torch.zeros(1, 1, fold, 1, dtype=DTYPE)
        self(here, here, dict.fromkeys(self._windows.values(), sees), pool, slice(0, 1))
        slot.release()

    def _norms(self) -> list[Any]:
        """In the order of a forward."""
        out = []
        for layer in self.layers():
            own = norms(layer.self_attn)
            out += [layer.input_layernorm, *own, layer.post_attention_layernorm]
        return [*out, self._model.model.norm]

    def _layer(self, i: int, layer: Any) -> _Layer:
        a, mlp = layer.self_attn, layer.mlp
        none = Norm(np.empty(0, np.uint16), 0.0)
        q, k = [_of(each) for each in norms(a)] or [none, none]
        return _Layer(
            _of(layer.input_layernorm), side_by_side((a.q_proj, a.k_proj, a.v_proj)), (q, k),
            a.o_proj, _of(layer.post_attention_layernorm),
            side_by_side((mlp.gate_proj, mlp.up_proj)), mlp.down_proj, a.scaling, self.window(i),
        )  # fmt: skip

    def __call__(
        self, ids: Tensor, positions: Tensor, masks: Mapping[int | None, Tensor], pool: KVPool,
        kept: slice,
    ) -> Tensor:  # fmt: skip
        """See `Lean`."""
        if ids.numel() > ROWS // torch.get_num_threads():
            return super().__call__(ids, positions, masks, pool, kept)
        inner, at = self._model.model, positions.reshape(-1).numpy()
        states = inner.embed_tokens(ids).clone()  # the loops write to it
        read = torch.empty(states.shape, dtype=DTYPE)  # what the next product reads
        x, h = _rows(states), _rows(read)  # the same memory
        table = self.table(next(iter(masks.values())).shape[-1], states)
        angles = (array_of(table[0]), array_of(table[1]), at)
        where, more = pool.written(ids.shape[1]), x[:0]
        for layer, planes, held in zip(self._found, pool.arrays(), pool.held(), strict=True):
            norm(x, more, layer.before, h)
            queries = _queries(layer, read, angles, planes, where)
            seen = scaled_dot_product_attention(
                queries, *held, masks[layer.window], scale=layer.scale
            )
            norm(x, _rows(layer.o(_joined(seen, ids.shape[1]))), layer.after, h)
            both = layer.gates(read)
            gated = torch.empty(*ids.shape, both.shape[-1] // 2, dtype=DTYPE)
            gate(_rows(both), _rows(gated))
            more = _rows(layer.down(gated))
        norm(x, more, _of(inner.norm), h)
        logits: Tensor = self._model.get_output_embeddings()(read[:, kept])
        return logits


def _queries(
    layer: _Layer, read: Tensor, angles: tuple[Array, Array, Array], planes: tuple[Array, Array],
    where: tuple[Array, Array],
) -> Tensor:  # fmt: skip
    """[B, kv, heads / kv * n, D]; keys and values are stored."""
    (b, n, _), (_, kv, _, d) = read.shape, planes[0].shape
    rows = array_of(layer.looks(read)).reshape(b * n, -1, d)
    folded = torch.empty(b, kv, (rows.shape[1] // kv - 2) * n, d, dtype=DTYPE)
    turn(rows, layer.between, angles, planes, where, array_of(folded))
    return folded


def _joined(seen: Tensor, n: int) -> Tensor:
    """[B, kv, heads / kv * n, D] -> [B, n, heads * D]."""
    b, kv, rows, _ = seen.shape
    return unfold(seen, kv * rows // n, n).reshape(b, n, -1)


def _of(module: Any) -> Norm:
    return Norm(array_of(module.weight), module.variance_epsilon)


def _rows(states: Tensor) -> Array:
    """[rows, H] of states [B, n, H]."""
    return array_of(states).reshape(-1, states.shape[-1])
