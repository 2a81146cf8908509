"""What is cut next, and when enough is cut: the inner loop of `cut`.

Depth first, then width. A layer is dropped whole while there are more than asked for; after that
every step raises the share that each layer is to lose, S_l, by Delta on average, more for layers
that change the stream little, and removes the units with the lowest Taylor scores. Gradients come
from the loss that is served, KL(p || q) to the uncut target on its own text; where q = p, because
nothing has been cut yet, that has no gradient and the label loss takes its place.
Source: Pan et al. 2502.03460; Delta and A from its scripts. Depth before width, and the loss: ours
(a drafter needs a few per cent of the target, and its time follows depth).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foretoken.errors import ConfigError
from foretoken.learn.recipes.cut_config import DELTA, STRENGTH, Depth
from foretoken.learn.recipes.cut_scores import Loss, scored, unit_scores
from foretoken.learn.recipes.losses import forward_kl, log_probs
from foretoken.learn.recipes.reading import weights_read
from foretoken.learn.recipes.rows import Batch
from foretoken.target.narrow import (
    keep_layers,
    keep_units,
    layers_of,
    widths_of,
)

MOST = 0.99  # of a layer may go


@dataclass
class Shares:
    """S_l, the cumulative share of each layer's first widths that is to be gone."""

    kv_heads: tuple[int, ...]  # before any cut
    ffn: tuple[int, ...]
    share: Tensor = field(init=False)  # [L] float64

    def __post_init__(self) -> None:
        self.share = torch.zeros(len(self.ffn), dtype=torch.float64)

    def rise(self, importance: Tensor, delta: float, strength: float) -> None:
        """S_l <- clip(S_l + delta - strength * s_l, 0, 0.99); importance s [L] has mean 0.

        Where a layer is clipped, the others make up for it, so that the mean rises by delta in any
        case (the source lets it fall behind, and stands still once the layer that is left to cut is
        the most important one).
        """
        wanted = self.share + delta - strength * importance
        mean = min(float(self.share.mean()) + delta, MOST)
        low, high = -1.0, 1.0
        if bool((wanted == wanted.clamp(0.0, MOST)).all()):
            low = high = 0.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            short = float((wanted + middle).clamp(0.0, MOST).mean()) < mean
            low, high = (middle, high) if short else (low, middle)
        self.share = (wanted + high).clamp(0.0, MOST)

    def keep(self, layer: int, heads: int, neurons: int, head_dim: int) -> tuple[int, int]:
        """(KV heads, neurons) to keep of those that the layer has now. Heads go whole: what is too
        little for one waits for a later step. One of each always stays."""
        left = 1.0 - float(self.share[layer])
        channels = heads * head_dim - _whole(self.kv_heads[layer] * head_dim * left)
        kept = min(heads, heads - channels // head_dim)
        return max(kept, 1), max(min(neurons, _whole(self.ffn[layer] * left)), 1)


@dataclass
class Cutter:
    """Cuts a copy of the target, in place, to one goal after the other.

    batch: rows for the gradient of the n-th inner step, on the model's device. head_rows: of a
    trimmed output layer, for counting what is read per step.
    """

    model: Any
    teacher: Any
    batch: Callable[[int], Batch]
    layers: int  # to be left
    head_rows: int | None = None
    depth: Depth = "importance"
    delta: float = DELTA
    strength: float = STRENGTH
    micro: int = 8
    # makes tensors the same in all processes, in place
    agree: Callable[[list[Tensor]], None] = lambda _: None
    step: int = 0  # inner steps made
    cut: bool = False  # whether the model differs from its teacher
    shares: Shares | None = None  # since the first width step
    origin: list[int] = field(default_factory=list)  # the target's layers that are left
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(layers_of(self.teacher))
        self.origin = self.origin or list(range(count))
        self._stay = spaced(count, self.layers) if self.depth == "spaced" else set()

    def to(self, goal: int) -> None:
        """Cut until at most `goal` parameters are read per step. Raises ConfigError for a goal
        that cannot be reached."""
        least = fewest(self.teacher, self.layers, self.head_rows)
        if goal < least:
            raise ConfigError("params", goal, f"at least {least} with {self.layers} layers")
        while self.read() > goal and len(layers_of(self.model)) > self.layers:
            self._drop_layer()
        while self.read() > goal:
            self._narrow()
        self.model.zero_grad(set_to_none=True)

    def read(self) -> int:
        """Parameters read per step now."""
        return read_per_step(self.model, self.head_rows)

    def _scored(self) -> tuple[Tensor, float]:
        loss = kl_to(self.teacher) if self.cut else label_loss
        importance, value = scored(self.model, loss, self.batch(self.step), self.micro)
        self.step += 1
        placed = importance.to(self.model.device)
        self.agree([placed])
        return placed.cpu(), value

    def _drop_layer(self) -> None:
        importance, loss = self._scored()
        free = [i for i, layer in enumerate(self.origin) if layer not in self._stay]
        gone = min(free, key=lambda i: float(importance[i]))
        keep_layers(self.model, [i for i in range(len(self.origin)) if i != gone])
        self.cut = True
        self._note(loss, importance, dropped=self.origin.pop(gone))

    def _narrow(self) -> None:
        importance, loss = self._scored()
        if self.shares is None:
            now = widths_of(self.model)
            self.shares = Shares(now.kv_heads, now.ffn)
        self.shares.rise(importance, self.delta, self.strength)
        for index, layer in enumerate(layers_of(self.model)):
            heads, neurons = unit_scores(layer)
            self.agree([heads, neurons])
            keep = self.shares.keep(index, len(heads), len(neurons), layer.self_attn.head_dim)
            if keep != (len(heads), len(neurons)):
                keep_units(layer, best(heads, keep[0]), best(neurons, keep[1]))
                self.cut = True
        self._note(loss, importance)

    def _note(self, loss: float, importance: Tensor, **more: Any) -> None:
        widths = widths_of(self.model)
        self.log.append(
            {
                "step": self.step,
                "loss": round(loss, 5),
                "importance": [round(float(s), 4) for s in importance],
                "read": self.read(),
                "kv_heads": list(widths.kv_heads),
                "ffn": list(widths.ffn),
                **more,
            }
        )


def fewest(model: Any, layers: int, head_rows: int | None = None) -> int:
    """Parameters read per step by `layers` layers of the least width that the steps can reach."""
    first, now = copy.deepcopy(layers_of(model)[0]), widths_of(model)
    keep_units(first, range(1), range(max(_whole(now.ffn[0] * (1 - MOST)), 1)))
    inside = sum(parameters(layer) for layer in layers_of(model))
    return read_per_step(model, head_rows) - inside + layers * parameters(first)


def best(scores: Tensor, count: int) -> list[int]:
    """The `count` units with the highest scores, in their order; of equals, the later ones."""
    order = torch.argsort(scores, stable=True)  # on ties, the earlier is the lower
    return sorted(order[len(scores) - count :].tolist())


def spaced(count: int, left: int) -> set[int]:
    """`left` of `count` layers, evenly spaced, the first and the last among them."""
    if left <= 1:
        return {count - 1} if left else set()
    return {round(i * (count - 1) / (left - 1)) for i in range(left)}


def goals(start: int, end: int, stages: int) -> list[int]:
    """Parameters to be left after each stage: N_i = N_0 - (N_0 - N_T) i / T."""
    return [start - (start - end) * i // stages for i in range(1, stages + 1)]


def slices(steps: int, stages: int) -> list[int]:
    """Training steps of each stage: shares 2i / (T (T + 1)), at least one, `steps` in all."""
    if steps < stages:
        raise ConfigError("steps", steps, f"at least {stages}, one for each stage")
    ends = [round(steps * i * (i + 1) / (stages * (stages + 1))) for i in range(stages + 1)]
    for i in range(1, stages + 1):
        ends[i] = max(ends[i], ends[i - 1] + 1)
    return [b - a for a, b in pairwise(ends)]


def kl_to(teacher: Any) -> Loss:
    """KL(p || q) to the teacher, mean over the tokens that count."""

    def loss(model: Any, batch: Batch) -> Tensor:
        with torch.no_grad():
            log_p = log_probs(rows_of(teacher, batch))
        return forward_kl(log_p, log_probs(rows_of(model, batch))).mean()

    return loss


def label_loss(model: Any, batch: Batch) -> Tensor:
    """Cross-entropy of the text itself, mean over the tokens that count."""
    labels = batch.ids[:, 1:][batch.mask[:, 1:]]
    return F.cross_entropy(rows_of(model, batch).float(), labels)


def rows_of(model: Any, batch: Batch) -> Tensor:
    """[N, V]: the logits that predict the tokens that count."""
    out = model.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
    states = out.last_hidden_state[:, :-1][batch.mask[:, 1:]]  # others never reach the output layer
    logits: Tensor = model.get_output_embeddings()(states)
    return logits


def read_per_step(model: Any, head_rows: int | None = None) -> int:
    """Parameters read to draft one token. head_rows: of an output layer that will be trimmed."""
    head = model.get_output_embeddings()
    gone = 0 if head_rows is None else int(head.weight.shape[0]) - head_rows
    return weights_read(model) - gone * int(head.weight.shape[1] + (head.bias is not None))


def parameters(module: torch.nn.Module) -> int:
    """How many a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


def _whole(x: float) -> int:
    return int(x + 1e-9)  # 0.9 * 10 is nine
