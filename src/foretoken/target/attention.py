"""Attention over our cache, registered with transformers under a name of our own.

transformers' own "sdpa" repeats the keys and values of grouped-query models for every query head
and step: a copy that grows with the context. Here the query heads of a group become rows of one
attention (exactly the same sums), and the tree mask arrives already folded that way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

FOLDED = "foretoken"
BITWISE = "foretoken_bitwise"


def _fold(query: Tensor, kv_heads: int) -> Tensor:
    """[B, kv * G, n, D] -> [B, kv, G * n, D]."""
    b, heads, n, d = query.shape
    return query.reshape(b, kv_heads, heads // kv_heads * n, d)


def unfold(out: Tensor, heads: int, n: int) -> Tensor:
    """[B, kv, G * n, D] -> [B, n, heads, D], the layout that transformers expects back."""
    return out.reshape(out.shape[0], heads, n, out.shape[-1]).transpose(1, 2)


def _fold_mask(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask with one row per folded query row; made causal where transformers left it out."""
    n, groups = query.shape[2], query.shape[1] // key.shape[1]
    if mask is None and n > 1:
        mask = torch.ones(n, key.shape[2], dtype=torch.bool, device=key.device)
        mask = mask.tril(key.shape[2] - n)[None, None]
    if mask is None or groups == 1 or mask.shape[2] == groups * n:
        return mask
    return mask.repeat(1, 1, groups, 1)


def folded_attention(
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query [B, H, n, D], key and value [B, kv, L, D], mask [B, 1, H / kv * n, L] additive.

    A mask that transformers made itself ([B, 1, n, L], or none for plain causal) is folded here,
    so that the model also works when it is called without our engine.
    """
    mask = _fold_mask(attention_mask, query, key)
    out = F.scaled_dot_product_attention(
        _fold(query, key.shape[1]), key, value, attn_mask=mask, scale=scaling
    )
    return unfold(out, query.shape[1], query.shape[2]), None


def bitwise_attention(
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As above in float64, rounded once at the end.

    A draft's rows lie in tree order and a committed text's in text order, so the same sum is taken
    in another order. In float64 the order moves the result by about 1e-16, far below the step of
    the model's own type, so what is rounded back is the same bits.
    """
    q, k, v = _fold(query, key.shape[1]).double(), key.double(), value.double()
    scores = q @ k.transpose(-1, -2) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    mask = _fold_mask(attention_mask, query, key)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask.double()
    out = torch.softmax(scores, dim=-1) @ v
    return unfold(out.to(query.dtype), query.shape[1], query.shape[2]), None


for _name, _function in ((FOLDED, folded_attention), (BITWISE, bitwise_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)
