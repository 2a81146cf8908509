"""PackedLinear equals nn.Linear."""

from threading import Thread

import pytest
import torch
from torch import nn

from foretoken.target.linear import (
    HalfLinear,
    Joined,
    PackedLinear,
    PackedPart,
    can_pack,
    is_packed,
    pack_linears,
    side_by_side,
)
from foretoken.target.weights import as_tiles

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


class Feed(nn.Module):
    def __init__(self, bias: bool = False, up: int = 768) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(512, 768, bias=bias)
        self.up_proj = nn.Linear(512, up, bias=bias)
        self.down_proj = nn.Linear(512, 768)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate_proj(x) * self.up_proj(x)


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_one_input_are_joined(bias: bool) -> None:
    model = Feed(bias)
    plain = [model.gate_proj, model.up_proj]
    assert pack_linears(model, join=True) == 2  # the third is small
    assert is_packed(model)
    parts = [model.gate_proj, model.up_proj]
    assert all(isinstance(part, PackedPart) for part in parts)
    assert parts[0].place == parts[1].place
    for layer, part in zip(plain, parts, strict=True):
        assert (part.in_features, part.out_features) == (layer.in_features, layer.out_features)
        assert torch.equal(part.dense(), layer.weight)
    with torch.inference_mode():
        for x in (torch.randn(1, 3, 512), torch.randn(2, 1, 512)):
            want = [layer(x) for layer in plain]
            torch.testing.assert_close(
                side_by_side(parts)(x), torch.cat(want, -1), atol=1e-5, rtol=1e-4
            )
            torch.testing.assert_close(model(x), want[0] * want[1], atol=1e-5, rtol=1e-4)
            assert torch.equal(side_by_side(plain)(x), torch.cat(want, -1))


@needs_packing
def test_one_product_serves_those_who_ask_for_the_same_input() -> None:
    model = Feed()
    pack_linears(model, join=True)
    made: list = []
    joined = model.gate_proj.joined[0]
    joined.register_forward_hook(lambda *_: made.append(1))
    x, y = torch.randn(1, 512), torch.randn(1, 512)
    with torch.inference_mode():
        model(x)
        assert len(made) == 1
        assert joined._held is None, "nothing is held"
        first = model.up_proj(x)
        assert torch.equal(model.up_proj(x), first), "asked twice"
        second = model.gate_proj(y)
        torch.testing.assert_close(second, model.gate_proj(y.clone()))
    assert len(made) == 5


@needs_packing
def test_layers_that_are_not_alike_stay_by_themselves() -> None:
    for model in (Feed(), Feed()):
        model.up_proj = nn.Linear(512, 768)  # with a bias, which the other has not
        assert pack_linears(model, join=True) == 0
        assert not is_packed(model)
    del model.up_proj
    assert pack_linears(model, join=True) == 0


@needs_packing
def test_joined_bounds() -> None:
    joined = Joined([nn.Linear(8, n, bias=False) for n in (5, 2, 3)])
    assert [joined.bounds(i) for i in range(3)] == [slice(0, 5), slice(5, 7), slice(7, 10)]


@needs_packing
def test_only_all_parts_of_one_product_in_their_order_are_one_product() -> None:
    model, other = Feed(), Feed()
    for each in (model, other):
        pack_linears(each, join=True)
    gate, up = model.gate_proj, model.up_proj
    whole = gate.joined[0]
    assert side_by_side((gate, up)) is whole
    for layers in ((up, gate), (gate,), (gate, other.up_proj), (gate, nn.Linear(512, 768))):
        assert side_by_side(layers) is not whole
    up.register_forward_hook(lambda *_: None)
    assert side_by_side((gate, up)) is not whole


@needs_packing
def test_threads_do_not_read_each_others_products() -> None:
    model = Feed()
    pack_linears(model, join=True)
    inputs = [torch.randn(1, 512) for _ in range(2)]
    with torch.inference_mode():
        want = [model(x) for x in inputs]
    wrong: list = []

    def run(index: int) -> None:
        with torch.inference_mode():
            for _ in range(300):
                if not torch.equal(model(inputs[index]), want[index]):
                    wrong.append(index)

    threads = [Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not as_tiles(torch.zeros(0, 32).bfloat16()), reason="a processor without AMX")
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_that_is_multiplied_in_half(bias: bool) -> None:
    """Inputs and weights are rounded, sums are not; the weight is kept."""
    linear = nn.Linear(64, 100, bias=bias)
    layer = HalfLinear(linear)
    assert torch.equal(layer.dense(), linear.weight)
    for x in (torch.randn(3, 64), torch.randn(2, 19, 64)):
        more = linear.bias.bfloat16().double() if bias else 0
        want = x.bfloat16().double() @ linear.weight.bfloat16().double().T + more
        assert layer(x).dtype == torch.float32
        torch.testing.assert_close(layer(x).double(), want, rtol=1e-5, atol=1e-5)
    layer.refill(-linear.weight)
    torch.testing.assert_close(layer(x).double(), 2 * more - want, rtol=1e-5, atol=1e-5)
