"""The cost curve: shape, interpolation, and the copy on disk."""

from pathlib import Path

import pytest

from foretoken.target import cost
from foretoken.target.cost import CostCurve, cost_curve, machine_key, measure
from foretoken.target.shapes import Shapes
from tests import tiny

CURVE = CostCurve(rows=(1, 5, 9), contexts=(64, 512), seconds=((1.0, 3.0, 4.0), (2.0, 4.0, 5.0)))


@pytest.mark.parametrize(
    ("rows", "context", "seconds"),
    [
        (1, 64, 1.0),
        (3, 64, 2.0),
        (9, 64, 4.0),
        (13, 64, 5.0),
        (0, 0, 1.0),
        (1, 288, 1.5),
        (5, 512, 4.0),
        (5, 0, 3.0),
    ],
)
def test_interpolation(rows: float, context: float, seconds: float) -> None:
    assert CURVE(rows, context) == pytest.approx(seconds)


def test_one_context_and_one_row() -> None:
    assert CostCurve(rows=(1, 3), contexts=(64,), seconds=((1.0, 2.0),))(2, 9999) == pytest.approx(
        1.5
    )
    assert CostCurve(rows=(1,), contexts=(64,), seconds=((1.0,),))(50) == 1.0


def test_where_rows_are_rounded_up_the_curve_has_steps() -> None:
    curve = CostCurve(rows=(1, 4, 8), contexts=(64,), seconds=((1.0, 2.0, 4.0),), buckets=(1, 4, 8))
    assert [curve(n) for n in (1, 2, 3, 4, 5, 8)] == [1.0, 2.0, 2.0, 2.0, 4.0, 4.0]
    assert curve(9) == pytest.approx(4.5), "beyond the last it is a line"


def test_rounded_rows_are_the_ones_that_are_measured() -> None:
    target = tiny.fresh_target("small")
    target.shapes = Shapes(buckets=(1, 4, 16))
    curve = measure(target, rows=(1, 2, 3, 7), contexts=(8,), repeats=1)
    assert (curve.rows, curve.buckets) == ((1, 4, 16), (1, 4, 16))


def test_measured_curves_rise_with_rows() -> None:
    points = []
    target = tiny.fresh_target("small")
    curve = measure(target, (1, 4, 16), (8, 32), repeats=2, on_point=lambda *p: points.append(p))
    assert (curve.rows, curve.contexts) == ((1, 4, 16), (8, 32))
    for line in curve.seconds:
        assert list(line) == sorted(line)
        assert line[0] > 0
    assert len(points) == 6
    assert not target.pool.handles, "the measuring session is given back"


def test_contexts_beyond_the_model_are_left_out() -> None:
    assert measure(tiny.target("short"), (1, 3), (8, 4096), repeats=1).contexts == (8,)


def test_measured_once_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETOKEN_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(cost, "measure", lambda *_, **__: (calls.append(1), CURVE)[1])
    target = tiny.target("small")
    first = cost_curve(target)
    assert cost_curve(target) == first
    assert (len(calls), first.key) == (1, machine_key(target))
    (path,) = (tmp_path / "cost").iterdir()
    path.write_text("{")  # damaged: measured again
    assert cost_curve(target) == first
    assert len(calls) == 2
    cost_curve(tiny.target("llama"))
    assert len(calls) == 3, "another model has a curve of its own"


def test_a_folder_that_cannot_be_written_costs_a_measurement_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(
        "FORETOKEN_CACHE", str(tmp_path / "file")
    )  # root may write anywhere, not here
    monkeypatch.setattr(cost, "measure", lambda *_, **__: CURVE)
    assert cost_curve(tiny.target("small")).seconds == CURVE.seconds


def test_only_drafts_that_the_target_takes_are_timed() -> None:
    """A bitwise target has one shape of 32 rows; larger ones must not be asked for."""
    target = tiny.fresh_target("llama", exact="bitwise")
    assert max(measure(target, repeats=1).rows) <= target.max_draft + 1
