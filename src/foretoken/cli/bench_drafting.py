"""foretoken bench --drafting: the run, and its table on stderr. No model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from foretoken.cli.bench_show import Bar, columns, machine_line, number

if TYPE_CHECKING:
    from foretoken.bench.drafting import DraftTimes
    from foretoken.cli.bench_options import WhatOptions

MB = 2**20


def drafting(model: str | None, what: WhatOptions, tokens: int, console: Console) -> DraftTimes:
    """Send real text past the drafters. model: whose tokenizer is used, none: the demo model's."""
    from transformers.utils import logging

    from foretoken.bench.drafting import NODES, DraftTimes, model_free, real_text, time_drafters
    from foretoken.bench.machine import describe
    from foretoken.bench.spec import PLAIN, parse_methods
    from foretoken.draft.base import Context
    from foretoken.prompt.samples import demo_model
    from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash

    logging.set_verbosity_error()  # documents may be longer than a model's context
    logging.disable_progress_bar()
    names = what.methods or ",".join(model_free())
    specs = [s for s in parse_methods(names, settings=what.set or ()) if s.label != PLAIN.label]
    folder = Path(model if model is not None else demo_model())
    tokenizer = load_tokenizer(folder)
    files = what.files() if what.prompts is not None else []
    with console.status("reading text"):
        documents = list(real_text(tokenizer, files, tokens, what.limit))
    eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    assets = folder if folder.is_dir() else None
    context = Context(len(tokenizer), eos, tokenizer_hash(tokenizer), assets, tokenizer)
    nodes = NODES if what.nodes is None else what.nodes
    total, shown = sum(map(len, documents)), ""
    with Bar(console) as bar:

        def note(label: str, seen: int) -> None:
            nonlocal shown
            if label != shown:
                bar.phase(label, total)
                shown = label
            bar.advance(seen)

        results, stopped = time_drafters(specs, documents, context, nodes, note)
    text = ", ".join(file.name for file in files) or "Python's standard library"
    return DraftTimes(
        machine=describe(), text=text, tokens=total, nodes=nodes, results=results,
        interrupted=stopped,
    )  # fmt: skip


def show_drafting(report: DraftTimes, console: Console) -> None:
    """Microseconds and bytes, one row a method."""
    console.print(
        f"{report.tokens} tokens of {report.text}, at most {report.nodes} nodes a draft; "
        f"microseconds of one thread's processor time\n{machine_line(report.machine)}"
    )
    table = columns(
        "method", "us/draft", "us/node", "us/token", "nodes", "tok/step", "MB", "B/token",
        wrapped=("method",),
    )  # fmt: skip
    for r in report.results:
        if not r.refused:
            store = None if r.store_bytes is None else r.store_bytes / MB
            table.add_row(
                r.method, number(r.us_per_draft, ".1f"), number(r.us_per_node, ".1f"),
                number(r.us_per_token, ".1f"), number(r.nodes_per_draft, ".1f"),
                number(r.tokens_per_step), number(store, ".1f"),
                number(r.session_bytes_per_token, ".0f"),
            )  # fmt: skip
    console.print(table)
    console.print(
        "us/draft: median of the proposals that had a node; us/token: begin, observe and end, by "
        "token of prompt and answer; MB: what the drafter holds after all of it; B/token: what "
        "hangs on a session, by token of its text. A table that was made from this text knows it."
    )
    for r in report.results:
        if r.refused:
            console.print(f"{r.method}: {r.refused}")
    if report.interrupted:
        console.print("interrupted: the figures are those of what was finished")
