"""Tiles: products by AMX against float64, and each row's bits whatever the others are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foretoken.target import team, tiles
from foretoken.target.linear import PackedLinear
from foretoken.target.tiles import Tiles, suits

ROWS = (1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 100)
pytestmark = pytest.mark.usefixtures("with_tiles")
SHAPES = ((37, 32), (96, 64), (200, 160), (1, 32))  # out, in


def weight(out: int, inner: int) -> Tensor:
    return (torch.randn(out, inner) / inner**0.5).bfloat16()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("shape", SHAPES)
def test_products(shape: tuple[int, int]) -> None:
    """Rounded once; a row alone has the bits that it has among others."""
    w, bias = weight(*shape), torch.randn(shape[0]).bfloat16()
    laid = Tiles(w)
    assert torch.equal(laid.dense(), w)
    for rows in ROWS:
        x = torch.randn(rows, shape[1]).bfloat16()
        for more in (None, bias):
            out = laid.product(x, more)
            want = x.double() @ w.double().T + (0 if more is None else more.double())
            torch.testing.assert_close(out.double(), want, rtol=2**-8, atol=1e-6)
            alone = torch.cat([laid.product(row, more) for row in x.split(1)])
            assert torch.equal(alone, out)


def test_any_leading_dimensions_and_strides() -> None:
    linear = nn.Linear(64, 40).bfloat16()
    packed = PackedLinear(linear)
    assert isinstance(packed.packed, Tiles)
    x = torch.randn(2, 3, 128).bfloat16()[..., ::2]
    torch.testing.assert_close(packed(x), linear(x), rtol=0.02, atol=0.01)
    assert packed(x[:, :0]).shape == (2, 0, 40)


def test_numbers_that_are_none_stay_none() -> None:
    laid = Tiles(weight(32, 32))
    x = torch.zeros(3, 32).bfloat16()
    x[0, 1], x[1, 2] = float("nan"), float("inf")
    out = laid.product(x, None)
    assert out[0].isnan().all()
    assert out[1].isinf().all()
    assert (out[2] == 0).all()


def test_what_has_no_tiles() -> None:
    """Other types and widths; nobody must get as far as an unknown instruction."""
    for other in (torch.zeros(32, 32), torch.zeros(32, 48).bfloat16()):
        assert not suits(other)
        with pytest.raises(RuntimeError, match="no tiles"):
            Tiles(other)
    with pytest.raises(
        RuntimeError, match="expected rows in bfloat16 on the CPU, got torch.float32"
    ):
        Tiles(weight(32, 32)).product(torch.zeros(1, 32), None)
    with pytest.raises(RuntimeError, match="expected rows of 32 numbers, got 64"):
        Tiles(weight(32, 32)).product(torch.zeros(1, 64).bfloat16(), None)


def test_only_what_numba_compiles_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_FEATURES", (*tiles._FEATURES, "of-another-processor"))
    assert not tiles.available.__wrapped__()


def test_without_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "available", lambda: False)
    assert not isinstance(PackedLinear(nn.Linear(64, 64).bfloat16()).packed, Tiles)


def test_one_thread_where_pytorchs_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    laid, x = Tiles(weight(96, 64)), torch.randn(5, 64).bfloat16()
    want = laid.product(x, None)
    monkeypatch.setattr(team, "openmp", lambda: None)
    assert torch.equal(laid.product(x, None), want)
