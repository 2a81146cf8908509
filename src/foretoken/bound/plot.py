"""The report as a figure: acceptance against the number of drafts, one panel a temperature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretoken.bound.optimum import SCHEMES
from foretoken.bound.report import BoundReport, Panel
from foretoken.bound.table import RULES
from foretoken.page.figure import write_figure

COLOURS = {"with": "#3d4f9f", "without": "#0b6e4f", "greedy": "#b3541e", "top-k": "#777777"}
MARKS = {"walk": ".", "multi-round": "s", "k-seq": "^", "recursive": "D", "mixed": "o"}


def save_plot(path: Path, report: BoundReport) -> None:
    """Draw at least one panel; the file appears when it is complete."""
    from matplotlib.figure import Figure

    count = len(report.panels)
    figure = Figure(figsize=(1.2 + 3.6 * count, 5.0 if count > 1 else 6.0), layout="constrained")
    grid = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, report.panels, strict=True):
        _draw(axes, panel)
    grid[0].set_ylabel("acceptance at one position")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * count, fontsize="small")
    figure.suptitle(f"{report.model} drafted by {report.drafter}", fontsize="medium")
    write_figure(figure, path)


def _draw(axes: Any, panel: Panel) -> None:
    ks = [row.drafts for row in panel.rows]
    for scheme in SCHEMES:
        if scheme in ("with", "without"):  # of the others, a rule of the table is the optimum
            best = [row.optima[scheme].mean for row in panel.rows]
            axes.plot(ks, best, "--", color=COLOURS[scheme], label=f"optimum, {scheme}")
    for i, rule in enumerate(RULES):
        rates = [row.rules[i].rate.mean for row in panel.rows]
        style = {"color": COLOURS[rule.scheme], "marker": MARKS[rule.name], "linewidth": 1}
        axes.plot(ks, rates, markersize=4, label=rule.label, **style)
    title = "given laws" if panel.temperature is None else f"temperature {panel.temperature:g}"
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("drafts k")
    axes.set_xticks(ks)
    axes.grid(alpha=0.25)
