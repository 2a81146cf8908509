"""The figures of a page. Each takes what documents say and gives a matplotlib figure, or None where
they say nothing of it. Colours belong to methods and are the same in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from foretoken.bench.pages.read import Document
from foretoken.bench.report import Report, Result
from foretoken.bench.spec import PLAIN

PLAIN_COLOUR = "#999999"
PALETTE = ("#d1495b", "#1b6ca8", "#0b6e4f", "#e0a030", "#7a5195", "#17a2a2", "#8c564b", "#5a9bd4",
           "#9acd32", "#b8860b", "#e377c2", "#556b2f", "#2f4b7c", "#ff7c43", "#a05195", "#3cb371",
           "#c0c0c0", "#003f5c", "#ffa600", "#665191", "#488f31", "#de425b")  # fmt: skip
PARTS = {"target": "#1b6ca8", "draft": "#e0a030", "verify": "#0b6e4f", "other": "#999999"}
MOST = 60  # labels of an axis before it gets unreadable
WIDE = 72  # bars of a row
FEW = 20  # nodes of a class of promised probability that are drawn


def colours(documents: Sequence[Document]) -> dict[str, str]:
    """method -> colour."""
    names = dict.fromkeys(r.method for d in documents for _, rep in d.reports for r in rep.results)
    palette = cycle(PALETTE)
    return {n: PLAIN_COLOUR if n == PLAIN.label else next(palette) for n in names}


def speed_up(documents: Sequence[Document], colour: Mapping[str, str]) -> Any:
    """Bars: tokens per second over plain decoding, by task and method, with intervals."""
    tasks = [(task, report) for d in documents for task, report in d.reports if not report.failed]
    names = [n for n in colour if n != PLAIN.label]
    drawn = [
        (i, name, result)
        for i, (_, report) in enumerate(tasks)
        for name in names
        if (result := _known(report, name)) is not None
    ]
    if not drawn:
        return None
    each = max(WIDE // len(names), 1)  # tasks of a row
    rows = [tasks[i : i + each] for i in range(0, len(tasks), each)]
    figure = _figure(10.0, 0.6 + 2.3 * len(rows))
    grid = figure.subplots(len(rows), 1, sharey=True, squeeze=False)[:, 0]
    for i, (axes, row) in enumerate(zip(grid, rows, strict=True)):
        mine = [
            (at - i * each, name, r) for at, name, r in drawn if i * each <= at < (i + 1) * each
        ]
        _bars(axes, mine, names, colour)
        axes.set_xticks(range(len(row)), [task for task, _ in row])
        axes.set_xlim(-0.5, each - 0.5)
        axes.set_ylabel("x plain")
        axes.spines[["top", "right"]].set_visible(False)
    handles = [grid[0].bar([0], [0], color=colour[name]) for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=6, fontsize="x-small")
    return figure


def _bars(
    axes: Any, drawn: Sequence[tuple[int, str, Result]], names: Sequence[str],
    colour: Mapping[str, str],
) -> None:  # fmt: skip
    """One task after the other, the methods side by side."""
    width = 0.85 / len(names)
    for i, name, result in drawn:
        ratio = result.ratio_to_plain or 0.0
        low, high = result.interval or (ratio, ratio)
        error = ([max(ratio - low, 0.0)], [max(high - ratio, 0.0)])
        at = i + (names.index(name) - (len(names) - 1) / 2) * width
        axes.bar([at], [ratio], width, yerr=error, color=colour[name],
                 error_kw={"elinewidth": 0.7, "ecolor": "#444444"})  # fmt: skip
    axes.axhline(1.0, color=PLAIN_COLOUR, linewidth=0.8)


def cost_split(documents: Sequence[Document]) -> Any:
    """Stacked bars: where the wall clock of a method went, per token, all tasks together."""
    total: dict[str, dict[str, float]] = {}
    tokens: dict[str, int] = {}
    for document in documents:
        for _, report in document.reports:
            for result in report.results:
                if result.seconds is None or not result.new_tokens:
                    continue
                parts = total.setdefault(result.method, dict.fromkeys(PARTS, 0.0))
                for part in PARTS:
                    parts[part] += getattr(result.seconds, part)
                tokens[result.method] = tokens.get(result.method, 0) + result.new_tokens
    if not total:
        return None
    names = sorted(total, key=lambda n: sum(total[n].values()) / tokens[n])[:MOST]
    figure = _figure(7.0, 1.0 + 0.28 * len(names))
    axes = figure.subplots()
    left = [0.0] * len(names)
    for part, shade in PARTS.items():
        values = [1000 * total[name][part] / tokens[name] for name in names]
        axes.barh(names, values, left=left, color=shade, label=part)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per token")
    _legend(figure, axes)
    return figure


def tokens_against_cost(documents: Sequence[Document], colour: Mapping[str, str]) -> Any:
    """Points: tokens per step against the time of a step in plain steps. On the diagonals the
    speed-up is the same."""
    points: list[tuple[str, float, float]] = []
    for document in documents:
        for _, report in document.reports:
            plain = _known(report, PLAIN.label)
            if plain is None or not plain.tokens_per_s:
                continue
            for result in report.results:
                step, speed = result.tokens_per_step, result.tokens_per_s
                if step and speed and result.method != PLAIN.label:
                    points.append((result.method, step / speed * plain.tokens_per_s, step))
    if not points:
        return None
    figure = _figure(7.0, 5.0)
    axes = figure.subplots()
    for name in dict.fromkeys(name for name, *_ in points):
        mine = [(x, y) for label, x, y in points if label == name]
        axes.scatter(*zip(*mine, strict=True), color=colour[name], label=name, s=22)
    right = 1.05 * max(x for _, x, _ in points)
    top = 1.05 * max(y for *_, y in points)
    for gain in (0.5, 1.0, 1.5, 2.0, 3.0):
        end = min(right, top / gain)
        axes.plot((0, end), (0, gain * end), color="#cccccc", linewidth=0.8, zorder=0)
        axes.text(end, gain * end, f"{gain:g} x", fontsize="x-small", color="#888888")
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    axes.set_xlabel("time of a step, in plain steps")
    axes.set_ylabel("tokens per step")
    _legend(figure, axes)
    return figure


def calibration(documents: Sequence[Document], colour: Mapping[str, str]) -> Any:
    """Lines: how many of the nodes of a promised probability stood."""
    lines: dict[str, list[list[float]]] = {}
    for document in documents:
        for figures in () if document.stream is None else document.stream.stream:
            rows = [[k.promised, k.accepted, k.nodes] for k in figures.by_class]
            if any(nodes >= FEW for *_, nodes in rows):
                before = lines.get(figures.method, [[0.0, 0.0, 0.0] for _ in rows])
                lines[figures.method] = [
                    [a + b for a, b in zip(old, new, strict=True)]
                    for old, new in zip(before, rows, strict=True)
                ]
    if not lines:
        return None
    figure = _figure(5.5, 5.0)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="#cccccc", linewidth=0.8)
    for name, rows in lines.items():
        known = [(p / n, a / n) for p, a, n in rows if n >= FEW]
        axes.plot(*zip(*known, strict=True), marker=".", color=colour[name], label=name)
    axes.set_xlabel("probability that drafts promised")
    axes.set_ylabel("share that stood")
    _legend(figure, axes)
    return figure


def by_batch(documents: Sequence[Document], colour: Mapping[str, str]) -> Any:
    """Lines: tokens per second by how many texts ride together; None for one size."""
    reports = [d.comparison for d in documents if d.comparison is not None]
    reports = [report for report in reports if not report.failed]
    if len({report.batch for report in reports}) < 2:
        return None
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    for name, shade in colour.items():
        found = sorted(
            (report.batch, result.tokens_per_s)
            for report in reports
            if (result := _known(report, name)) is not None and result.tokens_per_s is not None
        )
        if found:
            axes.plot(*zip(*found, strict=True), marker="o", color=shade, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({report.batch for report in reports}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("texts that ride together")
    axes.set_ylabel("tokens per second, all texts")
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def by_context(documents: Sequence[Document], colour: Mapping[str, str]) -> Any:
    """Points: the speed-up of single prompts by their length."""
    points: dict[str, list[tuple[int, float]]] = {}
    for document in documents:
        for suite in () if document.stream is None else document.stream.suites:
            for row in suite.rows:
                for name in row.cells:
                    if name != PLAIN.label and row.cells[name].tokens:
                        points.setdefault(name, []).append((row.prompt_tokens, row.ratio(name)))
    if not points:
        return None
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    for name, mine in points.items():
        axes.scatter(*zip(*mine, strict=True), color=colour[name], label=name, s=8, alpha=0.6)
    axes.axhline(1.0, color=PLAIN_COLOUR, linewidth=0.8)
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel("tokens per second over plain")
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def _known(report: Report, method: str) -> Result | None:
    found = next((r for r in report.results if r.method == method), None)
    return None if found is None or found.ratio_to_plain is None else found


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Any, axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize="x-small")
