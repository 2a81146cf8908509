"""Every block that holds weights is asked for, and values stay what they are."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foretoken.target import pages
from foretoken.target.linear import can_pack, pack_linears
from foretoken.target.pages import PAGE, in_huge_pages


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Embedding(3000, 512), nn.Linear(512, 2048), nn.Linear(2048, 512))
    return layers.requires_grad_(False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, int, int]]:
    """Calls of `madvise`; every third block is refused."""
    calls: list[tuple[int, int, int]] = []

    def advise(start: int, size: int, what: int) -> int:
        calls.append((start, size, what))
        return -(what == pages._NOW and sum(c[2] == what for c in calls) % 3 == 0)

    class Library(SimpleNamespace):
        pass

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(pages.ctypes, "CDLL", lambda _: Library(madvise=_callable(advise)))
    monkeypatch.setattr(pages, "WORTH", 1 << 20)
    monkeypatch.setattr(pages, "SWITCH", switch(tmp_path, "always [madvise] never"))
    return calls


def switch(folder: Path, said: str | None) -> Path:
    """The system's own, or none."""
    path = folder / "enabled"
    path.unlink(missing_ok=True)
    if said is not None:
        path.write_text(said)
    return path


def _callable(function):
    """An object like ctypes' functions, which take attributes."""

    class Function:
        argtypes = ()

        def __call__(self, *args: int) -> int:
            return function(*args)

    return Function()


@pytest.mark.parametrize("packed", [False, True])
def test_every_block_of_every_weight_is_asked_for_once(asked, packed: bool) -> None:
    layers = model()
    if packed and can_pack(torch.float32, torch.device("cpu")):
        assert pack_linears(layers) == 2
    moved = in_huge_pages(layers)
    now = [(start, size) for start, size, what in asked if what == pages._NOW]
    wanted = [(start, size) for start, size, what in asked if what == pages._WANTED]
    assert now == wanted == sorted(set(now))
    assert all(start % PAGE == 0 and size == PAGE for start, size in now)
    for place, size in pages._places(layers):
        blocks = range(place // PAGE * PAGE, place + size, PAGE)
        assert {(block, PAGE) for block in blocks} <= set(now)
    table, products = 4 * 3000 * 512, 4 * 2 * 2**20
    assert sum(size for _, size in pages._places(layers)) >= table + products
    assert moved == PAGE * (len(now) - len(now) // 3), "what was refused is not counted"


def test_few_weights_and_other_systems_are_left_alone(asked, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(pages, "WORTH", 64 << 20)
    assert in_huge_pages(model()) == 0
    monkeypatch.setattr(pages, "WORTH", 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert in_huge_pages(model()) == 0
    monkeypatch.setattr(sys, "platform", "linux")
    for said in ("always madvise [never]", None):
        monkeypatch.setattr(pages, "SWITCH", switch(tmp_path, said))
        assert in_huge_pages(model()) == 0
    monkeypatch.setattr(pages, "SWITCH", switch(tmp_path, "always [madvise] never"))
    monkeypatch.setattr(pages.ctypes, "CDLL", lambda _: object())
    assert in_huge_pages(model()) == 0
    assert asked == []


def test_values_stay(monkeypatch) -> None:
    """With the real call, whatever this system says to it."""
    monkeypatch.setattr(pages, "WORTH", 1)
    layers, x = model(), torch.arange(0, 3000, 7)
    before, weights = layers(x), [weight.clone() for weight in layers.parameters()]
    in_huge_pages(layers)
    assert torch.equal(layers(x), before)
    for old, new in zip(weights, layers.parameters(), strict=True):
        assert torch.equal(old, new)
