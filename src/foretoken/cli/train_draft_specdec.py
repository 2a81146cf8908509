"""foretoken train draft specdec-head: teach a head when a draft should end."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.options import grouped
from foretoken.cli.train_draft_pair import PairOptions, load_pair
from foretoken.cli.training import config_options, quiet, shown, spelled, train
from foretoken.learn.recipes.specdec_config import SpecdecConfig

if TYPE_CHECKING:
    from foretoken.learn.recipes.processes import Processes
    from foretoken.learn.recipes.specdec import SpecdecTraining

LOG = "specdec_log.json"
_RUN = "Run"

SpecdecOptions = config_options("SpecdecOptions", SpecdecConfig, "Training")


@dataclass(frozen=True)
class HeadRunOptions:
    """Where checkpoints go."""

    work: Annotated[
        Path | None,
        typer.Option("--work", help="Folder for checkpoints.", show_default="DRAFTER.head.ckpt",
                     rich_help_panel=_RUN),
    ] = None  # fmt: skip
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on from a checkpoint, if there is one.",
                     rich_help_panel=_RUN),
    ] = True  # fmt: skip
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON.", rich_help_panel=_RUN)
    ] = False


@grouped
def specdec_head(
    who: PairOptions,
    options: SpecdecOptions,  # type: ignore[valid-type]
    run: HeadRunOptions,
) -> None:
    """Train the head of the policy specdec++ for a drafter, and write it beside the drafter's
    weights. Ctrl-C writes a checkpoint; the same command goes on."""
    console = Console(stderr=True)
    config = SpecdecConfig.checked(**asdict(options))
    who.check()
    work = run.work or who.drafter.with_name(who.drafter.name + ".head.ckpt")
    with console.status("Loading models and answers ..."):
        from foretoken.learn.recipes.processes import Processes

        quiet()
        processes = Processes(who.device)
        made = _training(who, config, work, run.resume, processes)
    trainer = made.trainer
    train(trainer, console, steps=config.steps, made=trainer.step, main=processes.main)
    if processes.main:
        summary = {
            "recipe": "specdec-head",
            "target": shown(who.target),
            "drafter": shown(who.drafter),
            "data": shown(who.data),
            "command": " ".join(
                ["foretoken train draft specdec-head", *who.words(), *spelled(config)]
            ),
            "config": config.model_dump(),
            "parameters": sum(weight.numel() for weight in made.head.parameters()),
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "before": trainer.before,
            "held_out": trainer.latest,
        }
        path = _write(who.drafter, made, {**summary, "curve": trainer.log})
        held = ", ".join(f"{name} {value:.3f}" for name, value in trainer.latest.items())
        text = f"{shown(path)}: {summary['parameters']:,} parameters" + (held and f"; {held}")
        console.print(text, soft_wrap=True, highlight=False, markup=False)
        if run.json:
            typer.echo(jsonlib.dumps({**summary, "written": path.name}))
    processes.wait()


def _training(
    who: PairOptions, config: SpecdecConfig, work: Path, resume: bool, processes: Processes
) -> SpecdecTraining:
    from foretoken.draft.trim import read_trim
    from foretoken.draft.trimmed import trimmed
    from foretoken.learn.recipes.align import packable
    from foretoken.learn.recipes.rows import Rows
    from foretoken.learn.recipes.specdec import SpecdecTraining

    pair = load_pair(who, str(processes.device))
    drafter, trim = pair.drafter, read_trim(who.drafter)
    rows = Rows.read(
        who.data, config.seq, config.seed, config.held_out, packed=packable(drafter, pair.target),
        tokenizer_hash=pair.tokenizer_hash, vocab=pair.vocab,
    )  # fmt: skip
    if trim is not None:  # drafts are drawn from what is kept
        trim.check(who.drafter, pair.tokenizer_hash, pair.vocab)
        drafter = trimmed(drafter, trim.keep)
    return SpecdecTraining(
        drafter, pair.target, rows, config, work, resume=resume, processes=processes
    )


def _write(folder: Path, made: SpecdecTraining, log: dict[str, Any]) -> Path:
    """The head and the log of its training, beside the drafter's weights."""
    from foretoken.bench.saving import save_text
    from foretoken.learn.recipes.specdec_head import folder_hash, save_head

    path = save_head(folder, made.head, made.facts(folder_hash(folder)))
    save_text(folder / LOG, jsonlib.dumps(log, indent=1) + "\n")
    return path
