"""What `foretoken bench` shows people, on stderr: progress, tables; no speed without identity."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from foretoken.bench.contest import Run, Watch
from foretoken.bench.kernels import KernelResult
from foretoken.bench.memory import MemoryReport
from foretoken.bench.parity import ParityReport
from foretoken.bench.report import Divergence, Floor, Machine, Report, Result

LISTED = 20  # divergences of a method shown one by one; the document holds all


class Bar(Watch):
    """A progress bar on stderr; `with Bar(console) as bar`."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._progress.stop()

    def phase(self, name: str, total: int) -> None:
        """See `Watch`."""
        self._progress.reset(self._task, total=total, description=name)

    def advance(self, by: int = 1) -> None:
        """So much more is done."""
        self._progress.advance(self._task, by)

    def done(self, run: Run) -> None:  # noqa: ARG002
        """See `Watch`."""
        self.advance()


def number(value: float | None, form: str = ".2f") -> str:
    """A figure, or "-" for one that was not measured."""
    return "-" if value is None else format(value, form)


def columns(*names: str, wrapped: Sequence[str] = ()) -> Table:
    """A table of figures that fits 80 characters; words stand left, figures right."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in names:
        words = name in ("method", "text", "company", "drafter", "rule", "kind", "case")
        table.add_column(
            name, justify="left" if words else "right", no_wrap=name not in wrapped, overflow="fold"
        )
    return table


def show_report(report: Report, console: Console) -> None:
    """Identity first; the figures only if it holds."""
    console.print(heading(report))
    for result in report.results:
        show_divergences(result.method, result.divergences, report.near_tie_bound, console)
    if report.failed:
        console.print("[bold red]the text differs: no speed is reported[/]")
    elif report.interrupted:
        console.print("interrupted: the figures are those of what was finished")
    if not report.failed:
        console.print(result_table(report))
        console.print(share_table(report))
        show_peers(report, console)
        show_floor(report.floor, console)


def heading(report: Report) -> str:
    """What was measured, in a few lines."""
    prompts = report.prompts
    widened = f", widened x{report.widen}" if report.widen > 1 else ""
    lines = [
        f"[bold]{report.model}[/]: {report.parameters / 1e6:.1f} M parameters{widened}, "
        f"{report.dtype}, exact {report.exact}; {report.mode}",
        machine_line(report.machine),
        f"{prompts.used} of {prompts.read} prompts ({prompts.cut} cut at a loop, {prompts.dropped} "
        f"dropped), {report.max_new_tokens} new tokens at most, {report.repeats} repeats, batch "
        f"{report.batch}, {'sampling ' + str(report.sampling) if report.sampling else 'greedy'}",
    ]
    return "\n".join(lines)


def machine_line(machine: Machine) -> str:
    """The machine in one line."""
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.threads} threads, {machine.device}; "
        f"torch {machine.torch}, transformers {machine.transformers}, {machine.how}"
    )


def show_divergences(
    method: str, found: Sequence[Divergence], bound: str, console: Console
) -> None:
    """One line each."""
    for d in found[:LISTED]:
        tie = "near-tie" if d.near_tie else "[red]no near-tie[/]"
        console.print(
            f"{method}: prompt {d.prompt}, new token {d.position}: plain wrote {d.expected}, it "
            f"wrote {d.got}; logit gap {number(d.gap, '.3g')} ({tie})"
        )
    if found:
        ties = sum(d.near_tie is True for d in found)
        console.print(f"{method}: {len(found)} prompts differ, {ties} near-ties ({bound})")


def result_table(report: Report) -> Table:
    """The comparison."""
    table = columns("method", "text", "tokens/s", "x plain", "95 %", "tokens/step", "4-grams")
    for result in report.results:
        table.add_row(
            result.method,
            _identity(result),
            number(result.tokens_per_s, ".1f"),
            number(result.ratio_to_plain),
            interval(result.interval),
            number(result.tokens_per_step),
            number(result.distinct_4grams),
        )
    return table


def interval(found: tuple[float, float] | None) -> str:
    """Of a ratio; "-" if there is none."""
    return "-" if found is None else f"{found[0]:.2f} - {found[1]:.2f}"


def show_peers(report: Report, console: Console) -> None:
    """Other engines: each over its own plain decoding, and what it took; who could not run."""
    if report.peers:
        table = columns("method", "x own plain", "95 %", "first token", "memory", "opened in")
        facts = {peer.label: peer for peer in report.peers}
        for result in report.results:
            peer = facts.get(result.method)
            if peer is None:
                continue
            table.add_row(
                result.method,
                number(result.ratio_to_own_plain),
                interval(result.own_interval),
                "-" if result.first_token_s is None else f"{1000 * result.first_token_s:.0f} ms",
                "ours" if peer.peak_mb is None else f"{peer.peak_mb:,.0f} MB",
                "-" if peer.open_seconds is None else f"{peer.open_seconds:.1f} s",
            )
        console.print(table)
    for label, why in report.missing.items():
        console.print(f"[red]{label}[/] could not run: {escape(why)}")


def show_floor(found: Floor | None, console: Console) -> None:
    """Forwards beside what reading the weights takes."""
    if found is None:
        return
    console.print(
        f"weights of {found.weight_mb:.1f} MB at {found.read_gb_per_s:.1f} GB/s: "
        f"{1000 * found.seconds:.2f} ms a forward at least; measured "
        + ", ".join(
            f"{rows} rows {1000 * s:.2f} ms ({s / found.seconds:.2f} x)"
            for rows, s in found.forwards.items()
        )
    )


def _identity(result: Result) -> str:
    if result.identical is None:
        return "-"
    return "identical" if result.identical else f"{len(result.divergences)} differ"


def share_table(report: Report) -> Table:
    """Where the time of our methods went."""
    table = columns("method", "target", "draft", "verify", "other", "overhead / target")
    for result in report.results:
        s = result.seconds
        if s is not None and s.total:
            parts = (s.target, s.draft, s.verify, s.other)
            shares = [f"{part / s.total:.1%}" for part in parts]
            table.add_row(result.method, *shares, f"{s.overhead:.1%}")
    return table


def show_parity(report: ParityReport, console: Console) -> None:
    """Differing tokens of each method, alone and in company."""
    console.print(
        f"[bold]{report.model}[/], {report.dtype}, exact {report.exact}: {report.prompts} prompts, "
        f"{report.max_new_tokens} new tokens at most"
    )
    table = columns("method", "company", "prompts", "tokens", "differing", "near-ties")
    for r in report.results:
        show_divergences(f"{r.method} ({r.company})", r.divergences, report.near_tie_bound, console)
        ties = sum(d.near_tie is True for d in r.divergences)
        table.add_row(r.method, r.company, str(r.prompts), str(r.compared_tokens),
                      str(r.differing_tokens), f"{ties} of {len(r.divergences)}")  # fmt: skip
    console.print(table)
    if report.failed:
        console.print("[bold red]the text differs[/]")


def show_memory(report: MemoryReport, console: Console) -> None:
    """Resident memory over a long run."""
    table = columns("method", "tokens", "resident MB", "KV reserved MB")
    for result in report.results:
        for p in result.points:
            table.add_row(
                result.method, str(p.tokens), number(p.resident_mb, ".1f"), number(p.kv_mb, ".1f")
            )
        table.add_section()
    console.print(table)
    for method, growth in report.growth_mb.items():
        console.print(f"{method}: growth without the KV cache {number(growth, '+.1f')} MB")
    console.print(f"peak of the process {report.peak_mb:.1f} MB")


def show_kernels(results: Sequence[KernelResult], console: Console) -> None:
    """Packed against plain linear layers."""
    table = columns("in", "out", "rows", "plain ms", "packed ms", "plain / packed")
    for r in results:
        table.add_row(str(r.inputs), str(r.outputs), str(r.rows), number(r.plain_ms, ".3f"),
                      number(r.packed_ms, ".3f"), number(r.ratio))  # fmt: skip
    console.print(table)
