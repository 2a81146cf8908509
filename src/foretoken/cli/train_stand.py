"""`foretoken train stand-tree`: the shape of stand's draft, from what a model writes."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.opening import load_target
from foretoken.cli.options import TargetOptions, grouped
from foretoken.errors import ConfigError
from foretoken.registry import NULL_METHOD, NULL_POLICY

FORMS = ("fixed", "drawn")  # for stand, for stand-drawn


@dataclass(frozen=True)
class TuningOptions:
    """What is written, and what is made of it."""

    limit: Annotated[int, typer.Option("--limit", min=1, help="Prompts at most.")] = 16
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers to each prompt.")] = 4
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens of an answer.")
    ] = 128
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0.0, help="0 is greedy: take --samples 1.")
    ] = 0.8
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the first answer.")] = 0
    form: Annotated[
        str, typer.Option("--form", help="fixed (for stand) or drawn (for stand-drawn).")
    ] = "fixed"
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes kept.")] = 80

    def check(self) -> None:
        """Raise ConfigError for what cannot be."""
        if self.form not in FORMS:
            raise ConfigError("form", self.form, " or ".join(FORMS))
        if self.form == "drawn" and not self.temperature:
            raise ConfigError("temperature", 0, "above 0 for --form drawn: greedy text draws none")


@grouped
def stand_tree(
    target: TargetOptions,
    tuning: TuningOptions,
    prompts: Annotated[
        list[Path] | None,
        typer.Argument(help="Prompts: .txt or .jsonl files. Without any, the bundled ones."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("stand-tree.json"),
    json: Annotated[bool, typer.Option("--json", help="Figures as JSON on stdout.")] = False,
) -> None:
    """Find which nodes of a large draft tree are accepted most often, and keep the best."""
    tuning.check()
    from foretoken.draft.stand_template import save

    console = Console(stderr=True)
    loaded = load_target(target)
    asked = _prompts(prompts or [], loaded.tokenizer, tuning.limit)
    with console.status(f"writing {tuning.samples} answers to each of {len(asked)} prompts"):
        paths, figures = tune(loaded, asked, tuning)
    model = Path(target.model).name if target.model else "demo"
    files = [path.name for path in prompts or []]
    facts = {"model": model, "prompts": files or "bundled", **figures}
    save(out, paths, {**facts, "command": _command(model, files, tuning)})
    for n, value in figures["tokens_per_step"].items():
        console.print(f"{n:>5} nodes: {value:.3f} tokens per step", highlight=False)
    console.print(f"{len(paths)} nodes -> {out}", soft_wrap=True, markup=False)
    if json:
        typer.echo(jsonlib.dumps({**facts, "nodes": len(paths), "out": str(out)}))


def tune(
    loaded: Any, prompts: Sequence[Sequence[int]], tuning: TuningOptions
) -> tuple[list[tuple[int, ...]], dict[str, Any]]:
    """The tree's paths, and the figures that go into the file. Raises ForetokenError."""
    from foretoken.draft.stand import Stand, new_table
    from foretoken.engine.engine import Engine
    from foretoken.learn.stand_tree import record, tune
    from foretoken.types import Sampling

    engine = Engine(
        loaded.target, loaded.tokenizer, method=NULL_METHOD, policy=NULL_POLICY,
        max_sessions=tuning.samples,
    )  # fmt: skip
    sampling = Sampling(temperature=tuning.temperature, seed=tuning.seed)
    options = Stand.Options()
    texts = record(engine, prompts, tuning.samples, sampling, tuning.max_new_tokens, options.width)
    made = tune(
        texts, new_table(options), options.prompt, sampling, tuning.nodes, tuning.form == "drawn"
    )
    return made.paths, {
        "tokenizer_hash": engine.context.tokenizer_hash,
        "texts": made.texts,
        "tokens": made.tokens,
        "tokens_per_step": {str(n): round(x, 4) for n, x in made.tokens_per_step.items()},
    }


def _prompts(files: Sequence[Path], tokenizer: Any, limit: int) -> list[list[int]]:
    """Token ids; the bundled prompts are taken from each kind in turn."""
    from foretoken.bench.prompts import read_prompts
    from foretoken.prompt.samples import KINDS, demo_prompts
    from foretoken.prompt.tokens import encode_prompt

    if files:
        return [prompt.tokens for prompt in read_prompts(files, tokenizer, limit)]
    each = -(-limit // len(KINDS))
    texts = zip(*(demo_prompts(kind, each) for kind in KINDS), strict=True)
    return [encode_prompt(tokenizer, text) for both in texts for text in both][:limit]


def _command(model: str, files: Sequence[str], tuning: TuningOptions) -> str:
    """What to type for the same tree."""
    options = [f"--{name.replace('_', '-')} {value}" for name, value in asdict(tuning).items()]
    named = [] if model == "demo" else [f"--model {model}"]
    return " ".join(["foretoken train stand-tree", *files, *named, *options])
