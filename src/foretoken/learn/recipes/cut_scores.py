"""How much a layer changes the stream, and what removing a unit would cost. Used by `cut`.

Source: Pan et al. 2502.03460 (Adapt-Pruner), with first-order Taylor scores as in LLM-Pruner, Ma et
al. 2305.11627. The paper's other two distances give the layer that changes most the lowest score;
only cosine is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretoken.learn.recipes.rows import Batch
from foretoken.target.narrow import layers_of

Loss = Callable[[Any, Batch], Tensor]  # (model, rows on its device) -> mean over what counts


def scored(model: Any, loss: Loss, batch: Batch, micro: int) -> tuple[Tensor, float]:
    """Gradients of `loss` summed into `.grad`; importance s [L] of the layers, and the loss.

    s_l = - mean cos(x_in, x_out) over the positions whose next token counts, x the residual stream
    before and after layer l, made mean 0 and largest 1 by `normalised`. Weights are not changed.
    """
    model.zero_grad(set_to_none=True)
    total, counted = 0.0, int(batch.mask[:, 1:].sum())
    cosines = torch.zeros(len(layers_of(model)), dtype=torch.float64)
    for first in range(0, len(batch), micro):
        rows = batch.rows(first, first + micro)
        weight = rows.mask[:, 1:]
        if not bool(weight.any()):
            continue
        with _cosines(model, weight) as found:
            part = loss(model, rows) * (int(weight.sum()) / counted)
        torch.autograd.backward(part)
        total += float(part.detach())
        cosines += torch.stack(found).double().cpu()
    return normalised(-cosines / counted), total


def normalised(raw: Tensor) -> Tensor:
    """Mean 0, then largest absolute value 1; all alike: zeros."""
    centred = raw - raw.mean()
    largest = float(centred.abs().max())
    return centred / largest if largest > 1e-12 else torch.zeros_like(centred)


def unit_scores(layer: Any) -> tuple[Tensor, Tensor]:
    """Taylor scores of a layer's KV heads [heads] and neurons [ffn]: the sum of |w dL/dw| over all
    weights that go with the unit. Needs gradients; a weight without one counts 0."""
    attention, mlp = layer.self_attn, layer.mlp
    heads = attention.k_proj.out_features // attention.head_dim
    kv = _rows(attention.k_proj) + _rows(attention.v_proj)
    query = _rows(attention.q_proj) + _columns(attention.o_proj)
    neurons = _rows(mlp.gate_proj) + _rows(mlp.up_proj) + _columns(mlp.down_proj)
    per_head = kv.view(heads, -1).sum(dim=1) + query.view(heads, -1).sum(dim=1)
    return per_head, neurons


@contextmanager
def _cosines(model: Any, weight: Tensor) -> Iterator[list[Tensor]]:
    """Sum over the weighted positions of every layer's cosine, in the next forward."""
    found: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before, after = inputs[0], output[0] if isinstance(output, tuple) else output
        with torch.no_grad():
            cosine = F.cosine_similarity(before.float(), after.float(), dim=-1)[:, :-1]
            found.append((cosine * weight).sum())

    hooks = [layer.register_forward_hook(note) for layer in layers_of(model)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _taylor(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter, dtype=torch.float32)
    return (parameter.detach() * parameter.grad).abs().float()


def _rows(linear: nn.Linear) -> Tensor:
    """[out] of a linear layer, bias included."""
    score = _taylor(linear.weight).sum(dim=1)
    return score if linear.bias is None else score + _taylor(linear.bias)


def _columns(linear: nn.Linear) -> Tensor:
    """[in]"""
    return _taylor(linear.weight).sum(dim=0)
