"""foretoken demo: real prompts decoded plainly and drafted, side by side in one process."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretoken.cli.opening import open_engine
from foretoken.cli.options import MethodOptions, TargetOptions, grouped
from foretoken.errors import INTERRUPTED, ConfigError
from foretoken.registry import DEFAULT_METHOD

if TYPE_CHECKING:
    from foretoken.bench.prompts import Prompt
    from foretoken.bench.spec import Spec


@grouped
def demo(
    target: TargetOptions,
    method: Annotated[
        str, typer.Option("--method", help="What to compare, as METHOD:key=value,key=value.")
    ] = DEFAULT_METHOD,
    prompts: Annotated[int, typer.Option("--prompts", help="Prompts of each kind.")] = 4,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", help="Most tokens written per prompt.")
    ] = 128,
    cut_loops: Annotated[
        bool, typer.Option(help="Stop all methods where plain decoding's text begins to loop.")
    ] = True,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document, that of `bench`, on stdout.")
    ] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Save a picture of the final table here.")
    ] = None,
) -> None:
    """Real prompts (code and maths), plainly and drafted: the same text, and how much sooner."""
    from rich.console import Console

    from foretoken.bench.contest import Plan
    from foretoken.bench.own import Own
    from foretoken.bench.results import make_report
    from foretoken.bench.run import measure
    from foretoken.cli.demo_show import report_table, save_picture, watch_for
    from foretoken.prompt.samples import KINDS

    if prompts < 1:
        raise ConfigError("prompts", prompts, "a whole number from 1")
    plan = Plan(max_new_tokens, repeats=1, cut_loops=cut_loops)
    plain, other = _pair(method)
    progress = Console(stderr=True)
    progress.print(f"loading {target.model or 'the bundled demo model'}", style="dim")
    if target.model is None and target.dtype == "auto":
        # as its weights are: too small to gain by bfloat16, in which a near-tie may fall otherwise
        target = replace(target, dtype="float32")
    engine = open_engine(target, MethodOptions(method=plain.name, policy=plain.policy))
    contestants = [Own(engine, plain), Own(engine, other)]
    with watch_for(progress, engine.tokenizer, [c.label for c in contestants]) as watch:
        found = measure(engine, contestants, _prompts(engine.tokenizer, prompts), plan, watch)
    report = make_report(found, engine.target, list(KINDS.values()), widen=target.widen)
    console = progress if json else Console(file=sys.stdout)
    report_table(console, report)
    if svg is not None:
        save_picture(svg, report)
    if json:
        typer.echo(report.model_dump_json())
    if report.interrupted or report.failed:
        raise typer.Exit(INTERRUPTED if report.interrupted else 1)


def _pair(method: str) -> list[Spec]:
    from foretoken.bench.spec import parse_methods

    specs = parse_methods(method)
    if len(specs) != 2:
        raise ConfigError("method", method, "one method to compare with plain decoding")
    return specs


def _prompts(tokenizer: Any, n: int) -> list[Prompt]:
    """n prompts of each kind, in turn."""
    from foretoken.bench.prompts import Prompt
    from foretoken.prompt.samples import KINDS, demo_prompts
    from foretoken.prompt.tokens import encode_prompt

    texts = {kind: demo_prompts(kind, n) for kind in KINDS}
    return [
        Prompt(f"{kind} {i + 1}", encode_prompt(tokenizer, texts[kind][i]), texts[kind][i])
        for i in range(n)
        for kind in KINDS
    ]
