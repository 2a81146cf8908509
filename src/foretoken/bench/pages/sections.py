"""What a page says: documents -> blocks. Figures only of text that was checked to be the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretoken.bench.pages import figures
from foretoken.bench.pages.read import Document
from foretoken.bench.report import Machine, Report, Result
from foretoken.bench.spec import PLAIN
from foretoken.page.blocks import Block, Code, Grid, Heading, Picture, Text
from foretoken.page.figure import svg_text

COLUMNS = ("method", "text", "tokens/s", "over plain", "95 %", "over own plain", "95 %",
           "tokens per step", "first token", "4-grams")  # fmt: skip
SEEN = {  # name -> (title, what is to be seen, in words)
    "speed_up": (
        "Speed-up by task",
        "Tokens per second over foretoken's plain decoding; lines are 95 % by a paired bootstrap "
        "over prompts.",
    ),
    "cost_split": (
        "Where the time goes", "Milliseconds per token by part, all tasks together; the best first."
    ),
    "tokens_against_cost": (
        "Tokens per step against cost",
        "A point is a method on a task. On a grey line the speed-up is the same: more tokens for a "
        "dearer step.",
    ),
    "calibration": (
        "What drafts promise",
        "Of the drafted nodes of a promised probability, the share that stood; on the diagonal a "
        "drafter means what it says.",
    ),
    "by_batch": ("By batch", "Tokens per second of all texts together."),
    "by_context": ("By length of the prompt", "A point is a prompt decoded by a method."),
}  # fmt: skip


def pictures(documents: Sequence[Document]) -> dict[str, Any]:
    """Name of a figure -> matplotlib figure, of those that the documents say something of."""
    colour = figures.colours(documents)
    made = {
        "speed_up": figures.speed_up(documents, colour),
        "cost_split": figures.cost_split(documents),
        "tokens_against_cost": figures.tokens_against_cost(documents, colour),
        "calibration": figures.calibration(documents, colour),
        "by_batch": figures.by_batch(documents, colour),
        "by_context": figures.by_context(documents, colour),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def sections(documents: Sequence[Document], drawn: Mapping[str, Any], title: str) -> list[Block]:
    """The page."""
    first = documents[0].reports[0][1]
    out: list[Block] = [Heading(title, 1), *_machine(first.machine)]
    for name, figure in drawn.items():
        heading, words = SEEN[name]
        out += [Heading(heading), Text(words), Picture(svg_text(figure), heading)]
    for document in documents:
        out += _document(document)
    return out


def _machine(machine: Machine) -> list[Block]:
    rows = [(name.replace("_", " "), str(value)) for name, value in machine if value is not None]
    return [Heading("Machine"), Grid(("", ""), tuple(rows))]


def _document(document: Document) -> list[Block]:
    out: list[Block] = [Heading(f"Run: {document.name}")]
    whole = document.comparison or document.stream
    assert whole is not None
    out += [Code(whole.command)] if whole.command else []
    out += [Text(whole.note)] if whole.note else []
    told: set[str] = set()
    for _, report in document.reports:
        for peer in report.peers:
            if peer.label not in told:
                told.add(peer.label)
                out.append(Text(_peer(peer.model_dump())))
    for task, report in document.reports:
        out += [Heading(task, 3), Text(_settings(report)), *_task(report)]
    return out


def _peer(peer: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in peer["versions"].items())
    notes = f"; {', '.join(peer['notes'])}" if peer["notes"] else ""
    memory = f"; at most {peer['peak_mb']:,.0f} MB" if peer["peak_mb"] else ""
    return f"{peer['label']}: {peer['what']} ({versions}{notes}{memory})"


def _settings(report: Report) -> str:
    p = report.prompts
    wide = f", widened x{report.widen}" if report.widen > 1 else ""
    how = f"sampling {report.sampling}" if report.sampling else "greedy"
    return (
        f"{report.model}, {report.parameters / 1e6:.1f} M parameters{wide}, {report.dtype}; "
        f"{report.mode}, {how}; {p.used} of {p.read} prompts ({p.cut} cut at a loop, {p.dropped} "
        f"dropped), {report.max_new_tokens} new tokens at most, {report.repeats} repeats, batch "
        f"{report.batch}"
    )


def _task(report: Report) -> list[Block]:
    if report.failed:
        return [Text("A text differs that must not: there are no speeds.", bad=True)]
    out: list[Block] = [Grid(COLUMNS, tuple(_row(result) for result in report.results))]
    out += [Text(f"{label} could not run: {why}", bad=True)
            for label, why in report.missing.items()]  # fmt: skip
    if report.floor is not None:
        found = report.floor
        rows = tuple(
            (str(n), f"{1000 * s:.2f} ms", f"{s / found.seconds:.2f}")
            for n, s in found.forwards.items()
        )
        out += [
            Text(f"To read the weights ({found.weight_mb:.1f} MB at {found.read_gb_per_s:.1f} GB/s)"
                 f" takes {1000 * found.seconds:.2f} ms: no forward can be faster."),
            Grid(("scored rows", "forward", "over that"), rows),
        ]  # fmt: skip
    return out


def _row(r: Result) -> tuple[str, ...]:
    first = "-" if r.first_token_s is None else f"{1000 * r.first_token_s:.0f} ms"
    plain = r.method == PLAIN.label
    return (
        r.method, _text(r), number(r.tokens_per_s, 1), "1" if plain else number(r.ratio_to_plain),
        between(r.interval), number(r.ratio_to_own_plain), between(r.own_interval),
        number(r.tokens_per_step), first, number(r.distinct_4grams),
    )  # fmt: skip


def _text(r: Result) -> str:
    if r.identical is None:
        return "not compared"
    if r.identical:
        return "identical"
    return f"{len(r.divergences)} differ, {r.near_ties} near-ties"


def number(value: float | None, digits: int = 2) -> str:
    """A figure; "-" for one that was not measured."""
    return "-" if value is None else f"{value:,.{digits}f}"


def between(found: tuple[float, float] | None) -> str:
    """An interval."""
    return "-" if found is None else f"{found[0]:.2f} to {found[1]:.2f}"
