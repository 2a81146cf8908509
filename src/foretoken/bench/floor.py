"""How far forwards are from the floor that memory sets: weight bytes over the measured read rate.

A forward of one session reads every weight once, however many rows it scores, until arithmetic
takes longer than reading. Rows of the embedding table are looked up, not read through; where the
output layer shares the table it is read as the output layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch

from foretoken.bench.report import Floor
from foretoken.target.cost import cost_curve

MB = 2**20
BUFFER = 512 * MB  # more than any cache holds
PASSES = 7
ROWS = (1, 5, 17, 33, 65)  # scored rows that are reported


def read_rate(size: int = BUFFER, passes: int = PASSES) -> float:
    """Bytes per second at which all threads read memory: the best of several passes, since a
    neighbour can only make it slower."""
    data = torch.ones(size // 4, dtype=torch.float32)
    best = 0.0
    for _ in range(passes):
        start = perf_counter()
        data.sum()
        best = max(best, size / (perf_counter() - start))
    return best


def weight_bytes(model: Any, dtype: torch.dtype) -> int:
    """Bytes that a forward of this model must read, counted on a shape-only copy, since packed
    weights are no parameters any more."""
    with torch.device("meta"):
        shape = type(model)(model.config)
    table, head = shape.get_input_embeddings(), shape.get_output_embeddings()
    count = sum(parameter.numel() for parameter in shape.parameters())
    if head is not None and head.weight is not table.weight:
        count -= table.weight.numel()
    return int(count) * dtype.itemsize


def floor(target: Any, rows: Sequence[int] = ROWS) -> Floor | None:
    """The floor, and what forwards take here by the measured curve; None for a model that is not in
    this machine's memory."""
    if target.device.type != "cpu":
        return None
    rate, size = read_rate(), weight_bytes(target.model, target.dtype)
    curve = cost_curve(target)
    return Floor(
        read_gb_per_s=rate / 1e9,
        weight_mb=size / MB,
        seconds=size / rate,
        forwards={n: curve(n, curve.contexts[0]) for n in rows if n <= target.max_draft + 1},
    )
