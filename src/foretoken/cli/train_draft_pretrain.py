"""foretoken train draft pretrain: a small language model in a target's tokens, from nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.options import grouped
from foretoken.cli.train_draft_options import (
    RunOptions,
    ShapeOptions,
    finish,
    shape_of,
    target_name,
)
from foretoken.cli.training import config_options, quiet, shown, spelled, train
from foretoken.learn.recipes.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from foretoken.learn.recipes.mixing import Stage
    from foretoken.learn.recipes.rows import Rows

_TEXT = "Text"

PretrainOptions = config_options("PretrainOptions", PretrainConfig, "Training")


@dataclass(frozen=True)
class TextOptions:
    """For which target, on what."""

    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The target, folder or hub name; its weights are not "
                     "read.", show_default="the bundled demo model", rich_help_panel=_TEXT),
    ] = None  # fmt: skip
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="Natural language: JSONL or a text file; repeatable.",
                     rich_help_panel=_TEXT),
    ] = None  # fmt: skip
    code: Annotated[
        list[Path] | None,
        typer.Option("--code", help="Code: JSONL or a text file; repeatable.",
                     rich_help_panel=_TEXT),
    ] = None  # fmt: skip
    stdlib: Annotated[
        bool,
        typer.Option("--stdlib/--no-stdlib", help="Python's standard library as code, too.",
                     rich_help_panel=_TEXT),
    ] = True  # fmt: skip
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", help="STEPS:SOURCE=WEIGHT,... with the sources text and code; "
                     "repeatable, in order.", rich_help_panel=_TEXT,
                     show_default="60 % of --steps on text, then text and code alike"),
    ] = None  # fmt: skip


@grouped
def pretrain(
    source: TextOptions,
    shape: ShapeOptions,
    options: PretrainOptions,  # type: ignore[valid-type]
    run: RunOptions,
) -> None:
    """Train a small drafter for a target from nothing. Ctrl-C writes a checkpoint; the same command
    goes on. Align it with the target afterwards."""
    console = Console(stderr=True)
    config, drafter_shape = PretrainConfig.checked(**asdict(options)), shape_of(shape)
    checkpoints, target = run.checkpoints(), target_name(source.model)
    with console.status("Reading the text ..."):
        from foretoken.learn.recipes.load import new_drafter, target_facts
        from foretoken.learn.recipes.pretrain import Pretrain
        from foretoken.learn.recipes.processes import Processes

        quiet()
        processes = Processes(run.device)
        facts, tokenizer = target_facts(target)
        sources, texts = _sources(source, tokenizer, config)
        drafter = new_drafter(facts, drafter_shape, seed=config.seed).to(processes.device)
        made = Pretrain(
            drafter, sources, _stages(source, config, list(sources)), config, checkpoints,
            resume=run.resume, processes=processes,
        )  # fmt: skip
    trainer = made.trainer
    train(trainer, console, steps=made.config.steps, made=trainer.step, main=processes.main)
    summary = {
        "recipe": "pretrain",
        "target": shown(target),
        "shape": drafter_shape.model_dump(),
        "corpus": texts,
        "command": command(source, drafter_shape, config, run.out),
    }
    finish(run, console, drafter, tokenizer, trainer, summary)


def _sources(
    source: TextOptions, tokenizer: Any, config: PretrainConfig
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Rows by kind of source, and where each came from."""
    from foretoken.errors import ConfigError
    from foretoken.learn.corpus import build_corpus
    from foretoken.learn.recipes.pretrain import CODE, TEXT, text_rows

    asked: dict[str, tuple[list[Path], bool]] = {}
    if source.text:
        asked[TEXT] = (source.text, False)
    if source.code or source.stdlib:
        asked[CODE] = (source.code or [], source.stdlib)
    if not asked:
        raise ConfigError("text", None, "--text, --code or --stdlib")
    corpora = {
        name: build_corpus(files, config.held_out, use_stdlib=stdlib)
        for name, (files, stdlib) in asked.items()
    }
    rows = {
        name: text_rows(corpus, tokenizer, config.seq, config.seed)
        for name, corpus in corpora.items()
    }
    return rows, {name: corpus.manifest() for name, corpus in corpora.items()}


def _stages(source: TextOptions, config: PretrainConfig, names: list[str]) -> list[Stage]:
    from foretoken.learn.recipes.mixing import Stage
    from foretoken.learn.recipes.pretrain import default_stages

    if source.stage:
        return [Stage.parse(text) for text in source.stage]
    return default_stages(config.steps, names)


def command(source: TextOptions, shape: Any, config: PretrainConfig, out: Path) -> str:
    """The command that repeats this run; no path tells where it was made."""
    words = ["foretoken train draft pretrain"]
    words += [f"--model {shown(source.model)}"] if source.model else []
    for name in ("text", "code"):
        words += [f"--{name} {shown(path)}" for path in getattr(source, name) or ()]
    words += [] if source.stdlib else ["--no-stdlib"]
    words += [f"--stage {stage}" for stage in source.stage or ()]
    return " ".join([*words, *spelled(shape), *spelled(config), f"--out {shown(out)}"])
