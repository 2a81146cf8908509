"""Options that the training commands of `train draft` share, and how they end."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.training import config_options, folder, shown
from foretoken.learn.recipes.shape import DrafterShape

if TYPE_CHECKING:
    from foretoken.learn.recipes.trainer import Trainer

_RUN, SHAPE = "Run", "Shape of a new drafter"

ShapeOptions = config_options("ShapeOptions", DrafterShape, SHAPE)


@dataclass(frozen=True)
class RunOptions:
    """Where things go."""

    out: Annotated[
        Path, typer.Option("--out", help="Folder for the finished drafter.", rich_help_panel=_RUN)
    ]
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Folder for checkpoints.", show_default="OUT.ckpt",
                     rich_help_panel=_RUN),
    ] = None  # fmt: skip
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on from a checkpoint, if there is one.",
                     rich_help_panel=_RUN),
    ] = True  # fmt: skip
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda ...", rich_help_panel=_RUN)
    ] = "auto"
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON.", rich_help_panel=_RUN)
    ] = False

    def checkpoints(self) -> Path:
        """The folder for checkpoints; `out` is made now, so that it fails before the training."""
        folder(self.out)
        return self.work if self.work is not None else self.out.with_name(self.out.name + ".ckpt")


def target_name(model: str | None) -> str:
    """Folder or hub name; the bundled demo model if none was given."""
    from foretoken.prompt.samples import demo_model

    return model if model is not None else str(demo_model())


def shape_of(options: Any) -> DrafterShape:
    """Raises ConfigError that names the field."""
    from foretoken.engine.build import options as checked

    shape = checked(DrafterShape, asdict(options))
    shape.check()
    return shape


def finish(
    run: RunOptions,
    console: Console,
    drafter: Any,
    tokenizer: Any,
    trainer: Trainer[Any],
    facts: dict[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the folder, with `files` beside the model, and tell what was made; only the first
    process of a run does."""
    if trainer.processes.main:
        summary: dict[str, Any] = {
            **facts,
            "config": trainer.config.model_dump(),
            "parameters": sum(weight.numel() for weight in drafter.parameters()),
            "steps": trainer.step,
            "tokens": trainer.step * trainer.config.batch * trainer.config.seq,
            "tokens_per_epoch": trainer.rows.tokens_per_epoch,
            "seconds": round(trainer.seconds, 1),
            "processes": trainer.processes.world,
            "before": trainer.before,
            "held_out": trainer.latest,
        }
        with console.status("Writing the drafter ..."):
            summary = write_folder(drafter, tokenizer, run.out, summary, trainer.log, files or {})
        figures = ", ".join(_change(name, trainer) for name in trainer.latest)
        held = f"; held out: {figures}" if figures else ""
        console.print(
            f"{shown(run.out)}: {summary['parameters']:,} parameters{held}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
        if run.json:
            typer.echo(jsonlib.dumps(summary))
    trainer.processes.wait()


def _change(name: str, trainer: Trainer[Any]) -> str:
    before = trainer.before.get(name)
    start = "" if before is None else f"{before:.3f} -> "
    return f"{name} {start}{trainer.latest[name]:.3f}"


def write_folder(
    drafter: Any,
    tokenizer: Any,
    out: Path,
    facts: dict[str, Any],
    log: list[Any],
    files: Mapping[str, bytes],
) -> dict[str, Any]:
    """See `foretoken.learn.recipes.export.export`."""
    from foretoken.learn.recipes.export import export

    return export(drafter, tokenizer, out, facts, log, files)
