from xml.etree import ElementTree

from foretoken.learn.recipes.curves import curves_svg, panels

LOG = [
    {"step": s, "loss": 4.0 / s, "alpha": 0.1 * s, "mu": 0.5, "lr": 1.0, "seconds": 1.0 * s}
    for s in range(1, 6)
]
LOG[2]["held_out"] = {"alpha": 0.25, "kl": 2.0, "tau": 1.5, "mbsu": 1.2, "cost": 0.1}
LOG[4]["held_out"] = {"alpha": 0.5, "kl": 1.0, "tau": 2.5, "mbsu": 1.9, "cost": 0.1}


def test_figures_of_a_kind_share_a_panel():
    losses, chances, gains = panels(LOG)
    assert set(losses.lines) == {"training loss", "held-out kl"}
    assert set(chances.lines) == {"training alpha", "held-out alpha"}
    assert chances.top == 1.0
    assert set(gains.lines) == {"held-out tau", "held-out mbsu"}
    assert chances.lines["held-out alpha"] == [(3, 0.25), (5, 0.5)]
    assert [step for step, _ in losses.lines["training loss"]] == [1, 2, 3, 4, 5]


def test_panels_without_a_line_are_left_out():
    assert [p.title[:4] for p in panels([{"step": 1, "loss": 2.0}])] == ["loss"]
    assert panels([]) == []
    ElementTree.fromstring(curves_svg([]))
    assert "held-out alpha" in curves_svg(LOG)
