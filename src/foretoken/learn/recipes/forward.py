"""One way to read rows with a model, for every recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foretoken.learn.lm import autocast
from foretoken.learn.recipes.rows import Batch

ROUNDING = {True: 1e-3, False: 0.1}  # of logits, as a share of their spread: float32, or narrower


def logits_of(model: Any, batch: Batch) -> Tensor:
    """[B, L - 1, V]: row t is about token t + 1. bfloat16 where the device multiplies it."""
    given = {} if batch.positions is None else {"position_ids": batch.positions}
    with autocast(batch.ids.device):
        out: Tensor = model(input_ids=batch.ids, use_cache=False, **given).logits
    return out[:, :-1]


def learned(batch: Batch) -> Tensor:
    """[B * (L - 1)] float32: 1 where the prediction of a token counts."""
    return batch.mask[:, 1:].flatten().float()


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """The mean of `values` [N] where `weight` [N] is 1; 0 if it is nowhere."""
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def text_loss(model: Any, batch: Batch) -> Tensor:
    """Mean next-token cross-entropy of the learned tokens, nats."""
    logits = logits_of(model, batch).flatten(0, 1).float()
    each = F.cross_entropy(logits, batch.ids[:, 1:].flatten(), reduction="none")
    return mean(each, learned(batch))


@torch.no_grad()
def text_losses(model: Any, rows: Mapping[str, Batch], micro: int) -> dict[str, float]:
    """`text_loss` of held-out rows by name, `micro` rows at a time; names without rows are left
    out. The model is in eval mode meanwhile."""
    was = model.training
    model.eval()
    device = next(model.parameters()).device
    out = {}
    for name, batch in rows.items():
        total, count = 0.0, 0
        for piece in pieces(batch, micro):
            n = int(piece.mask[:, 1:].sum())
            total += text_loss(model, piece.to(device)).item() * n
            count += n
        if count:
            out[name] = total / count
    model.train(was)
    return out


def pieces(batch: Batch, micro: int) -> Iterator[Batch]:
    """Its rows, `micro` at a time."""
    for first in range(0, len(batch), micro):
        yield batch.rows(first, first + micro)


@torch.no_grad()
def reads_packed(model: Any) -> bool:
    """Whether the model keeps examples in one row apart by their positions.

    Most families of transformers do. For others (OPT, Falcon, gpt-oss) an example must have a row
    of its own, or it would be read with its neighbours as context.
    """
    device = next(model.parameters()).device
    vocab = int(model.config.get_text_config().vocab_size)
    ids = torch.arange(1, 9, device=device)[None] % vocab
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], device=device)
    packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, 4:].float()
    alone = model(input_ids=ids[:, 4:], use_cache=False).logits[0].float()
    # of random weights the logits may hardly differ at all: compare with how far they spread
    rounding = ROUNDING[model.dtype == torch.float32]
    return bool((packed - alone).abs().max() <= rounding * alone.std() + 1e-6)
