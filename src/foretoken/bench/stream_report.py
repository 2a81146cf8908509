"""What a run over suites found: one document, which grows suite by suite.

Where text differed that must not, a suite holds no figures, and neither does the whole stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from pydantic import Field

from foretoken.bench.contest import Run
from foretoken.bench.report import Floor, Report, Result
from foretoken.bench.results import make_report
from foretoken.bench.run import Measured
from foretoken.bench.spec import PLAIN
from foretoken.bench.suites import Built, Suite
from foretoken.bench.tally import Counted, Kept, Share, Tally
from foretoken.types import Options

VERSION = 1  # of the document
LOW = 0.05  # the quantile of the ratios of single prompts that is reported


class Cell(Options):
    """One method on one prompt. Counts and seconds are sums over the repeats."""

    walls: list[float]  # seconds of each repeat
    tokens: int
    steps: int  # forwards of the target
    drafted: int = 0
    accepted: int = 0
    draft: float | None = None  # seconds; None: a peer's parts are not known
    target: float | None = None
    verify: float | None = None

    @property
    def wall(self) -> float:
        """Seconds of a repeat, the median."""
        return median(self.walls)

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / len(self.walls) / self.wall


class PromptRow(Options):
    """One prompt."""

    name: str
    prompt_tokens: int
    cells: dict[str, Cell]  # by method

    def ratio(self, method: str) -> float:
        """To plain, in tokens per second."""
        return self.cells[method].speed / self.cells[PLAIN.label].speed


class Figures(Options):
    """One method on one suite, or on all of them together (`tokens_per_s` ... of the medians)."""

    method: str
    merges: bool = False  # several drafters in one tree
    peer: bool = False
    lossy: bool = False
    identical: bool | None = None  # its text to plain's; None: cannot be compared
    tokens_per_s: float | None
    ratio_to_plain: float | None
    ratio_low: float | None  # the 5th percentile of the ratios of single prompts
    tokens_per_step: float | None
    drafted: int = 0
    accepted: int = 0
    promised: float | None = None  # sum of the nodes' probabilities; None: nothing was promised
    by_class: list[Kept] = Field(default_factory=list)  # by promised probability
    sources: dict[str, Share] = Field(default_factory=dict)  # of a merged draft
    draft_s_per_step: float | None = None  # learning included
    draft_s_per_node: float | None = None


class Best(Options):
    """Where merged drafts stand beside the best single method (plain is one, a peer is none)."""

    suite: str
    single: str
    ratio_to_plain: float
    merged: dict[str, float]  # by method: tokens per second, relative to the best single one


class SuiteReport(Options):
    """One suite."""

    suite: str
    summary: str
    sampling: dict[str, Any]  # how text was chosen, as far as it is not greedy
    shortened: int  # prompts whose beginning was cut off to fit the context
    too_long: int  # prompts dropped because they did not fit
    report: Report  # as of any comparison
    figures: list[Figures]
    rows: list[PromptRow]

    def of(self, method: str) -> Figures:
        """Raises KeyError for a method that is not there."""
        return next((f for f in self.figures if f.method == method), None) or _missing(method)


class StreamReport(Options):
    """The document."""

    settings: dict[str, Any]  # what --resume compares
    suites: list[SuiteReport] = Field(default_factory=list)
    skipped: dict[str, str] = Field(default_factory=dict)  # suite -> why it has no figures
    stream: list[Figures] = Field(default_factory=list)  # all suites together
    floor: Floor | None = None  # of the forwards, and what they take
    best: list[Best] = Field(default_factory=list)  # by suite; "all" is the whole stream
    failed: bool = False
    interrupted: bool = False
    command: str = ""  # that made it, and what is to be said of the run: filled by who keeps it
    note: str = ""
    version: int = VERSION

    def with_totals(self, interrupted: bool = False) -> StreamReport:
        """The same, with what follows from the suites."""
        failed = any(suite.report.failed for suite in self.suites)
        stream = [] if failed or not self.suites else _stream(self.suites)
        best = [beside(s.suite, s.figures, _per_repeat(s.report)) for s in self.suites if s.figures]
        if stream:
            best.append(beside("all", stream, {}))
        totals = {"stream": stream, "best": best, "failed": failed, "interrupted": interrupted}
        return self.model_copy(update=totals)


def _missing(method: str) -> Figures:
    raise KeyError(method)


def suite_report(
    suite: Suite, built: Built, measured: Measured, tally: Tally, target: Any, widen: int
) -> SuiteReport:
    """One suite's part of the document."""
    report = make_report(measured, target, widen=widen)
    timed = [r.method for r in report.results if r.tokens_per_s is not None]
    rows = [] if report.failed else _rows(measured, timed)
    merging = {c.label for c in measured.contestants if c.merges}
    figures = [
        _figures(result, rows, tally.methods[result.method], result.method in merging)
        for result in ([] if report.failed else report.results)
    ]
    return SuiteReport(
        suite=suite.name, summary=suite.summary, sampling=report.sampling,
        shortened=built.shortened, too_long=built.dropped, report=report, figures=figures,
        rows=rows,
    )  # fmt: skip


def _rows(measured: Measured, labels: Sequence[str]) -> list[PromptRow]:
    """Prompts are measured one by one, so that a cell of the comparison is one prompt. labels: of
    those that have figures."""
    repeats = measured.finished()
    return [
        PromptRow(
            name=task.prompt.name,
            prompt_tokens=len(task.prompt.tokens),
            cells={label: _cell([cells[i][label] for cells in repeats]) for label in labels},
        )
        for i, task in enumerate(measured.tasks)
    ]


def _cell(runs: Sequence[Run]) -> Cell:
    stats = [s for run in runs for s in run.stats]
    parts = {p: sum(s.seconds[p] for s in stats) for p in ("draft", "target", "verify") if stats}
    return Cell(
        walls=[run.wall for run in runs],
        tokens=sum(run.count for run in runs),
        steps=sum(run.forwards for run in runs),
        drafted=sum(s.drafted for s in stats),
        accepted=sum(s.accepted for s in stats),
        **parts,
    )


def _figures(result: Result, rows: Sequence[PromptRow], seen: Counted, merges: bool) -> Figures:
    draft = None if result.seconds is None else result.seconds.draft
    return Figures(
        method=result.method,
        merges=merges,
        peer=result.peer,
        lossy=result.guarantee.startswith("lossy"),
        identical=result.identical,
        tokens_per_s=result.tokens_per_s,
        ratio_to_plain=result.ratio_to_plain,
        ratio_low=_low(rows, result.method),
        tokens_per_step=result.tokens_per_step,
        drafted=result.drafted,
        accepted=seen.accepted,
        promised=None if result.peer else seen.promised,
        by_class=seen.by_class,
        sources=seen.sources,
        draft_s_per_step=_share(draft, result.steps),
        draft_s_per_node=_share(draft, result.drafted),
    )


def _share(part: float | None, whole: float) -> float | None:
    return part / whole if part is not None and whole else None


def _low(rows: Sequence[PromptRow], method: str) -> float | None:
    ratios = [row.ratio(method) for row in rows if method in row.cells]
    return float(np.quantile(ratios, LOW)) if ratios else None


def _stream(suites: Sequence[SuiteReport]) -> list[Figures]:
    rows = [row for suite in suites for row in suite.rows]
    # a peer that could not run everywhere, or wrote another text, has no total
    names = [f.method for f in suites[0].figures if all(f.method in row.cells for row in rows)]
    speeds = {name: _speed(row.cells[name] for row in rows) for name in names}
    return [_total(name, suites, rows, speeds) for name in names]


def _speed(cells: Iterable[Cell]) -> float:
    """Tokens per second of the medians' sum."""
    tokens, wall = np.sum([(c.tokens / len(c.walls), c.wall) for c in cells], axis=0).tolist()
    return float(tokens / wall)


def _total(
    name: str, suites: Sequence[SuiteReport], rows: Sequence[PromptRow], speeds: Mapping[str, float]
) -> Figures:
    parts, cells = [suite.of(name) for suite in suites], [row.cells[name] for row in rows]
    steps, drafted = sum(c.steps for c in cells), sum(c.drafted for c in cells)
    promised = [p.promised for p in parts]
    known = [p for p in promised if p is not None]
    draft = None if parts[0].peer else sum(c.draft or 0.0 for c in cells)
    sources = {source: Share() for part in parts for source in part.sources}
    for part in parts:
        for source, share in part.sources.items():
            sources[source] = sources[source] + share
    return parts[0].model_copy(
        update={
            "identical": None if None in (same := [p.identical for p in parts]) else all(same),
            "tokens_per_s": speeds[name],
            "ratio_to_plain": speeds[name] / speeds[PLAIN.label],
            "ratio_low": _low(rows, name),
            "tokens_per_step": _share(sum(c.tokens for c in cells), steps),
            "drafted": drafted,
            "accepted": sum(p.accepted for p in parts),
            "promised": sum(known) if len(known) == len(promised) else None,
            "by_class": _added([p.by_class for p in parts]),
            "sources": sources,
            "draft_s_per_step": _share(draft, steps),
            "draft_s_per_node": _share(draft, drafted),
        }
    )


def _added(tables: Sequence[list[Kept]]) -> list[Kept]:
    if not all(tables):
        return []
    return [sum(row[1:], start=row[0]) for row in zip(*tables, strict=True)]


def _per_repeat(report: Report) -> dict[str, list[float]]:
    return {result.method: result.per_repeat for result in report.results}


def beside(suite: str, figures: Sequence[Figures], repeats: Mapping[str, list[float]]) -> Best:
    """Merged drafts beside the best single method.

    repeats: ratios to plain by method, paired; without them the figures' own are divided.
    """
    known = {f.method: f.ratio_to_plain for f in figures if f.ratio_to_plain is not None}
    singles = [f for f in figures if not (f.merges or f.peer or f.lossy) and f.method in known]
    first = max(singles, key=lambda f: known[f.method]).method

    def over(method: str) -> float:
        pairs = zip(repeats.get(method, ()), repeats.get(first, ()), strict=True)
        return median([a / b for a, b in pairs] or [known[method] / known[first]])

    merged = {f.method: over(f.method) for f in figures if f.merges and f.method in known}
    return Best(suite=suite, single=first, ratio_to_plain=known[first], merged=merged)
