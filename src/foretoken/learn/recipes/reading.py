"""How many parameters a model reads to write one token: what its step costs where memory is slow.

Everything but embedding tables, of which one row is read; a table that is the output layer as well
counts, whole, as that. Counted on the model as it serves: packed layers, a trimmed output layer
(its kept rows alone), narrowed layers. All experts of a mixture count, which is too much for it.
Source: our notes on fastdraft, sec. 3.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from foretoken.target.linear import PACKED


def weights_read(model: Any) -> int:
    """Parameters read per forward of one token."""
    head = getattr(model.get_output_embeddings(), "weight", None)
    tables = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.weight is not head
    }
    plain = {id(p): p.numel() for p in model.parameters() if id(p) not in tables}
    packed = sum(
        layer.in_features * layer.out_features + (0 if layer.bias is None else layer.bias.numel())
        for layer in model.modules()
        if isinstance(layer, PACKED)
    )
    return int(sum(plain.values()) + packed)
