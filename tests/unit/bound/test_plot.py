"""The figure holds every line, appears whole or not at all, and asks for what it needs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from foretoken.bound import plot
from foretoken.bound.report import Collected
from foretoken.bound.table import RULES
from foretoken.errors import ConfigError
from foretoken.page import figure
from tests.unit.bound.test_optimum import language


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(1)
    found = Collected([1, 2, 4], seed=0, draws=4)
    for temperature in (0.2, 1.0):
        for i in range(2):
            found.add(temperature, i, 0, *language(rng, 50, temperature))
    return found.report("target", "drafter", 50)


def test_a_panel_a_temperature_and_a_line_a_rule(report, tmp_path):
    path = tmp_path / "bound.svg"
    plot.save_plot(path, report)
    text = path.read_text()
    for title in ("temperature 0.2", "temperature 1", "target drafted by drafter"):
        assert f"<!-- {title} -->" in text
    for label in [rule.label for rule in RULES] + ["optimum, with", "optimum, without"]:
        assert f"<!-- {label} -->" in text
    assert [each.name for each in tmp_path.iterdir()] == ["bound.svg"]


def test_png(report, tmp_path):
    plot.save_plot(tmp_path / "bound.png", report)
    assert (tmp_path / "bound.png").read_bytes().startswith(b"\x89PNG")


def test_a_failing_write_leaves_the_old_file(report, tmp_path, monkeypatch):
    path = tmp_path / "bound.png"
    path.write_text("old")
    monkeypatch.setattr(plot, "_draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plot.save_plot(path, report)
    monkeypatch.undo()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", _half)
    with pytest.raises(OSError, match="full"):
        plot.save_plot(path, report)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["bound.png"]


def _half(self, part, **_):
    part.write_text("half")
    raise OSError("full")


def test_what_cannot_be_drawn_is_said_before_the_work(tmp_path, monkeypatch):
    for bad, message in (
        (tmp_path / "x.pdf", ".png or .svg"),
        (tmp_path / "no" / "x.png", "exists"),
    ):
        with pytest.raises(ConfigError, match=message):
            figure.check_plot(bad)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'foretoken\[bench\]'"):
        figure.check_plot(tmp_path / "x.png")
