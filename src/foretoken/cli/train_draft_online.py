"""foretoken train draft online: does learning from live traffic pay, when the topic changes?"""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.bench_options import WrittenOptions
from foretoken.cli.opening import load_target
from foretoken.cli.options import TargetOptions, grouped, pairs
from foretoken.errors import ConfigError
from foretoken.registry import NULL_METHOD, NULL_POLICY

if TYPE_CHECKING:
    from foretoken.bench.prompts import Row
    from foretoken.engine.engine import Engine
    from foretoken.learn.online.stream import Contestant, Plan, Topics
    from foretoken.learn.online.stream_report import StreamOfTopics

_STREAM = "Stream"


def _option(names: str, text: str, default: str | bool = True) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=_STREAM, show_default=default)


@dataclass(frozen=True)
class StreamOptions:
    """Which traffic, and how the drafter learns from it."""

    prompts: Annotated[
        list[Path], _option("--prompts", "Prompts of one topic (.jsonl); repeatable, in order.")
    ]
    drafter: Annotated[
        str | None,
        _option("--drafter", "Folder or hub name.", "'drafter' in the model's folder"),
    ] = None
    limit: Annotated[int, _option("--limit", "Most prompts of a topic.")] = 64
    window: Annotated[int, _option("--window", "Requests over which rates are taken.")] = 8
    set: Annotated[
        list[str] | None,
        _option("--set", "Option of osd as key=value, for every contestant; repeatable.", "none"),
    ] = None


@grouped
def online(
    target: TargetOptions,
    stream: StreamOptions,
    text: WrittenOptions,
    json: Annotated[bool, typer.Option("--json", help="Print the document as JSON.")] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Write the JSON document here, and a picture (.svg) beside."),
    ] = None,
) -> None:
    """A stream whose topic changes: the drafter as it is, learning, choosing texts, by topic."""
    from foretoken.bench.saving import save_text
    from foretoken.learn.online.stream import run_stream
    from foretoken.learn.online.stream_report import picture

    console = Console(stderr=True)
    if save is not None and (save.suffix == ".svg" or not save.parent.is_dir()):
        raise ConfigError("save", str(save), "a .json file in a folder that exists")
    topics, lanes, plan, engine = _opened(target, stream, text)
    with console.status("decoding") as status:

        def told(done: int, of: int) -> None:
            status.update(f"request {done} of {of}, by {len(lanes)} drafters each")

        made = run_stream(engine, topics, lanes, plan, told)
    _show(console, made)
    document = made.model_dump_json()
    if save is not None:
        save_text(save, document + "\n")
        save_text(save.with_suffix(".svg"), picture(made))
    if json:
        typer.echo(jsonlib.dumps(jsonlib.loads(document)))
    if made.failed:
        raise typer.Exit(1)
    if made.interrupted:
        raise KeyboardInterrupt


def _opened(
    target: TargetOptions, stream: StreamOptions, text: WrittenOptions
) -> tuple[Topics, list[Contestant], Plan, Engine]:
    """Everything that may be wrong is found before a model is loaded, but for the drafter's fit."""
    from foretoken.bench.prompts import encode
    from foretoken.draft.osd import Osd
    from foretoken.engine.build import options
    from foretoken.engine.engine import Engine
    from foretoken.learn.online.stream import Plan, contestants
    from foretoken.types import Limits

    given = pairs("set", stream.set)
    if stream.drafter is not None:
        given["model"] = stream.drafter
    options(Osd.Options, given, Osd.name)
    if stream.window < 1:
        raise ConfigError("window", stream.window, "a whole number from 1")
    rows = _parts(stream.prompts, stream.limit)
    lanes = contestants(len(rows), given)
    limits = Limits(max_new_tokens=text.max_new_tokens)
    plan = Plan(text.sampling(), limits, stream.window)
    loaded = load_target(target)
    engine = Engine(
        loaded.target, loaded.tokenizer, method=NULL_METHOD, policy=NULL_POLICY,
        assets=loaded.folder,
    )  # fmt: skip
    topics = [(name, encode(some, loaded.tokenizer)) for name, some in rows]
    return topics, lanes, plan, engine


def _parts(paths: list[Path], limit: int) -> list[tuple[str, list[Row]]]:
    """(name, prompts) of each topic; a file that comes again goes on where it stopped, since what
    learns would be flattered by prompts that it saw. Raises ConfigError where there are no more."""
    from foretoken.bench.prompts import read_rows

    out: list[tuple[str, list[Row]]] = []
    for n, path in enumerate(paths):
        before = paths[:n].count(path)
        some = read_rows([path], limit * (before + 1))[limit * before :]
        if not some:
            raise ConfigError("limit", limit, f"few enough that {path} suffices for each time")
        out.append((path.stem, some))
    return out


def _show(console: Console, made: StreamOfTopics) -> None:
    from foretoken.cli.bench_show import columns, number

    if made.failed:
        console.print("[bold red]the text differs from that of the drafter that does not learn[/]")
    table = columns(
        "drafter", "topic", "accept", "first", "last", "recovery", "tokens\n/step", "tokens\n/s",
        "learning\n%", "updates\nkept", wrapped=("drafter", "topic"),
    )  # fmt: skip
    for lane in made.lanes:
        reports = lane.learned.values()
        kept = f"{sum(r['kept'] for r in reports)}/{sum(r['updates'] for r in reports)}"
        for i, phase in enumerate(lane.phases):
            table.add_row(
                "" if i else lane.label, phase.topic, number(phase.acceptance),
                number(phase.first), number(phase.last), number(phase.recovery, "d"),
                number(phase.tokens_per_step), number(phase.tokens_per_s, ".1f"),
                number(100 * phase.learning_share, ".1f"), "" if i else kept,
            )  # fmt: skip
    console.print(table)
    console.print(
        f"accept: of judged tokens, over the topic, its first and its last {made.window} requests; "
        "recovery: requests until 95 % of the last",
        highlight=False,
    )
