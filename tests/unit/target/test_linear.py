"""PackedLinear equals nn.Linear."""

import pytest
import torch
from torch import nn

from foretoken.target.linear import PackedLinear, can_pack, pack_linears

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(
    not can_pack(torch.float32, CPU), reason="PyTorch without oneDNN"
)


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2, 7), (1, 33), (3, 1)])
def test_equals_linear(bias: bool, shape: tuple[int, ...]) -> None:
    linear = nn.Linear(96, 64, bias=bias)
    x = torch.randn(*shape, 96)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=1e-5, rtol=1e-4)
        wide = torch.randn(*shape, 192)[..., ::2]  # not contiguous
        torch.testing.assert_close(PackedLinear(linear)(wide), linear(wide), atol=1e-5, rtol=1e-4)


@needs_packing
def test_large_layers_are_replaced_and_counted() -> None:
    model = nn.Sequential(
        nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 2), nn.Sequential(nn.Linear(512, 1024))
    )
    assert pack_linears(model) == 2
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.Linear | PackedLinear)]
    assert kinds == [PackedLinear, nn.Linear, PackedLinear]


@pytest.mark.skipif(not can_pack(torch.bfloat16, CPU), reason="no bfloat16 in hardware")
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_bfloat16_equals_linear(rows: int) -> None:
    """Both round a float32 sum to bfloat16: they differ by its last place at most."""
    linear, x = nn.Linear(1024, 512).bfloat16(), torch.randn(1, rows, 1024).bfloat16()
    with torch.inference_mode():
        exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
        for found in (PackedLinear(linear)(x), linear(x)):
            torch.testing.assert_close(found.double(), exact, atol=1e-2, rtol=8e-3)


def test_only_on_a_cpu_and_in_the_formats_that_it_has() -> None:
    assert not can_pack(torch.float16, CPU)
    assert not can_pack(torch.float32, torch.device("meta"))
    assert not can_pack(torch.bfloat16, torch.device("meta"))
