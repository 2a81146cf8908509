"""What `foretoken bench --suite` shows: a table when a suite ends, and the whole stream's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from foretoken.bench.report import Machine, Report
from foretoken.bench.stream_report import Figures, StreamReport
from foretoken.bench.tally import CLASSES
from foretoken.cli.bench_show import (
    columns,
    machine_line,
    number,
    show_divergences,
    show_floor,
    show_peers,
)

ALL = "all"
FEW = 20  # nodes, below which a share says nothing
LEGEND = (
    "x plain: tokens per second relative to plain; p5: 5th percentile of it over prompts; "
    "promised: sum of the drafted nodes' own probabilities, to be compared with those that stood; "
    "draft: time of proposing and learning"
)


def show_target(settings: Mapping[str, Any], machine: Machine, console: Console) -> None:
    """What runs, and where."""
    widen = settings["widen"]
    widened = f", widened x{widen}" if widen > 1 else ""
    console.print(
        f"[bold]{settings['model']}[/]: {settings['parameters'] / 1e6:.1f} M parameters{widened}, "
        f"{settings['dtype']}, exact {settings['exact']}; {settings['max_new_tokens']} new tokens "
        f"at most, {settings['repeats']} repeats"
    )
    console.print(machine_line(machine))


def show_suite(document: StreamReport, name: str, console: Console) -> None:
    """The suite that was finished last, or why it has no figures."""
    if name in document.skipped:
        console.print(f"[bold]{name}[/]: skipped; {document.skipped[name]}")
        return
    suite = document.suites[-1]
    report, prompts = suite.report, suite.report.prompts
    how = f"sampling {suite.sampling}" if suite.sampling else "greedy"
    console.print(
        f"[bold]{suite.suite}[/]: {suite.summary}\n{report.mode}, {how}; {prompts.used} of "
        f"{prompts.read} prompts (text of {prompts.cut} cut at a loop, {prompts.dropped} dropped; "
        f"prompts shortened {suite.shortened}, too long {suite.too_long})"
    )
    for result in report.results:
        show_divergences(result.method, result.divergences, report.near_tie_bound, console)
    if report.failed:
        console.print("[bold red]the text differs: no speed is reported[/]")
    else:
        console.print(speed_table(suite.figures, report))
        console.print(draft_table(suite.figures))
        show_peers(report, console)


def show_stream(document: StreamReport, console: Console) -> None:
    """All suites together."""
    if document.failed:
        console.print("[bold red]a text differs: no speed of the whole is reported[/]")
    if document.interrupted:
        console.print("interrupted: the figures are those of the finished suites")
    show_floor(document.floor, console)
    if not document.stream:
        return
    console.print(f"[bold]the whole stream[/]: {len(document.suites)} suites")
    console.print(speed_table(document.stream))
    console.print(draft_table(document.stream))
    console.print(LEGEND)
    if any(figures.merges for figures in document.stream):
        console.print(best_table(document))
    promising = [f for f in document.stream if f.by_class and f.drafted]
    if promising:
        console.print(
            "share of the drafted nodes that stood, by the probability that was promised, from:"
        )
        console.print(promise_table(promising))
    if any(figures.sources for figures in document.stream):
        console.print(source_table(document.stream))


def speed_table(figures: Sequence[Figures], report: Report | None = None) -> Table:
    """The methods; the repetition in their text where one suite's report is at hand."""
    names = ("method", "same", "tokens/s", "x plain", "p5", "tokens/step", "4-grams")
    table = columns(*names, wrapped=("method",))
    for f in figures:
        result = None if report is None else report.of(f.method)
        table.add_row(
            f.method,
            "-" if f.identical is None else "yes" if f.identical else "no",
            number(f.tokens_per_s, ".1f"),
            number(f.ratio_to_plain),
            number(f.ratio_low),
            number(f.tokens_per_step),
            number(None if result is None else result.distinct_4grams),
        )
    return table


def draft_table(figures: Sequence[Figures]) -> Table:
    """What was drafted, what it promised, and what it cost."""
    names = ("method", "drafted", "stood", "promised", "draft ms/step", "us/node")
    table = columns(*names, wrapped=("method",))
    for f in figures:
        if f.draft_s_per_step is None or f.draft_s_per_node is None:
            continue  # a peer, or a method that drafted nothing
        table.add_row(
            f.method,
            str(f.drafted),
            str(f.accepted),
            number(f.promised, ".0f"),
            number(1e3 * f.draft_s_per_step, ".3f"),
            number(1e6 * f.draft_s_per_node, ".0f"),
        )
    return table


def best_table(document: StreamReport) -> Table:
    """Merged drafts beside the best single method of each suite."""
    merged = [figures.method for figures in document.stream if figures.merges]
    over = [f"{method} / best" for method in merged]
    table = columns("case", "best single method", "x plain", *over, wrapped=over)
    table.columns[1].justify = "left"
    for best in document.best:
        if best.suite == ALL:
            table.add_section()
        ratios = [number(best.merged.get(method), ".3f") for method in merged]
        table.add_row(best.suite, best.single, number(best.ratio_to_plain), *ratios)
    return table


def promise_table(figures: Sequence[Figures]) -> Table:
    """Rows are methods, columns classes of promised probability, by their lower end."""
    ends = [f"{c / CLASSES:.1f}" for c in range(CLASSES)]
    table = columns("method", *ends, wrapped=("method",))
    for f in figures:
        shares = [k.accepted / k.nodes if k.nodes >= FEW else None for k in f.by_class]
        table.add_row(f.method, *map(number, shares))
    return table


def source_table(figures: Sequence[Figures]) -> Table:
    """Who gave what to merged drafts."""
    names = ("method", "source", "drafted", "stood", "of drafted", "of what stood")
    table = columns(*names, wrapped=("method",))
    table.columns[1].justify = "left"
    for f in figures:
        for source, share in f.sources.items():
            table.add_row(
                f.method, source, str(share.drafted), str(share.accepted),
                f"{share.accepted / max(share.drafted, 1):.1%}",
                f"{share.accepted / max(f.accepted, 1):.1%}",
            )  # fmt: skip
    return table
