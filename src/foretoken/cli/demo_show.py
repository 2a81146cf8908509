"""What the demo shows: two columns that fill up while it runs, and the table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from foretoken.bench.contest import Run, Task, Watch
from foretoken.bench.report import Report, Seconds
from foretoken.cli.render import DRAFTED, PARTS, OriginText, rich_text, time_bar
from foretoken.errors import ConfigError
from foretoken.types import Session, Step

REFRESH = 0.1  # seconds between two pictures
BAR = 24  # characters of the longest time bar
SAME = {True: "yes", False: "NO", None: "-"}


class Lines(Watch):
    """For a stream that is no terminal: one line per run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._phase = ""

    def phase(self, name: str, total: int) -> None:
        """See Watch."""
        self._phase = name
        self.console.print(f"{name}: {total} runs", highlight=False)

    def done(self, run: Run) -> None:
        """See Watch."""
        if self._phase == "measuring":
            name = run.tasks[0].prompt.name
            self.console.print(f"  {name}: {run.method} {describe(run)}", highlight=False)


class Side:
    """One method's column: its text so far, and how the last run went."""

    def __init__(self, method: str) -> None:
        self.method, self.text, self.note = method, Text(), ""
        self.stream: OriginText | None = None

    def panel(self, width: int, height: int, console: Console) -> Panel:
        """The end of the text that fits into so many rows."""
        lines = self.text.wrap(console, max(width - 4, 1))[-height:]
        body = Text("\n").join(lines)
        return Panel(body, title=self.method, subtitle=self.note, width=width, height=height + 2)


class Columned(Watch):
    """For a terminal: plain on the left, drafted on the right, accepted drafts in colour.

    It draws between steps and in the bench's own thread, where the clock is stopped: a thread that
    draws would take time from the forwards.
    """

    def __init__(self, live: Live, tokenizer: Any, methods: Sequence[str]) -> None:
        self.live, self.tokenizer = live, tokenizer
        self.sides = {method: Side(method) for method in methods}
        self.title, self._total, self._count, self._drawn = "", 0, 0, 0.0
        self._prompt = ""

    def phase(self, name: str, total: int) -> None:
        """See Watch."""
        self.title, self._total, self._count = name, total, 0
        self.draw(now=True)

    def start(self, method: str, tasks: Sequence[Task]) -> None:
        """See Watch."""
        prompt = tasks[0].prompt.name
        if prompt != self._prompt:
            self._prompt = prompt
            self.sides = {name: Side(name) for name in self.sides}
        self.sides[method].stream = OriginText(
            lambda tokens: str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        )

    def step(self, method: str, task: Task, session: Session, step: Step) -> None:  # noqa: ARG002
        """See Watch."""
        side, made = self.sides[method], step.committed
        if side.stream is None:
            return
        origin = [i < made.accepted for i in range(len(made.tokens))]
        side.text.append_text(rich_text(side.stream.push(made.tokens, origin)))
        side.note = f"{session.stats.tokens} tokens, {session.stats.steps} steps"
        self.draw()

    def done(self, run: Run) -> None:
        """See Watch."""
        self._count += 1
        side = self.sides[run.method]
        if side.stream is not None:
            side.text.append_text(rich_text(side.stream.finish()))
            side.note, side.stream = describe(run), None
        self.draw(now=True)

    def draw(self, now: bool = False) -> None:
        """A new picture, if the last one is old enough."""
        if now or perf_counter() - self._drawn >= REFRESH:
            self._drawn = perf_counter()
            self.live.update(self.picture(), refresh=True)

    def picture(self) -> RenderableType:
        """Title, two columns, legend."""
        console = self.live.console
        width, height = (console.width - 1) // 2, max(min(console.height - 6, 24), 3)
        head = Text(f"{self.title} {self._count} of {self._total}  {self._prompt}", "bold")
        panels = [side.panel(width, height, console) for side in self.sides.values()]
        legend = Text.assemble(("drafted and accepted", DRAFTED), "  added by the model itself")
        return Group(head, Columns(panels, padding=0), legend)


@contextmanager
def watch_for(console: Console, tokenizer: Any, methods: Sequence[str]) -> Iterator[Watch]:
    """Columns on a terminal, else lines."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield Columned(live, tokenizer, methods)


def describe(run: Run) -> str:
    """ "128 tokens, 60 steps, 88.1 tokens/s" """
    return f"{run.count} tokens, {run.forwards} steps, {run.count / run.wall:.1f} tokens/s"


def report_table(console: Console, report: Report) -> None:
    """The figures, and in words what they were measured on and whether the text was the same."""
    speed = Table("method", "tokens/s", "ratio", "tokens/step", "same text", box=box.SIMPLE_HEAD)
    for r in report.results:
        ratio = _figure(r.ratio_to_plain, ".2f", " x")
        figures = _figure(r.tokens_per_s, ".1f"), ratio, _figure(r.tokens_per_step, ".2f")
        tied = not report.failed and r.identical is False and r.near_ties == len(r.divergences)
        speed.add_row(r.method, *figures, "near-tie" if tied else SAME[r.identical])
    console.print(speed)
    timed = [(r.method, r.seconds) for r in report.results if r.seconds is not None]
    if timed:
        console.print(_time_table(timed))
    for line in words(report):
        console.print(line, highlight=False, soft_wrap=True)


def save_picture(path: Path, report: Report) -> None:
    """The final table as an SVG file, as a terminal would show it."""
    recorder = Console(record=True, width=100, file=StringIO(), force_terminal=True)
    report_table(recorder, report)
    try:
        recorder.save_svg(str(path), title="foretoken demo")
    except OSError as error:
        raise ConfigError("svg", str(path), f"a file that can be written ({error})") from None


def _time_table(timed: Sequence[tuple[str, Seconds]]) -> Table:
    """Where the time went; the bars are to one scale."""
    table = Table("method", "seconds", "", box=box.SIMPLE_HEAD)
    for part, style in PARTS.items():
        table.add_column(Text(part, style))
    slowest = max(seconds.total for _, seconds in timed) or 1.0
    for method, seconds in timed:
        parts = {part: getattr(seconds, part) for part in PARTS}
        split = [f"{spent / (seconds.total or 1.0):.0%}" for spent in parts.values()]
        bar = time_bar(parts, round(BAR * seconds.total / slowest))
        table.add_row(method, f"{seconds.total:.2f}", bar, *split)
    return table


def _figure(value: float | None, how: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{how}}{unit}"


def words(report: Report) -> list[str]:
    """Lines below the table."""
    prompts, results = report.prompts, report.results
    grams = results[0].distinct_4grams if results else None
    wide = f", zero-padded by --widen {report.widen}" if report.widen > 1 else ""
    out = [
        f"{prompts.used} prompts of {', '.join(prompts.files)}, at most {report.max_new_tokens} "
        f"tokens each; {prompts.cut} cut where the text began to loop, {prompts.dropped} dropped; "
        f"distinct 4-grams {_figure(grams, '.2f')}",
        f"{report.model}, {report.parameters / 1e6:.1f} M parameters{wide}, {report.dtype}; "
        f"{report.machine.processor}, {report.machine.threads} threads",
    ]
    for result in results:
        if (first := result.first_divergence) is not None:
            out.append(
                f"{result.method}: text differs first in prompt {first.prompt} at token "
                f"{first.position}: {first.got} instead of {first.expected} (logit gap "
                f"{_figure(first.gap, '.3g')})"
            )
    if report.failed:
        out.append("The text differed where it must not, so no speed is shown.")
    if report.interrupted:
        out.append("Interrupted: the figures are those of what was finished.")
    return out
