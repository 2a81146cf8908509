"""The report as a figure: acceptance against the number of drafts, one panel a temperature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretoken.bound.optimum import SCHEMES
from foretoken.bound.report import BoundReport, Panel
from foretoken.bound.table import RULES
from foretoken.errors import ConfigError

SUFFIXES = (".png", ".svg")
COLOURS = {"with": "#3d4f9f", "without": "#0b6e4f", "greedy": "#b3541e", "top-k": "#777777"}
MARKS = {"walk": ".", "multi-round": "s", "k-seq": "^", "recursive": "D", "mixed": "o"}


def check_plot(path: Path, field: str = "plot") -> None:
    """Before any work. Raises ConfigError, in the name of the option `field`, for a file that
    cannot be drawn to."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(field, str(path), f"a file that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(field, str(path), "a file in a folder that exists")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            field, str(path), "nothing without matplotlib: pip install 'foretoken[bench]'"
        ) from None


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


def write_figure(figure: Any, path: Path) -> None:
    """PNG or SVG by suffix; the file appears when it is complete."""
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, format=path.suffix[1:], dpi=150, metadata=_TIMELESS[path.suffix])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


_TIMELESS: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".png": {}}  # the same bytes again


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
