import json
import re
from xml.etree import ElementTree

import pytest

from foretoken.learn.loss_curve import Panel, _ticks, loss_svg, svg
from foretoken.learn.recipes.curves import curves_svg
from foretoken.prompt.samples import demo_model


@pytest.mark.parametrize(
    ("folder", "picture", "drawn"),
    [
        (demo_model(), "loss.svg", loss_svg),
        (demo_model() / "drafter", "curves.svg", curves_svg),
    ],
)
def test_the_pictures_of_the_demo_models_are_those_of_their_logs(folder, picture, drawn):
    log = json.loads((folder / "training_log.json").read_text())["curve"]
    assert drawn(log) == (folder / picture).read_text()


@pytest.mark.parametrize(
    ("low", "top"), [(0.0, 1.0), (0.0, 9.2), (-2.0, 0.0), (-1.5, 3.2), (0.0, 1e-4), (0.0, 4e5)]
)
def test_ticks_are_round_few_and_inside(low, top):
    ticks = _ticks(low, top)
    assert 2 <= len(ticks) <= 11
    assert all(low - 1e-9 <= t <= top + 1e-9 for t in ticks)
    assert 0.0 in ticks


def test_panels_stand_below_each_other_each_with_its_axis():
    low = Panel("loss", {"a": [(1, 4.0), (10, 2.0)], "b": [(10, 1.0)]})
    high = Panel("chance", {"c": [(1, 0.25), (10, 0.5)]}, 1.0)
    root = ElementTree.fromstring(svg([low, high]))
    assert root.get("viewBox") == "0 0 640 640"
    lines = [e.get("points") for e in root.iter() if e.tag.endswith("polyline")]
    assert lines[0].split()[0].endswith(",10.0")  # the largest of its panel
    assert lines[2].split() == ["99.0,220.0", "630.0,150.0"]  # a quarter, half of the axis
    group = next(e for e in root.iter() if e.tag.endswith("}g"))
    assert group.get("transform") == "translate(0 320)"


def test_odd_lines_are_drawn_as_well():
    for lines in ({}, {"zero": [(0, 0.0)]}, {"flat": [(1, 2.0), (2, 2.0)]}, {"low": [(5, -3.0)]}):
        text = svg([Panel("t", lines)])
        ElementTree.fromstring(text)
        assert not re.search(r"nan|inf", text)
