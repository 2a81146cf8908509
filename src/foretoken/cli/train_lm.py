"""foretoken train lm: the recipe of the bundled demo model, and of others like it."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from foretoken.cli.options import grouped
from foretoken.cli.training import config_options, folder, quiet, shown, spelled, train
from foretoken.learn.lm_config import LmConfig

LmOptions = config_options("LmOptions", LmConfig)


@dataclass(frozen=True)
class SourceOptions:
    """What to learn from, and in which tokens."""

    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", help="JSONL (question + answer, or text) or a text file; repeatable."
        ),
    ] = None
    stdlib: Annotated[
        bool, typer.Option("--stdlib/--no-stdlib", help="Train on Python's standard library too.")
    ] = True
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            help="Folder of a model whose tokenizer to take: a drafter shares its target's.",
            show_default="a new one",
        ),
    ] = None


@grouped
def lm(
    options: LmOptions,  # type: ignore[valid-type]
    sources: SourceOptions,
    out: Annotated[Path, typer.Option("--out", help="Folder for the finished model.")],
    work: Annotated[
        Path | None, typer.Option("--work", help="Folder for checkpoints.", show_default="OUT.ckpt")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from a checkpoint, if there is one.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Train a small Llama from nothing. Ctrl-C writes a checkpoint; the same command goes on."""
    config = LmConfig.checked(**asdict(options))
    folder(out)
    console = Console(stderr=True)
    with console.status("Reading the corpus ..."):
        from foretoken.learn.corpus import build_corpus
        from foretoken.learn.lm import LmRun
        from foretoken.learn.lm_export import export

        quiet()
        corpus = build_corpus(sources.data or [], config.held_out, use_stdlib=sources.stdlib)
        checkpoints = work if work is not None else out.with_name(out.name + ".ckpt")
        run = LmRun(config, corpus, checkpoints, resume, sources.tokenizer)
    train(run, console, steps=run.config.steps, made=run.step)
    with console.status("Writing the model ..."):
        result = export(run, out, recipe(run.config, out, sources))
    losses = ", ".join(f"{kind} {loss:.3f}" for kind, loss in result["held_out_loss"].items())
    console.print(f"{out}: {result['parameters']:,} parameters; held-out loss {losses}")
    if json:
        typer.echo(jsonlib.dumps(result))


def recipe(config: LmConfig, out: Path, sources: SourceOptions) -> str:
    """The command that repeats this run: every option that differs from its default.

    Absolute paths are cut to their last part, so that no card tells where it was made.
    """
    words = [
        "foretoken train lm --out",
        shown(out),
        *(f"--data {shown(path)}" for path in sources.data or ()),
    ]
    words += [] if sources.stdlib else ["--no-stdlib"]
    words += [] if sources.tokenizer is None else [f"--tokenizer {shown(sources.tokenizer)}"]
    words += spelled(config, ["vocab"] if sources.tokenizer is not None else [])
    return " ".join(words)
