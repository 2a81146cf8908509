"""All block linears of a model, sketched one after another. Used by `sketch`.

Every layer reads what the sketched layers before it give out, so that later codes make up for
earlier errors. Inputs are gathered for query, key and value together, then for the output of the
attention, gate and up, and down: each with what comes before it sketched already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foretoken.draft.sketched import Sketch
from foretoken.learn.recipes.rows import Batch
from foretoken.learn.recipes.sketch_codes import Inputs, coded
from foretoken.learn.recipes.sketch_config import EXPONENT
from foretoken.target.narrow import check_family, layers_of

PARTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)  # the linears of a part read the same inputs


@dataclass
class _Reading:
    """One batch on its way through the layers."""

    states: Tensor  # [B, L, H]: what the next layer reads
    arguments: list[dict[str, Any]]  # of each layer
    counts: Tensor  # [B, L] bool


@torch.no_grad()
def sketch_layers(
    model: Any,
    rows: Iterable[Batch],
    bits: int = 4,
    groups: int = 4,
    exponent: float = EXPONENT,
    report: Callable[[int], None] = lambda _: None,
) -> Sketch:
    """The sketch of a model, whose weights become those of the sketch. rows: calibration text on
    the model's device; padding and first tokens do not count. groups: of a row, fewer where that
    does not divide its length. report is called with the number of layers done.

    Raises CapabilityError for a family whose layout is not known.
    """
    check_family(model, "sketch")
    made = Sketch(bits, {}, {})
    readings = [_entered(model, batch) for batch in rows]
    for index, layer in enumerate(layers_of(model)):
        for part in PARTS:
            hessian = _hessian(layer, index, part[0], readings)
            for name in part:
                linear = layer.get_submodule(name)
                g = fitting(linear.in_features, groups)
                found = coded(linear.weight, hessian, bits, g, exponent)
                full = f"model.layers.{index}.{name}"
                made.codes[full], made.tables[full] = found.codes, found.table
                linear.weight.copy_(made.weight(full))
        for reading in readings:
            reading.states = _run(layer, index, reading)
        report(index + 1)
    return made


def fitting(columns: int, groups: int) -> int:
    """The most groups, up to `groups`, that divide a row."""
    return next(g for g in range(groups, 0, -1) if columns % g == 0)


def _entered(model: Any, batch: Batch) -> _Reading:
    """What the first layer reads, and what every layer is told besides."""
    states: list[Tensor] = []
    arguments: list[dict[str, Any]] = []

    def note(_: Any, inputs: tuple[Any, ...], given: dict[str, Any]) -> None:
        states.append(inputs[0]) if not states else None
        arguments.append(given)

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers_of(model)]
    try:
        model.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    counts = torch.ones_like(batch.mask) if batch.positions is None else batch.positions > 0
    return _Reading(states[0], arguments, counts)


def _hessian(layer: Any, index: int, name: str, readings: list[_Reading]) -> Tensor:
    linear = layer.get_submodule(name)
    inputs = Inputs(linear.in_features, linear.weight.device)
    for reading in readings:
        hook = linear.register_forward_pre_hook(
            lambda _, x, counts=reading.counts: inputs.add(x[0][counts])
        )
        try:
            _run(layer, index, reading)
        finally:
            hook.remove()
    return inputs.hessian()


def _run(layer: Any, index: int, reading: _Reading) -> Tensor:
    out = layer(reading.states, **reading.arguments[index])
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states
