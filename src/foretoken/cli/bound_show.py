"""What `foretoken bound` shows people, on stderr."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from foretoken.bound.optimum import SCHEMES
from foretoken.bound.report import FAILS, GREEDY_BEST, OPEN, BoundReport, Mean, Ordering, Panel
from foretoken.bound.table import RULES
from foretoken.cli.bench_show import columns

MARKS = {FAILS: "x", OPEN: "?"}


def show_report(report: BoundReport, console: Console) -> None:
    """Rates, gaps and claims of each temperature."""
    console.print(
        f"[bold]{report.model}[/] drafted by [bold]{report.drafter}[/]: {report.vocab} tokens, "
        f"acceptance in percent by number of drafts"
    )
    if report.interrupted:
        console.print("interrupted: the figures are those of what was finished")
    for panel in report.panels:
        what = "given laws" if panel.temperature is None else f"temperature {panel.temperature:g}"
        console.print(
            f"\n[bold]{what}[/]: {panel.positions} positions of {panel.groups} texts"
            f"{_widest(panel)}"
        )
        console.print(_rates(panel))
        if panel.orderings:
            console.print(_orderings(panel))
    if any(panel.orderings for panel in report.panels):
        console.print(
            "claims: left minus right in points; x: does not hold here, ?: the 95 % interval has "
            "both signs"
        )


def _widest(panel: Panel) -> str:
    spans = [rule.rate for row in panel.rows for rule in row.rules]
    known = [m.high - m.low for m in spans if m.high is not None and m.low is not None]
    return f"; 95 % intervals at most {100 * max(known):.1f} points wide" if known else ""


def _table(counts: Sequence[int], *words: str) -> Table:
    table = columns(*words, *map(str, counts))
    for column in table.columns[: len(words)]:
        column.justify = "left"
    return table


def _rates(panel: Panel) -> Table:
    table = _table([row.drafts for row in panel.rows], "drafts", "rule")
    for scheme in SCHEMES:
        best = [_percent(row.optima[scheme]) for row in panel.rows]
        table.add_row(scheme, "optimum", *best, style="bold")
        for i, rule in enumerate(RULES):
            if rule.scheme == scheme:
                rates = [_percent(row.rules[i].rate) for row in panel.rows]
                gaps = [_percent(row.rules[i].gap) for row in panel.rows]
                table.add_row("", rule.name, *rates)
                table.add_row("", "  gap", *gaps, style="dim")
    return table


def _orderings(panel: Panel) -> Table:
    rows: dict[str, dict[int, str]] = {}
    for found in panel.orderings:
        cell = f"{100 * found.difference.mean:+.2f}{MARKS.get(found.verdict, '')}"
        rows.setdefault(_short(found), {})[found.drafts] = cell
    counts = [row.drafts for row in panel.rows if row.drafts > 1]
    table = _table(counts, "claim")
    for claim, cells in rows.items():
        table.add_row(claim, *(cells[k] for k in counts))
    return table


def _short(found: Ordering) -> str:
    """What is compared, narrow enough for a terminal of 80 columns."""
    (left, scheme), (right, other) = found.left.split(", "), found.right.split(", ")
    if left == right:
        return f"{left}: {scheme} - {other}"
    if right == "optimum":
        return f"{left} - {right} {other}"
    return f"{left} - {'best other rule' if found.claim == GREEDY_BEST else right}"


def _percent(value: Mean) -> str:
    return f"{max(100 * value.mean, 0.0):.1f}"  # without it, rounding shows as -0.0
