"""foretoken train draft simulate: what a drafter will be worth when it serves."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.bench_options import WrittenOptions
from foretoken.cli.opening import announce_curve, load_target
from foretoken.cli.options import TargetOptions, grouped
from foretoken.errors import ConfigError
from foretoken.registry import NULL_METHOD, NULL_POLICY

if TYPE_CHECKING:
    from foretoken.bench.prompts import Prompt
    from foretoken.engine.engine import Engine
    from foretoken.learn.recipes.simulate import Candidate, Simulation

_HELD, _DRAFT = "Texts", "Drafters"


def _option(names: str, text: str, panel: str, default: str | bool = True) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, show_default=default)


@dataclass(frozen=True)
class HeldOptions:
    """What is decoded."""

    data: Annotated[
        Path | None,
        _option("--data", "Answers of `train draft data`: their held-out part.", _HELD, "none"),
    ] = None
    held_out: Annotated[
        float,
        _option("--held-out", "Share of the prompts of --data that training never saw: what it "
                "was trained with; 1 takes all.", _HELD),
    ] = 0.05  # fmt: skip
    forced: Annotated[
        bool,
        _option("--forced", "Follow the answers of --data instead of writing new ones.", _HELD),
    ] = False
    prompts: Annotated[
        list[Path] | None,
        _option("--prompts", "Prompts as for `train draft data`. Repeatable.", _HELD, "none"),
    ] = None
    raw: Annotated[
        list[Path] | None,
        _option("--raw", "Documents to go on with. Repeatable.", _HELD, "none"),
    ] = None
    prompt_tokens: Annotated[
        int, _option("--prompt-tokens", "Tokens read of a document.", _HELD)
    ] = 64
    limit: Annotated[int, _option("--limit", "Most texts.", _HELD)] = 32
    cut_loops: Annotated[
        bool,
        _option("--cut-loops/--no-cut-loops", "Leave out texts that loop or end at once.", _HELD),
    ] = True


@dataclass(frozen=True)
class DraftOptions:
    """What drafts."""

    drafter: Annotated[
        list[str] | None,
        _option("--drafter", "Folder or hub name; repeatable, side by side.", _DRAFT,
                "'drafter' in the model's folder"),
    ] = None  # fmt: skip
    method: Annotated[
        str | None,
        _option("--methods", "Methods that run a drafter, as in `foretoken bench`: "
                "lm,lm-sampled,lm-top-k:nodes=16.", _DRAFT, "lm; lm-sampled for drawn text"),
    ] = None  # fmt: skip
    depth: Annotated[
        list[int] | None,
        _option("--depth", "Levels drafted; repeatable, side by side.", _DRAFT, "the method's"),
    ] = None
    policy: Annotated[
        str,
        _option("--policy", "How much is drafted, as in `foretoken methods`.", _DRAFT),
    ] = NULL_POLICY
    repeats: Annotated[int, _option("--repeats", "Speeds are medians of so many.", _DRAFT)] = 3
    batch: Annotated[int, _option("--batch", "Texts decoded together.", _DRAFT)] = 1


@grouped
def simulate(
    target: TargetOptions,
    held: HeldOptions,
    draft: DraftOptions,
    text: WrittenOptions,
    json: Annotated[bool, typer.Option("--json", help="Print the document as JSON.")] = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the JSON document here.")
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Put the figures into the drafters' README.md.")
    ] = False,
) -> None:
    """Real drafts, really judged, on texts that training never saw."""
    chosen, sampling = _chosen(draft, text), text.sampling()
    if (held.data is None) == (not held.prompts and not held.raw):
        raise ConfigError("data", held.data, "either --data, or --prompts and --raw")
    if held.forced and held.data is None:
        raise ConfigError("forced", held.forced, "--data, whose answers are followed")
    from foretoken.bench.contest import Plan
    from foretoken.bench.saving import save_text
    from foretoken.cli.bench_show import Bar
    from foretoken.learn.recipes.simulate import simulate as run

    console = Console(stderr=True)
    plan = Plan(
        text.max_new_tokens, draft.repeats, draft.batch, sampling, held.forced, held.cut_loops
    )
    engine = _engine(target, draft)
    prompts = _prompts(held, engine)
    files = [*(held.prompts or ()), *(held.raw or ()), *([held.data] if held.data else ())]
    with Bar(console) as bar:
        made = run(engine, chosen, prompts, plan, bar, files)
    _show(console, made)
    document = made.model_dump_json()
    if save is not None:
        save_text(save, document + "\n")
    if card and not made.report.failed:
        _cards(console, draft.drafter or [], made)
    if json:
        typer.echo(jsonlib.dumps(jsonlib.loads(document)))
    if made.report.failed:
        raise typer.Exit(1)
    if made.report.interrupted:
        raise KeyboardInterrupt


def _chosen(draft: DraftOptions, text: WrittenOptions) -> list[Candidate]:
    from foretoken.bench.spec import parse_methods
    from foretoken.learn.recipes.simulate import candidates, usual_method

    specs = parse_methods(draft.method or usual_method(text.temperature), draft.policy)[1:]
    if not specs:
        raise ConfigError("methods", draft.method, f"one that drafts; {NULL_METHOD} is always run")
    if bad := [depth for depth in draft.depth or () if depth < 1]:
        raise ConfigError("depth", bad[0], "a whole number from 1")
    return candidates(draft.drafter or [None], specs, draft.depth or ())


def _engine(target: TargetOptions, draft: DraftOptions) -> Engine:
    from foretoken.engine.engine import Engine
    from foretoken.learn.recipes.simulate import usual_method

    loaded = load_target(target)
    if draft.policy != NULL_POLICY:
        announce_curve(loaded.target, draft.policy, usual_method(None))
    return Engine(
        loaded.target, loaded.tokenizer, method=NULL_METHOD, policy=NULL_POLICY,
        max_sessions=max(draft.batch, 1), assets=loaded.folder,
    )  # fmt: skip


def _prompts(held: HeldOptions, engine: Engine) -> list[Prompt]:
    from foretoken.learn.recipes.held import held_out_prompts, own_prompts

    if held.limit < 1:
        raise ConfigError("limit", held.limit, "a whole number from 1")
    if held.data is not None:
        return held_out_prompts(
            held.data, held.held_out, engine.context.tokenizer_hash, engine.target.vocab,
            held.limit, held.forced,
        )  # fmt: skip
    return own_prompts(
        held.prompts or [], held.raw or [], engine.tokenizer, held.prompt_tokens, held.limit
    )


def _cards(console: Console, drafters: list[str], made: Simulation) -> None:
    """The figures of each folder that has a card, beside it and in it."""
    from foretoken.bench.saving import save_text
    from foretoken.learn.recipes.card import SIMULATION, has_card, write_card
    from foretoken.learn.recipes.simulate import names_of

    for drafter, name in zip(drafters, names_of(drafters), strict=True):
        folder = Path(drafter)
        if not has_card(folder):
            console.print(f"{name}: no folder of `train draft`; its README.md stays", markup=False)
        else:
            own = [figures for figures in made.figures if figures.drafter == name]
            part = made.model_copy(update={"figures": own})
            save_text(folder / SIMULATION, part.model_dump_json() + "\n")
            write_card(folder)


def _show(console: Console, made: Simulation) -> None:
    from foretoken.cli.bench_show import columns, heading, number, show_divergences

    report = made.report
    console.print(heading(report))
    for result in report.results:
        show_divergences(result.method, result.divergences, report.near_tie_bound, console)
    if report.failed:
        console.print("[bold red]the text differs: no speed is reported[/]")
    names = ("accept", "alpha", "tokens\n/step", "c", "MBSU", "tokens\n/s", "x plain")
    words = ("drafter", "method")
    table = columns(*words, "depth", *names, wrapped=words)
    plain = report.results[0]
    table.add_row("", plain.method, "-", "-", "-", number(plain.tokens_per_step), "-", "-",
                  number(plain.tokens_per_s, ".1f"), number(plain.ratio_to_plain))  # fmt: skip
    for f in made.figures:
        table.add_row(
            f.drafter, f.method, number(f.depth, "d"), number(f.acceptance), number(f.alpha),
            number(f.tokens_per_step), number(f.cost, ".3f"), number(f.mbsu),
            number(f.tokens_per_s, ".1f"), number(f.ratio_to_plain),
        )  # fmt: skip
    console.print(table)
