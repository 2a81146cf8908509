"""--widen K: the same function at the cost of a model about K**3 times larger.

Hidden size, heads, KV heads, feed-forward size and layers are multiplied by K; what is new is zero
where it could reach the output. So the text is a small model's and the time of a forward is a
real-size model's: methods compared at real cost, without real-size weights. Figures made so say so.

Why the outputs stay: padded hidden channels stay zero, because every matrix that writes into them
has zero rows; new heads and feed-forward units are read by zero columns; new layers write nothing
into the residual stream. RMS norms average over K times more channels, most of them zero: with
weight / sqrt(K) and eps / K they give the old values.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from foretoken.errors import CapabilityError, ConfigError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # q/k/v/o, gate/up/down and RMS norms by name
INTO_HIDDEN = ("o_proj", "down_proj")  # what new layers must not write


def widen(model: Any, k: int) -> Any:
    """A new model of the same class; its parameters lie in memory of their own, really touched.

    Raises ConfigError for k < 1, CapabilityError for a family whose layout is not known here.
    """
    kind = model.config.model_type
    if k < 1:
        raise ConfigError("widen", k, "a whole number from 1")
    if kind not in FAMILIES:
        raise CapabilityError(f"widen: family {kind!r} is not one of {', '.join(FAMILIES)}")
    with torch.device(model.device):
        wide = type(model)(_config(model.config, k)).to(model.dtype).eval()
    wide.generation_config = copy.deepcopy(model.generation_config)
    small, eps = dict(model.named_parameters()), model.config.rms_norm_eps
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            _fill(parameter, small.get(_source(name, k)), name, k)
    for module in wide.modules():
        if hasattr(module, "variance_epsilon") and _is_hidden_norm(module, model):
            module.variance_epsilon = eps / k
    return wide


def _config(config: Any, k: int) -> Any:
    wide = copy.deepcopy(config)
    wide.head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    for field in ("hidden_size", "intermediate_size", "num_attention_heads",
                  "num_key_value_heads", "num_hidden_layers"):  # fmt: skip
        setattr(wide, field, getattr(config, field) * k)
    if types := getattr(config, "layer_types", None):
        wide.layer_types = [t for t in types for _ in range(k)]
    return wide


def _source(name: str, k: int) -> str:
    """Parameter of the small model that this one continues; layer i*k continues layer i."""
    parts = name.split(".")
    if "layers" in parts:
        at = parts.index("layers") + 1
        layer = int(parts[at])
        parts[at] = str(layer // k) if layer % k == 0 else "new"
    return ".".join(parts)


def _is_hidden_norm(module: nn.Module, model: Any) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.shape[0] != getattr(model.config, "head_dim", -1)


def _fill(wide: Tensor, small: Tensor | None, name: str, k: int) -> None:
    if small is None:  # a new layer: any weights, as long as it adds nothing to the stream
        if name.split(".")[-2] in INTO_HIDDEN:
            wide.zero_()
        return
    wide.zero_()
    scale = (
        1 / math.sqrt(k) if small.dim() == 1 and wide.shape != small.shape and _norm(name) else 1.0
    )
    wide[tuple(slice(n) for n in small.shape)] = small * scale


def _norm(name: str) -> bool:
    return "norm" in name.split(".")[-2]
