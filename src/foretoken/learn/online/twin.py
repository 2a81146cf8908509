"""Copies of a drafter's weights: one to train, one to draft with, their difference to save.

The model that was given may be shared by other drafters and engines, so it is never written to.
"""

from __future__ import annotations

import base64
import copy
import hashlib
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from foretoken.errors import ArtifactError
from foretoken.target.linear import PACKED, PackedLinear, PackedPart, is_packed, pack_linears

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def dense_twin(model: Any, dtype: torch.dtype = torch.float32) -> Any:
    """An independent copy in `dtype` with plain linear layers and nobody's hooks, in eval mode.

    Whatever the model's shape is (layers of different widths, too), since no configuration is read.
    """
    memo: dict[int, Any] = {}
    packed = False
    with torch.inference_mode(False), torch.no_grad():
        for module in model.modules():
            for name in _HOOKS:  # they may hold the engine's memory, and would be copied with it
                hooks = getattr(module, name, None)
                if hooks is not None:
                    memo[id(hooks)] = OrderedDict()
            if isinstance(module, PACKED):
                memo[id(module)] = _unpacked(module)
                packed = True
        twin = copy.deepcopy(model, memo).to(dtype)
        if packed and getattr(twin.config, "tie_word_embeddings", False):
            twin.tie_weights()
    twin.requires_grad_(False)
    return twin.eval()


def serving_twin(trained: Any, like: Any) -> Any:
    """A copy of trained weights that drafts as `like` does: its dtype, its packed layers."""
    twin = dense_twin(trained, next(like.parameters()).dtype)
    if is_packed(like):
        pack_linears(twin)
    return twin


def _unpacked(layer: PackedLinear | PackedPart) -> nn.Linear:
    with_bias = layer.bias is not None
    plain = nn.Linear(layer.in_features, layer.out_features, bias=with_bias, device="meta")
    plain.weight = nn.Parameter(layer.dense().clone())
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.clone())
    return plain


def fingerprint(model: Any) -> str:
    """Which weights these are (hex): of a dense twin, sums of every parameter."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        value = weight.detach().double()
        sums = (float(value.sum()), float(value.square().sum()))
        digest.update(f"{name} {tuple(weight.shape)} {sums[0]:.9g} {sums[1]:.9g};".encode())
    return digest.hexdigest()[:16]


def encoded(now: list[Tensor], before: list[Tensor]) -> list[str]:
    """Changes of weights, each rounded to bfloat16, as base64; "" where nothing changed."""
    out = []
    for new, old in zip(now, before, strict=True):
        change = (new - old).to(torch.bfloat16).cpu()
        raw = change.view(torch.int16).numpy().tobytes() if bool(change.any()) else b""
        out.append(base64.b64encode(raw).decode("ascii"))
    return out


def add_changes(weights: list[Tensor], changes: list[str]) -> None:
    """Add what `encoded` gave, in place. Raises ArtifactError if it is of other weights."""
    if len(weights) != len(changes):
        raise ArtifactError("osd: the saved weights are of another drafter model")
    found: list[Tensor | None] = []
    for weight, text in zip(weights, changes, strict=True):
        raw = bytearray(base64.b64decode(text))
        if raw and len(raw) != 2 * weight.numel():
            raise ArtifactError("osd: the saved weights are of another drafter model")
        flat = torch.frombuffer(raw, dtype=torch.bfloat16) if raw else None
        found.append(flat)
    with torch.no_grad():
        for weight, change in zip(weights, found, strict=True):
            if change is not None:
                weight.add_(change.reshape(weight.shape).to(weight))
