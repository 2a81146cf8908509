"""Where texts differ and how close it was."""

from __future__ import annotations

import pytest
import torch

from foretoken.bench.compare import (
    NEAR_TIE_ULPS,
    differing,
    divergence,
    drawn_apart,
    first_difference,
    plain_row,
)
from foretoken.prompt.chance import PositionRandom
from foretoken.types import Sampling
from tests import tiny


@pytest.mark.parametrize(
    ("a", "b", "first", "count"),
    [
        ([1, 2, 3], [1, 2, 3], None, 0),
        ([], [], None, 0),
        ([1, 2, 3], [1, 9, 3], 1, 1),
        ([1, 2, 3], [1, 2], 2, 1),
        ([1], [1, 2, 3], 1, 2),
        ([1, 2], [3, 4], 0, 2),
    ],
)
def test_differences(a: list[int], b: list[int], first: int | None, count: int) -> None:
    assert first_difference(a, b) == first
    assert differing(a, b) == count


def test_the_gap_is_that_of_a_plain_forward() -> None:
    prompt, text = tiny.prompt(1, 9), [4, 5, 6]
    best = tiny.plain_logits("llama", [*prompt, 4]).topk(2, dim=-1).values[-1].tolist()
    found = divergence(tiny.target("llama"), prompt, text, [4, 7], index=3)
    assert found is not None
    assert (found.prompt, found.position, found.expected, found.got) == (3, 1, 5, 7)
    assert found.gap == pytest.approx(best[0] - best[1], abs=1e-5)
    assert found.near_tie is False
    assert plain_row(tiny.target("llama"), [*prompt, 4]).topk(2).values.tolist() == pytest.approx(
        best, abs=1e-5
    )
    assert not tiny.target("llama").pool.handles  # the memory was given back


def test_a_near_tie_is_one_by_the_stated_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny.target("llama")
    eps = torch.finfo(torch.float32).eps
    for ulps, tie in ((NEAR_TIE_ULPS - 1, True), (NEAR_TIE_ULPS + 1, False)):
        row = torch.tensor([8.0, 8.0 - 8.0 * ulps * eps, 0.0])
        monkeypatch.setattr("foretoken.bench.compare.plain_row", lambda *_, row=row: row)
        found = divergence(target, [1], [2], [3], index=0)
        assert found is not None
        assert found.near_tie is tie
        assert not found.drawn


@pytest.mark.parametrize(("off", "tie"), [(1e-8, True), (-1e-8, True), (1e-3, False)])
def test_a_drawn_token_is_a_near_tie_where_the_number_stands_between_both(
    off: float, tie: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mass = torch.tensor([0.3, 0.0, 0.25, 0.45])  # tokens 0 and 2 meet at 0.3
    monkeypatch.setattr("foretoken.bench.compare.plain_row", lambda *_: mass.log())
    monkeypatch.setattr(PositionRandom, "uniform", lambda *_: 0.3 + off)
    sampling = Sampling(temperature=1.0)
    found = divergence(tiny.target("llama"), [1], [0], [2], index=0, sampling=sampling)
    assert found is not None
    assert found.drawn
    assert found.near_tie is tie
    assert found.gap == pytest.approx(abs(off), abs=1e-7)
    far = divergence(tiny.target("llama"), [1], [0], [3], index=0, sampling=sampling)
    assert far is not None
    assert not far.near_tie
    assert drawn_apart(mass.log(), [1], [], [0, 3], sampling) == pytest.approx(0.25 - off, abs=1e-6)


def test_a_missing_token_is_a_difference() -> None:
    found = divergence(tiny.target("llama"), [1, 2], [3, 4], [3], index=0)
    assert found is not None
    assert (found.position, found.expected, found.got) == (1, 4, None)
    assert divergence(tiny.target("llama"), [1, 2], [3, 4], [3, 4], index=0) is None
