"""The same model with fewer layers, KV heads and feed-forward units: the reverse of `widen`.

Layers may differ in width afterwards. The residual stream, embeddings and output layer stay. A unit
of attention is one KV head with all query heads that share it (splitting a group would break the
map from query to key heads); a unit of the feed-forward layer is one neuron (gate row, up row, down
column).

A Hugging Face configuration has one width for all layers. So a folder is written `padded`: every
layer filled up to the widest one with units of zero weights, which change no output, and with as
many heads as divide the hidden size, as configurations demand. `cut.json` beside it holds the real
widths: foretoken takes the padding off again (`narrow`), other programs run it as it is, at the
padded size.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foretoken.errors import ArtifactError, CapabilityError
from foretoken.target.widen import FAMILIES

SIDE_FILE = "cut.json"
_ROWS = {"q_proj": "query", "k_proj": "kv", "v_proj": "kv", "gate_proj": "ffn", "up_proj": "ffn"}
_COLUMNS = {"o_proj": "query", "down_proj": "ffn"}


@dataclass(frozen=True)
class Widths:
    """Units of every layer, first to last."""

    kv_heads: tuple[int, ...]
    ffn: tuple[int, ...]

    def encoded(self) -> bytes:
        """What `cut.json` holds."""
        return (json.dumps(asdict(self)) + "\n").encode()


def check_family(model: Any, owner: str) -> None:
    """Raise CapabilityError for a family whose layout is not known here."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise CapabilityError(f"{owner}: family {kind!r} is not one of {', '.join(FAMILIES)}")


def layers_of(model: Any) -> list[Any]:
    """The decoder layers, first to last."""
    return list(model.model.layers)


def widths_of(model: Any) -> Widths:
    """Units that each layer has now."""
    layers = layers_of(model)
    heads = (a.k_proj.out_features // a.head_dim for a in (layer.self_attn for layer in layers))
    return Widths(tuple(heads), tuple(layer.mlp.gate_proj.out_features for layer in layers))


def keep_layers(model: Any, kept: Sequence[int]) -> None:
    """Drop all layers but these (ascending), in place."""
    model.model.layers = nn.ModuleList(model.model.layers[i] for i in kept)
    for index, layer in enumerate(model.model.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    config = model.config
    config.num_hidden_layers = len(kept)
    if types := getattr(config, "layer_types", None):
        config.layer_types = [types[i] for i in kept]


def keep_units(layer: Any, kv_heads: Sequence[int], neurons: Sequence[int]) -> None:
    """Remove all other units of one layer, in place; the order given is the order kept."""
    attention = layer.self_attn
    dim, group = attention.head_dim, attention.num_key_value_groups
    place = attention.k_proj.weight.device
    heads = torch.tensor(list(kv_heads), device=place)
    queries = (heads[:, None] * group + torch.arange(group, device=place)).flatten()
    channels = torch.arange(dim, device=place)
    kept = {
        "kv": (heads[:, None] * dim + channels).flatten(),
        "query": (queries[:, None] * dim + channels).flatten(),
        "ffn": torch.tensor(list(neurons), device=place),
    }
    for block in (attention, layer.mlp):
        for name, child in list(block.named_children()):
            if name in _ROWS:
                setattr(block, name, _sliced(child, kept[_ROWS[name]], 0))
            elif name in _COLUMNS:
                setattr(block, name, _sliced(child, kept[_COLUMNS[name]], 1))


def narrow(model: Any, widths: Widths) -> Any:
    """Keep the first units of every layer, in place: `padded` put the zero ones last."""
    for layer, heads, neurons in zip(layers_of(model), widths.kv_heads, widths.ffn, strict=True):
        keep_units(layer, range(heads), range(neurons))
    return model


def padded(model: Any) -> Any:
    """A model of the same class and outputs whose layers are all as wide as the widest."""
    config, now = copy.deepcopy(model.config), widths_of(model)
    attention = layers_of(model)[0].self_attn
    config.head_dim, group = attention.head_dim, attention.num_key_value_groups
    heads, before = max(now.kv_heads), config.num_key_value_heads
    while heads < before and config.hidden_size % (heads * group):
        heads += 1
    config.num_key_value_heads, config.num_attention_heads = heads, heads * group
    config.intermediate_size = max(now.ffn)
    with torch.device(model.device):
        full = type(model)(config).to(model.dtype).eval()
    full.generation_config = copy.deepcopy(model.generation_config)
    cut = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            parameter.zero_()
            parameter[tuple(slice(n) for n in cut[name].shape)] = cut[name]
    return full


def read_widths(folder: Path) -> Widths | None:
    """What `cut.json` of a drafter's folder says; None without one. Raises ArtifactError."""
    path = folder / SIDE_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
        made = Widths(tuple(map(int, found["kv_heads"])), tuple(map(int, found["ffn"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a list of widths; cut the drafter anew") from error
    if len(made.kv_heads) != len(made.ffn) or min((*made.kv_heads, *made.ffn), default=0) < 1:
        raise ArtifactError(f"{path}: not a list of widths; cut the drafter anew")
    return made


def unpadded(model: Any, folder: Path) -> Any:
    """The model of a folder without its padding, if it has any. Raises ArtifactError if the widths
    beside it are those of another model."""
    widths = read_widths(folder)
    if widths is None:
        return model
    check_family(model, SIDE_FILE)
    have = widths_of(model)
    fits = len(have.ffn) == len(widths.ffn) and all(
        a <= b
        for a, b in zip((*widths.kv_heads, *widths.ffn), (*have.kv_heads, *have.ffn), strict=True)
    )
    if not fits:
        raise ArtifactError(f"{folder / SIDE_FILE}: widths of another model; cut the drafter anew")
    return model if widths == have else narrow(model, widths)


def _sliced(linear: nn.Linear, index: Tensor, dim: int) -> nn.Linear:
    weight = linear.weight.detach().index_select(dim, index)
    new = nn.Linear(
        weight.shape[1], weight.shape[0], linear.bias is not None,
        device=weight.device, dtype=weight.dtype,
    )  # fmt: skip
    new.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if linear.bias is not None:
        bias = linear.bias.detach()
        new.bias = nn.Parameter(bias.index_select(0, index) if dim == 0 else bias.clone())
    return new
