"""What `foretoken bench --rules` and `--pairs` show people, on stderr."""

from __future__ import annotations

from rich.console import Console

from foretoken.bench.interval import Mean
from foretoken.bench.pairs import Pair, PairTable
from foretoken.bench.rules import RuleTimes
from foretoken.bench.same_trees import ROUNDING, SameTrees
from foretoken.cli.bench_show import columns, heading, machine_line, number, show_divergences

INTERRUPTED = "interrupted: the figures are those of what was finished"


def show_rules(report: RuleTimes, console: Console) -> None:
    """Milliseconds a verdict."""
    console.print(
        f"one verdict at {report.nodes} nodes, {report.vocab} tokens, float32 logits; medians over "
        f"fresh drafts, nothing in the cache\n{machine_line(report.machine)}"
    )
    table = columns("rule", "kind", "case", "ms", "slowest", "rows", "accepted")
    for r in report.results:
        if not r.refused:
            table.add_row(
                r.rule, r.shape, r.case, number(r.median_ms), number(r.slowest_ms),
                number(r.rows, ".1f"), number(r.accepted, ".1f"),
            )  # fmt: skip
    console.print(table)
    refusals = {(r.rule, r.refused): None for r in report.results if r.refused}
    for rule, why in refusals:
        console.print(f"{rule}: {why}")
    if report.interrupted:
        console.print(INTERRUPTED)


def show_pairs(table: PairTable, console: Console) -> None:
    """Identity first, as in any comparison; then one row a pair, and the best exact ones."""
    report = table.comparison
    console.print(f"{heading(report)}\nat most {table.nodes} nodes a draft, policy fixed")
    if table.note:
        console.print(table.note)
    for result in report.results:
        show_divergences(result.method, result.divergences, report.near_tie_bound, console)
    if report.failed:
        console.print("[bold red]the text differs: no speed is reported[/]")
        return
    if report.interrupted:
        console.print(INTERRUPTED)
    out = columns("drafter", "rule", "tokens/step", "+- 95 %", "tokens/s", "x plain",
                  "draft", "target", "verify", wrapped=("drafter", "rule"))  # fmt: skip
    for pair in table.pairs:
        shares = (number(share, ".0%") for share in (pair.draft, pair.target, pair.verify))
        step = pair.tokens_per_step
        out.add_row(
            pair.drafter, _labelled(pair), number(None if step is None else step.mean),
            _half_width(step), number(pair.tokens_per_s, ".1f"), number(pair.ratio_to_plain),
            *shares,
        )  # fmt: skip
    console.print(out)
    if lossy := sorted({pair.rule for pair in table.pairs if pair.guarantee != "exact"}):
        console.print(f"lossy, the text has another distribution: {', '.join(lossy)}")
    if table.best_by_tokens_per_s is not None:
        console.print(
            f"best exact pair by tokens per second: {table.best_by_tokens_per_s}; "
            f"by tokens per step: {table.best_by_tokens_per_step}"
        )


def show_same_trees(report: SameTrees, console: Console) -> None:
    """Expected accepted tokens, and how far the reference rule is ahead on the same drafts."""
    console.print(
        f"[bold]{report.model}[/], {report.dtype}; {report.prompts} prompts, "
        f"{report.max_new_tokens} new tokens at most, sampling {report.sampling}; at most "
        f"{report.nodes} nodes a draft; text written by walk\n{machine_line(report.machine)}"
    )
    first = report.reference
    table = columns(
        "drafter", "rule", "drafts", "accepted", f"{first} - rule", "less on",
        wrapped=("drafter", "rule"),
    )  # fmt: skip
    for r in report.results:
        rule = r.rule if r.guarantee == "exact" else f"{r.rule} (lossy)"
        table.add_row(
            r.drafter, rule, str(r.drafts), _with_error(r.accepted, ".3f"),
            _with_error(r.behind, "+.4f"), number(r.ahead_on, ".1%"),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"accepted: expected drafted tokens that stand, over all coins (left out: at most "
        f"{report.left_out:.0e}), +- standard error over prompts; less on: share of the drafts on "
        f"which {first} expects less"
    )
    if any(r.behind is not None for r in report.results):
        above = [f"{r.rule} on {r.drafter}" for r in report.above_reference]
        console.print(f"exact rules above {first}: {', '.join(above) or 'none'}")
    if report.interrupted:
        console.print(INTERRUPTED)


def _labelled(pair: Pair) -> str:
    return pair.rule if pair.guarantee == "exact" else f"{pair.rule} (lossy)"


def _half_width(value: Mean | None) -> str:
    if value is None or value.high is None:
        return "-"
    return number(value.high - value.mean)


def _with_error(value: Mean | None, form: str) -> str:
    if value is None:
        return "-"
    if value.error is None:
        return format(value.mean, form)
    small = abs(value.mean) < ROUNDING and value.error < ROUNDING
    return "0" if small else f"{value.mean:{form}} +- {value.error:.2g}"
