"""Loss and acceptance of a training run, as a picture and as the JSON that it is drawn from.

Every entry of a log has `step`, figures of the step by name (`loss`, `alpha` ...) and, where it was
measured, `held_out` with figures by name. What a name means decides in which panel it stands:
chances between 0 and 1 (alpha, greedy ...) in one, tokens per step and MBSU in one, losses in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretoken.learn.loss_curve import Line, Panel, running_mean, svg

CHANCES = ("alpha", "greedy", "acceptance", "acc", "accuracy", "coverage")
GAINS = ("tau", "mbsu")
NO_CURVE = ("step", "seconds", "lr", "norm", "cost", "mu", "tokens")


def curves_svg(log: Sequence[Mapping[str, Any]]) -> str:
    """The text of an SVG file; steps' figures as running means. A log without figures gives an
    empty picture."""
    return svg(panels(log))


def panels(log: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """One for losses, one for chances, one for gains: those that have a line."""
    trained, held = _lines(log)
    lines = {f"training {name}": running_mean(line) for name, line in trained.items()}
    lines |= {f"held-out {name}": line for name, line in held.items()}
    kinds: dict[str, dict[str, Line]] = {"loss": {}, "chance": {}, "gain": {}}
    for name, line in lines.items():
        kinds[_kind(name.split(" ", 1)[1])][name] = line
    made = (
        Panel("loss (nats per token for a cross-entropy or KL), by step", kinds["loss"]),
        Panel("chance that a drafted token stands, by step", kinds["chance"], 1.0),
        Panel("tokens per target forward, by step", kinds["gain"]),
    )
    return [panel for panel in made if panel.lines]


def _lines(log: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Line], dict[str, Line]]:
    trained: dict[str, Line] = {}
    held: dict[str, Line] = {}
    for entry in log:
        for figures, lines in ((entry, trained), (entry.get("held_out", {}), held)):
            for name, value in figures.items():
                if name not in NO_CURVE and isinstance(value, int | float):
                    lines.setdefault(name, []).append((int(entry["step"]), float(value)))
    return trained, held


def _kind(name: str) -> str:
    first = name.replace("-", "_").split("_")[0]
    return "chance" if first in CHANCES else "gain" if first in GAINS else "loss"
