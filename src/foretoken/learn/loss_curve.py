"""Curves of a training run as a picture, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 640, 320  # pixels of a panel
LEFT, BOTTOM, EDGE = 40, 290, 10  # where the axes lie, and the margin on the other sides
COLOURS = ("#999999", "#0b6e4f", "#b3541e", "#3d4f9f", "#8a1c5c")
SMOOTHING = 0.05  # weight of a new step in the running mean of a training figure
TICKS = 10  # most ticks of a vertical axis

Line = list[tuple[int, float]]  # (step, value)


@dataclass(frozen=True)
class Panel:
    """Lines that share an axis. title: the unit, and of what; top: end of the axis, None for the
    largest value."""

    title: str
    lines: Mapping[str, Line]
    top: float | None = None


def loss_svg(log: list[dict[str, Any]]) -> str:
    """Training loss (running mean) and held-out losses over steps, as the text of an SVG file.

    log: entries with `step` and `loss`, and `held_out` (loss by kind) where it was measured.
    """
    lines = {"training": running_mean([(entry["step"], entry["loss"]) for entry in log])}
    for entry in log:
        for kind, loss in entry.get("held_out", {}).items():
            lines.setdefault(f"held-out {kind}", []).append((entry["step"], loss))
    return svg([Panel("nats per token, by step", lines)])


def running_mean(line: Line) -> Line:
    """The line with each value drawn towards those before it."""
    out: Line = []
    mean = line[0][1] if line else 0.0
    for step, value in line:
        mean += SMOOTHING * (value - mean)
        out.append((step, mean))
    return out


def svg(panels: Sequence[Panel]) -> str:
    """The panels below each other, each with its own vertical axis, as the text of an SVG file."""
    height = HEIGHT * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for row, panel in enumerate(panels):
        drawn = _panel(panel)
        if row:
            drawn = [f'<g transform="translate(0 {row * HEIGHT})">', *drawn, "</g>"]
        parts += drawn
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    last = max((step for step, _ in points), default=1) or 1
    low = min([0.0, *(value for _, value in points)])
    top = panel.top if panel.top is not None else max((value for _, value in points), default=1.0)
    top = top if top > low else low + 1.0

    def place(step: int, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - EDGE) * step / last
        return round(x, 1), round(BOTTOM - (BOTTOM - EDGE) * (value - low) / (top - low), 1)

    parts = [
        f'<path d="M{LEFT} {EDGE}V{BOTTOM}H{WIDTH - EDGE}" fill="none" stroke="#666"/>',
        f'<text x="{LEFT}" y="{HEIGHT - EDGE}">{panel.title}</text>',
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - EDGE}" text-anchor="end">{last}</text>',
    ]
    for tick in _ticks(low, top):
        y = place(0, tick)[1]
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{tick:g}</text>')
    for row, (name, line) in enumerate(panel.lines.items()):
        colour = COLOURS[row % len(COLOURS)]
        drawn = " ".join(f"{x},{y}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}"/>')
        parts.append(f'<text x="{WIDTH - 150}" y="{24 + 16 * row}" fill="{colour}">{name}</text>')
    return parts


def _ticks(low: float, top: float) -> list[float]:
    """Round numbers from `low` to `top`."""
    step = next(s * 10.0**e for e in range(-9, 99) for s in (1, 2, 5)
                if (top - low) / (s * 10.0**e) <= TICKS)  # fmt: skip
    first, end = math.ceil(low / step - 1e-9), math.floor(top / step + 1e-9)
    return [round(n * step, 9) for n in range(first, end + 1)]
