"""Packed against plain linear layers, at the row counts that a draft makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from foretoken.errors import CapabilityError
from foretoken.target.linear import PackedLinear, PackedPart, can_pack
from foretoken.types import Options

ROWS = (1, 2, 4, 8, 16, 32, 64)


class KernelResult(Options):
    """One shape at one row count; medians."""

    inputs: int
    outputs: int
    rows: int
    plain_ms: float
    packed_ms: float
    ratio: float  # plain / packed: above 1, packing is faster


def linear_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """(inputs, outputs) of the products that a forward makes, each once: joined layers are one."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | PackedLinear | PackedPart)]
    made = [layer.joined[0] if isinstance(layer, PackedPart) else layer for layer in layers]
    return sorted({(layer.in_features, layer.out_features) for layer in made})


@torch.inference_mode()
def time_kernels(
    target: Any, rows: Sequence[int] = ROWS, repeats: int = 20,
    on_point: Callable[[KernelResult], None] = lambda _: None,
) -> list[KernelResult]:  # fmt: skip
    """Time the model's own shapes, interleaved, on random weights. Raises CapabilityError where
    packing does not apply."""
    if not can_pack(target.dtype, target.device):
        raise CapabilityError(
            f"kernels: packing applies to float32, or bfloat16 in hardware, on a CPU; this target "
            f"is {target.dtype} on {target.device}"
        )
    out: list[KernelResult] = []
    for inputs, outputs in linear_shapes(target.model):
        plain = nn.Linear(inputs, outputs, bias=False).to(target.dtype)
        packed = PackedLinear(plain)
        for n in rows:
            x = torch.randn(1, n, inputs).to(target.dtype)
            spent: tuple[list[float], list[float]] = ([], [])
            for repeat in range(repeats + 1):
                for layer, times in zip((plain, packed), spent, strict=True):
                    start = perf_counter()
                    layer(x)
                    if repeat:  # the first round warms up
                        times.append(1000 * (perf_counter() - start))
            a, b = median(spent[0]), median(spent[1])
            out.append(KernelResult(inputs=inputs, outputs=outputs, rows=n, plain_ms=a,
                                    packed_ms=b, ratio=a / b))  # fmt: skip
            on_point(out[-1])
    return out
