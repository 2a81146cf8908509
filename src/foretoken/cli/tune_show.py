"""What `foretoken tune` shows people, on stderr: the advice, then the tables it follows from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from foretoken.cli.bench_show import columns, number
from foretoken.tune.measures import Score
from foretoken.tune.report import Played, Row, Scorecard, TuneReport


def show_report(report: TuneReport, console: Console) -> None:
    """One line of advice with the command to type, the table, the scorecard."""
    source = report.source
    loops = number(source.distinct_4grams)
    written = "reference text" if source.text == "forced" else "the model's own text"
    console.print(
        f"[bold]{source.model or 'a trace'}[/]: {source.tokens} tokens of {written} in "
        f"{source.requests} requests, distinct 4-grams {loops}"
    )
    if report.interrupted:
        console.print("interrupted: the figures are those of what was finished")
    if report.advice is not None:
        advice = report.advice
        name = f"{advice.method} with policy {advice.policy}"
        console.print(f"\nUse [bold]{name}[/]: {advice.why}.")
        console.print(f"  {advice.command}\n", style="green", highlight=False)
    console.print(_rows(report))
    console.print(f"tokens/s, ratio and regret: {source.clock}; reading prompts not counted")
    _left_out(report.left_out, console)
    if report.scorecard is not None:
        _show_card(report.scorecard, console)


def _left_out(reasons: Mapping[str, str], console: Console) -> None:
    for name, why in reasons.items():
        console.print(f"left out: {name}: {why}", highlight=False)


def _rows(report: TuneReport) -> Table:
    table = columns("method", "policy", "tok/step", "tokens/s", "ratio", "worst", "regret",
                    "draft us")  # fmt: skip
    table.columns[1].justify = "left"
    rows = [report.optimum, *report.rows] if report.optimum is not None else report.rows
    for row in rows:
        chosen = report.advice is not None and (row.method, row.policy) == (
            report.advice.method, report.advice.policy,
        )  # fmt: skip
        table.add_row(*_cells(row), style="bold" if chosen else None)
    return table


def _cells(row: Row) -> Sequence[str]:
    return (
        row.method, row.policy, f"{row.tokens_per_step:.2f}", f"{row.tokens_per_second:.1f}",
        f"{row.ratio:.2f}", f"{row.worst:.2f}", f"{row.regret:.0%}",
        f"{1e6 * row.draft_seconds:.0f}" if row.policy else "-",
    )  # fmt: skip


def _show_card(card: Scorecard, console: Console) -> None:
    for played in card.scenarios:
        phases = ", ".join(f"{name} ({tokens})" for name, tokens in played.phases)
        plain = played.lanes[-1].score.tokens_per_second
        console.print(f"\n[bold]{played.name}[/]: {played.summary}")
        console.print(f"phases (tokens): {phases}; plain {plain:.1f} tokens/s", highlight=False)
        console.print(_lanes(played))
        _left_out(played.left_out, console)
    console.print(
        f"ratio: to plain; floor: the same in the worst window of {card.window} tokens; recovery: "
        "tokens after each shift until a window is within 5 % of what comes later; lag: the same "
        "measured against the optimum, which leaves out what is the text's own; drop: the worst "
        "window after a shift over what was before; kept: on return, over the first visit's end.\n"
        f"{card.clock}"
    )


def _lanes(played: Played) -> Table:
    returns = played.lanes[0].score.forgetting is not None
    names = ["method", "policy", "ratio", "regret", "floor", "recovery", "lag", "drop"]
    table = columns(*names, *["kept"] * returns)
    table.columns[1].justify = "left"
    for lane in played.lanes:
        cells = _score(lane.score)
        table.add_row(lane.method, lane.policy, *cells, *[number(lane.score.forgetting)] * returns)
    return table


def _score(score: Score) -> Sequence[str]:
    drop = min(score.drop, default=None)
    return (
        f"{score.ratio:.2f}", f"{score.regret:.0%}", f"{score.floor:.2f}", _times(score.recovery),
        _times(score.lag), number(drop),
    )  # fmt: skip


def _times(tokens: Sequence[int | None]) -> str:
    return "/".join("-" if n is None else str(n) for n in tokens)
