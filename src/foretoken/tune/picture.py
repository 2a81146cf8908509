"""The scorecard as a figure: gain over plain decoding along the stream, shifts as lines."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

from foretoken.page.figure import write_figure
from foretoken.registry import DEFAULT_METHOD, DEFAULT_POLICY, NULL_POLICY
from foretoken.tune.report import EXP3, OPTIMUM, PLAIN, UCB, Played, Scorecard

FIXED = {OPTIMUM: "#222222", DEFAULT_METHOD: "#d1495b", UCB: "#e0a030", EXP3: "#b8860b"}
OTHERS = ("#1b6ca8", "#0b6e4f", "#7a5195", "#5a9bd4", "#777777", "#8c564b", "#17a2a2", "#9acd32")
COLUMNS = 2


def save_picture(path: Path, card: Scorecard) -> None:
    """Draw at least one scenario; the file appears when it is complete."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colours = _colours(card)
    rows = (len(card.scenarios) + COLUMNS - 1) // COLUMNS
    figure = Figure(figsize=(6.5 * COLUMNS, 2.6 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, scenario in zip(grid.flat, card.scenarios, strict=False):
        _draw(axes, scenario, card.window, colours)
    for axes in list(grid.flat)[len(card.scenarios) :]:
        axes.set_visible(False)
    shown: dict[str, Any] = {}
    for axes in grid.flat:  # a method may be left out of some scenarios
        handles, labels = axes.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(shown.values()), list(shown), loc="outside lower center", ncols=4, fontsize="small"
    )
    figure.suptitle(f"gain over plain decoding, windows of {card.window} tokens; {card.clock}",
                    fontsize="small")  # fmt: skip
    with mpl.rc_context({"svg.hashsalt": "foretoken"}):  # the same bytes every time
        write_figure(figure, path)


def _colours(card: Scorecard) -> dict[str, str]:
    """One colour a method, the same in every panel."""
    names = sorted({lane.method for played in card.scenarios for lane in played.lanes})
    others = cycle(OTHERS)
    return {name: FIXED.get(name) or next(others) for name in names}


def _draw(axes: Any, played: Played, window: int, colours: dict[str, str]) -> None:
    stride = max(window // 4, 1)
    for lane in sorted(played.lanes, key=lambda lane: lane.name):
        if lane.method == PLAIN:
            continue
        chosen = (lane.method, lane.policy) == (DEFAULT_METHOD, DEFAULT_POLICY)
        style = "--" if lane.method == OPTIMUM else ":" if lane.policy == NULL_POLICY else "-"
        at = [window + i * stride for i in range(len(lane.score.gains))]  # where each window ends
        axes.plot(at, lane.score.gains, style, color=colours[lane.method], label=lane.name,
                  linewidth=2.0 if chosen else 0.9)  # fmt: skip
    axes.axhline(1.0, color="#999999", linewidth=0.8)
    start = 0
    for name, tokens in played.phases:
        if start:
            axes.axvline(start, color="#999999", linestyle=":", linewidth=1)
        axes.text(start + 0.5 * tokens, 0.98, name, transform=axes.get_xaxis_transform(),
                  ha="center", va="top", fontsize="x-small", color="#555555")  # fmt: skip
        start += tokens
    axes.set_title(played.name, fontsize="medium")
    axes.set_ylim(bottom=0.0)
    axes.spines[["top", "right"]].set_visible(False)
