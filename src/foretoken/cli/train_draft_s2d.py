"""foretoken train draft s2d: make the first layers of a drafter drafters of their own."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from foretoken.cli.options import grouped
from foretoken.cli.train_draft_align import WhoOptions, manifest_of, models_of, rows_of
from foretoken.cli.train_draft_options import (
    RunOptions,
    ShapeOptions,
    finish,
    shape_of,
    target_name,
)
from foretoken.cli.training import config_options, quiet, shown, spelled, train
from foretoken.errors import ConfigError
from foretoken.learn.recipes.soft_config import SoftConfig

SoftOptions = config_options("SoftOptions", SoftConfig, "Training")


@grouped
def s2d(
    who: WhoOptions,
    shape: ShapeOptions,
    options: SoftOptions,  # type: ignore[valid-type]
    run: RunOptions,
    exits: Annotated[
        str | None,
        typer.Option("--exits", help="Depths in layers, comma-separated, the last one all.",
                     show_default="three from the middle on"),
    ] = None,
) -> None:  # fmt: skip
    """Train every exit of a drafter at once, for the method s2d. Ctrl-C writes a checkpoint; the
    same command goes on."""
    console = Console(stderr=True)
    config, drafter_shape = SoftConfig.checked(**asdict(options)), shape_of(shape)
    depths = parsed(exits)
    checkpoints, name = run.checkpoints(), target_name(who.model)
    with console.status("Loading models and answers ..."):
        from foretoken.learn.recipes.align import packable
        from foretoken.learn.recipes.processes import Processes
        from foretoken.learn.recipes.soft import Soft

        quiet()
        processes = Processes(run.device)
        target, tokenizer, drafter = models_of(
            who, drafter_shape, config, name, str(processes.device)
        )
        rows = rows_of(who, config, tokenizer, drafter, packable(drafter, target))
        made = Soft(drafter, target, rows, config, checkpoints, exits=depths, resume=run.resume)
    trainer = made.trainer
    train(trainer, console, steps=config.steps, made=trainer.step, main=processes.main)
    side = {"exits.json": (jsonlib.dumps({"exits": list(made.exits)}) + "\n").encode()}
    words = ["foretoken train draft s2d", *who.words(drafter_shape), *spelled(config)]
    words += [f"--exits {exits}"] if exits else []
    summary = {
        "recipe": "sorted",
        "target": shown(name),
        "begun_with": None if who.drafter is None else shown(who.drafter),
        "shape": None if who.drafter is not None else drafter_shape.model_dump(),
        "exits": list(made.exits),
        "data": manifest_of(who.data),
        "command": " ".join([*words, f"--out {shown(run.out)}"]),
    }
    finish(run, console, drafter, tokenizer, trainer, summary, side)


def parsed(text: str | None) -> tuple[int, ...] | None:
    """ "2,3,4" -> (2, 3, 4). Raises ConfigError."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError("exits", text, "whole numbers, comma-separated") from None
