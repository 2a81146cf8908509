"""The forward of Llama-like models without what a general library must do around it.

A forward of few rows is short: a small model spends most of it in Python and in tiny operations
that transformers repeats for every layer. Here the same modules' weights go through the same
operations, in the same order and number format (in float32 on a CPU the logits have the same bits;
in bfloat16 on a CPU `glue` does what is between the products, and `program` all of it, the same up
to the order of sums), but masks arrive ready, angles come from a table, queries and keys are turned
together, and only the rows that are read reach the output layer. Linear layers and the embedding
are called as the modules that they are, so that packed, quantised or adapted ones work; nothing is
copied, so that a model which is trained or changed meanwhile is read as it is.

`lean` says no where it does not know better: another family, another attention, or anything hooked
into a module that would be passed over. Then the model's own forward runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from foretoken.target.attention import FOLDED, folded_attention
from foretoken.target.cache import KVPool
from foretoken.target.linear import hooked, packing
from foretoken.target.suited import rope_types
from foretoken.target.widen import FAMILIES

ROPES = {"default", "linear", "llama3", "yarn"}  # angles that hang on the position alone
LEAST = 256  # rows of the table of angles


def lean(model: Any, windows: Mapping[str, int | None]) -> Lean | None:
    """A lean forward of the model; None where its own one must run.

    windows: layer type -> sliding window, as `hf.attention_windows` gives it.
    """
    kind = model.config.model_type
    name = f"transformers.models.{kind}."
    if kind not in FAMILIES or model.config._attn_implementation != FOLDED:
        return None
    if not rope_types(model.config) <= ROPES:
        return None
    if not type(model).__module__.startswith(name) or not type(model).__name__.endswith("CausalLM"):
        return None
    made = (kind(model, windows) for kind in _kinds_for(model))
    return next((each for each in made if each.stands()), None)


def _kinds_for(model: Any) -> list[type[Lean]]:
    """The fastest first."""
    first = next(model.parameters())
    kinds: list[type[Lean]] = [Lean]
    here = first.dtype == torch.bfloat16 and first.device.type == "cpu"
    if here and model.config.hidden_act == "silu":
        with suppress(ImportError):  # no numba for this Python, or this numpy
            from foretoken.target.glue import Glued  # numba takes half a second to import

            kinds.insert(0, Glued)
            if "tiles" in packing(model).split():
                from foretoken.target.program import Program

                kinds.insert(0, Program)
    return kinds


class Lean:
    """See the module; made by `lean`."""

    name = "lean"

    def __init__(self, model: Any, windows: Mapping[str, int | None]) -> None:
        self._model = weakref.proxy(model)  # whoever holds a target may let go of its model
        self._windows, self._alike = windows, next(iter(windows.values()))
        self._kinds = model.config.layer_types if len(windows) > 1 else None
        self._cos = self._sin = torch.empty(0, 0)

    def passed_over(self) -> Iterator[nn.Module]:
        """Modules whose own forward is not called."""
        inner = self._model.model
        yield from (inner, inner.norm)
        for layer in self.layers():
            yield from (layer, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm)
            yield from (layer.self_attn, *norms(layer.self_attn))

    def stands(self) -> bool:
        """Whether what is passed over is the family's own, with nothing hooked in. Asked for every
        new session."""
        family = f"transformers.models.{self._model.config.model_type}."
        modules = list(self.passed_over())
        own = all(type(module).__module__.startswith(family) for module in modules)
        free = not any(hooked(module) for module in (self._model, *modules))
        return own and free and not (_global_forward_hooks or _global_forward_pre_hooks)

    def prepare(self, pool: KVPool) -> None:
        """Do once what would make the first forward slow."""

    def layers(self) -> Iterator[Any]:
        """Those that a forward goes through."""
        model = self._model
        return islice(model.model.layers, model.config.num_hidden_layers)

    def __call__(
        self, ids: Tensor, positions: Tensor, masks: Mapping[int | None, Tensor], pool: KVPool,
        kept: slice,
    ) -> Tensor:  # fmt: skip
        """[B, rows kept, V] logits.

        ids, positions [B, n]; masks: window -> [B, 1, fold * n, L] additive, of `Packer`; pool: has
        been told where the rows are placed. No position is beyond L.
        """
        inner = self._model.model
        x = inner.embed_tokens(ids)
        angles = self._angles(positions, next(iter(masks.values())).shape[-1], x)
        for i, layer in enumerate(self.layers()):
            h = _rms(x, layer.input_layernorm)
            x = x + _attend(layer.self_attn, h, angles, masks[self.window(i)], pool)
            mlp, h = layer.mlp, _rms(x, layer.post_attention_layernorm)
            x = x + mlp.down_proj(mlp.act_fn(mlp.gate_proj(h)) * mlp.up_proj(h))
        logits: Tensor = self._model.get_output_embeddings()(_rms(x[:, kept], inner.norm))
        return logits

    def window(self, layer: int) -> int | None:
        """How far back a layer sees; None for everything."""
        return self._windows[self._kinds[layer]] if self._kinds else self._alike

    def _angles(self, positions: Tensor, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [B, n, 1, D] of each row."""
        cos, sin = self.table(length, like)
        return cos[positions][:, :, None], sin[positions][:, :, None]

    def table(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [at least `length`, D] by position; the first half of sin is negative, so
        that a roll of the channels does what transformers' `rotate_half` does."""
        if len(self._cos) < length or self._cos.dtype != like.dtype:
            rows = torch.arange(max(2 * len(self._cos), length, LEAST), device=like.device)[None]
            cos, sin = self._model.model.rotary_emb(like, rows)
            sin = sin.clone()
            sin[..., : sin.shape[-1] // 2].neg_()
            self._cos, self._sin = cos[0], sin[0]
        return self._cos, self._sin


def _attend(a: Any, h: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor, pool: KVPool) -> Tensor:
    """One attention module: h and its result [B, n, H]."""
    (b, n, _), (cos, sin) = h.shape, angles
    shape = (b, n, -1, a.head_dim)
    q, k, v = a.q_proj(h).view(shape), a.k_proj(h).view(shape), a.v_proj(h).view(shape)
    if own := norms(a):
        q, k = _rms(q, own[0]), _rms(k, own[1])
    heads = q.shape[2]
    both = torch.cat((q, k), dim=2)
    both = (both * cos + both.roll(a.head_dim // 2, -1) * sin).transpose(1, 2)
    q, k = both[:, :heads], both[:, heads:]
    keys, values = pool.update(k, v.transpose(1, 2), a.layer_idx)
    out, _ = folded_attention(a, q, keys, values, mask, a.scaling)
    joined: Tensor = a.o_proj(out.reshape(b, n, -1))
    return joined


def norms(attention: Any) -> tuple[Any, ...]:
    """Of queries and keys, where the family has them."""
    return (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()


def _rms(x: Tensor, norm: Any) -> Tensor:
    """transformers' RMS norm: in float32, then scaled in the model's own format. `F.rms_norm` is
    the same sum of operations on a CPU, and slower by what `mean` does around its sum."""
    weight: Tensor = norm.weight
    wide = x.float()  # x itself in float32
    inverse = (wide * wide).sum(-1, keepdim=True).div_(weight.shape[0])
    inverse = inverse.add_(norm.variance_epsilon).rsqrt_()
    return weight * (wide * inverse).to(x.dtype)
