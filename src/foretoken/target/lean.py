"""The forward of Llama-like models without what a general library must do around it.

A forward of few rows is short: a small model spends most of it in Python and in tiny operations
that transformers repeats for every layer. Here the same modules' weights go through the same
operations, in the same order and number format (in float32 on a CPU the logits have the same bits),
but masks arrive ready, angles come from a table, queries and keys are turned together, and only
the rows that are read reach the output layer. Linear layers and the embedding are called as the
modules that they are, so that packed, quantised or adapted ones work; nothing is copied, so that a
model which is trained meanwhile is read as it is.

`lean` says no where it does not know better: another family, another attention, or anything hooked
into a module that would be passed over. Then the model's own forward runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretoken.target.attention import FOLDED, _fold, _unfold
from foretoken.target.cache import KVPool
from foretoken.target.suited import rope_types

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = {"default", "linear", "llama3", "yarn"}  # angles that hang on the position alone
LEAST = 256  # rows of the table of angles


class _Layer(NamedTuple):
    """What a forward reads of a decoder layer."""

    at: int
    before: Any  # the norm before attention
    attention: Any
    between: Any
    mlp: Any
    window: int | None


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
    inner = model.model
    passed = [model, inner, inner.rotary_emb, inner.norm, *_passed_over(inner.layers)]
    if any(not type(module).__module__.startswith(name) or _hooked(module) for module in passed):
        return None
    return Lean(model, windows)


def _passed_over(layers: Sequence[Any]) -> list[nn.Module]:
    """Modules whose own forward would not be called."""
    found = []
    for layer in layers:
        found += [layer, layer.self_attn, layer.mlp]
        found += [layer.input_layernorm, layer.post_attention_layernorm]
    return found


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


class Lean:
    """See the module; made by `lean`."""

    def __init__(self, model: Any, windows: Mapping[str, int | None]) -> None:
        inner, alike = model.model, next(iter(windows.values()))
        kinds = model.config.layer_types if len(windows) > 1 else None
        self._model = weakref.proxy(model)  # whoever holds a target may let go of its model
        self._embed, self._rotary, self._norm = inner.embed_tokens, inner.rotary_emb, inner.norm
        self._layers = [
            _Layer(
                i, layer.input_layernorm, layer.self_attn, layer.post_attention_layernorm,
                layer.mlp, windows[kinds[i]] if kinds else alike,
            )
            for i, layer in enumerate(inner.layers)
        ]  # fmt: skip
        self._cos = self._sin = torch.empty(0, 0)

    def __call__(
        self, ids: Tensor, positions: Tensor, masks: Mapping[int | None, Tensor], pool: KVPool,
        keep: int,
    ) -> Tensor:  # fmt: skip
        """[B, keep, V] logits of the last `keep` rows.

        ids, positions [B, n]; masks: window -> [B, 1, fold * n, L] additive, of `Packer`; pool: has
        been told where the rows are placed. No position is beyond L.
        """
        x = self._embed(ids)
        cos, sin = self._angles(positions, next(iter(masks.values())).shape[-1], x)
        for layer in self._layers:
            x = x + self._attend(layer, _rms(x, layer.before), cos, sin, masks, pool)
            mlp, h = layer.mlp, _rms(x, layer.between)
            x = x + mlp.down_proj(mlp.act_fn(mlp.gate_proj(h)) * mlp.up_proj(h))
        head = self._model.get_output_embeddings()
        logits: Tensor = head(_rms(x[:, -keep:], self._norm))
        return logits

    def _attend(
        self, layer: _Layer, h: Tensor, cos: Tensor, sin: Tensor,
        masks: Mapping[int | None, Tensor], pool: KVPool,
    ) -> Tensor:  # fmt: skip
        a, (b, n, _) = layer.attention, h.shape
        shape = (b, n, -1, a.head_dim)
        q, k, v = a.q_proj(h).view(shape), a.k_proj(h).view(shape), a.v_proj(h).view(shape)
        if hasattr(a, "q_norm"):
            q, k = _rms(q, a.q_norm), _rms(k, a.k_norm)
        heads = q.shape[2]
        both = torch.cat((q, k), dim=2)
        both = (both * cos + both.roll(a.head_dim // 2, -1) * sin).transpose(1, 2)
        q, k = both[:, :heads], both[:, heads:]
        keys, values = pool.update(k, v.transpose(1, 2), layer.at)
        out = F.scaled_dot_product_attention(
            _fold(q, keys.shape[1]), keys, values, attn_mask=masks[layer.window], scale=a.scaling
        )
        joined: Tensor = a.o_proj(_unfold(out, heads, n).reshape(b, n, -1))
        return joined

    def _angles(self, positions: Tensor, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [B, n, 1, D] of each row; the first half of sin is negative, so that a roll
        of the channels does what transformers' `rotate_half` does."""
        if len(self._cos) < length or self._cos.dtype != like.dtype:
            rows = torch.arange(max(2 * len(self._cos), length, LEAST), device=like.device)[None]
            cos, sin = self._rotary(like, rows)
            sin = sin.clone()
            sin[..., : sin.shape[-1] // 2].neg_()
            self._cos, self._sin = cos[0], sin[0]
        return self._cos[positions][:, :, None], self._sin[positions][:, :, None]


def _rms(x: Tensor, norm: Any) -> Tensor:
    """transformers' RMS norm: in float32, then scaled in the model's own format. `F.rms_norm` is
    the same sum of operations on a CPU, and slower by what `mean` does around its sum."""
    weight: Tensor = norm.weight
    wide = x.float()  # x itself in float32
    inverse = (wide * wide).sum(-1, keepdim=True).div_(weight.shape[0])
    inverse = inverse.add_(norm.variance_epsilon).rsqrt_()
    return weight * (wide * inverse).to(x.dtype)
