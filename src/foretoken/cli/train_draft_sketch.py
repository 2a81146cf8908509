"""foretoken train draft sketch: a drafter as codes and small tables, one set of tables a domain."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.options import grouped
from foretoken.cli.train_draft_cut import TaughtOptions, answers_of
from foretoken.cli.train_draft_options import RunOptions, target_name
from foretoken.cli.training import config_options, quiet, shown, spelled, train
from foretoken.errors import ConfigError
from foretoken.learn.recipes.sketch_config import SketchConfig

if TYPE_CHECKING:
    from foretoken.learn.recipes.sketch import SketchRun

_WHO = "Model and data"

SketchOptions = config_options("SketchOptions", SketchConfig, "Codes and training")


@dataclass(frozen=True)
class DrafterOptions:
    """What is sketched."""

    drafter: Annotated[
        Path,
        typer.Option("--drafter", help="Folder of the drafter; of a sketched one with --domain.",
                     rich_help_panel=_WHO),
    ]  # fmt: skip
    domain: Annotated[
        str,
        typer.Option("--domain", help="Name of the tables that are trained: a small file of their "
                     "own beside the drafter's.", show_default="the drafter's own",
                     rich_help_panel=_WHO),
    ] = ""  # fmt: skip
    dense: Annotated[
        bool,
        typer.Option("--dense/--no-dense", help="Write the weights as well, for other programs: "
                     "the folder is as large as before.", rich_help_panel=_WHO),
    ] = False  # fmt: skip


@grouped
def sketch(
    who: TaughtOptions,
    small: DrafterOptions,
    options: SketchOptions,  # type: ignore[valid-type]
    run: RunOptions,
) -> None:
    """Write a drafter's layers as 4-bit codes with small tables, and train the tables. Ctrl-C
    writes a checkpoint; the same command goes on."""
    console = Console(stderr=True)
    config = SketchConfig.checked(**asdict(options))
    name = target_name(who.model)
    with console.status("Loading models and answers ..."):
        from foretoken.draft.sketched import is_sketched, read_sketch
        from foretoken.learn.recipes.load import load_model
        from foretoken.learn.recipes.processes import Processes
        from foretoken.learn.recipes.sketch import SketchRun, find_codes
        from foretoken.learn.recipes.sketch_export import check_places

        quiet()
        check_places(small.drafter, run.out, small.domain, small.dense)
        known, checkpoints = is_sketched(small.drafter), run.checkpoints()
        processes = Processes(run.device)
        target, tokenizer = load_model(name, dtype=who.dtype, device=str(processes.device))
        drafter = _drafter(small.drafter, known, target, tokenizer)
        rows = answers_of(who, config.seq, config.seed, config.held_out, target, tokenizer)
    if known:
        first = read_sketch(small.drafter)
    else:
        count = drafter.config.num_hidden_layers
        with console.status("Finding codes ...") as status:
            first = find_codes(
                drafter, rows, config, checkpoints, run.resume,
                lambda done: status.update(f"Finding codes: layer {done} of {count}"),
            )  # fmt: skip
    made = SketchRun(target, drafter, first, rows, config, checkpoints, run.resume)
    train(made, console, steps=config.steps, made=made.trainer.step, main=processes.main)
    if processes.main:
        words = ["foretoken train draft sketch", *who.words(), f"--drafter {shown(small.drafter)}"]
        words += [f"--domain {small.domain}"] if small.domain else []
        words += ["--dense"] if small.dense else []
        words += [*spelled(config), f"--out {shown(run.out)}"]
        with console.status("Writing the drafter ..."):
            summary = _written(run, made, small, tokenizer, who, " ".join(words))
        _show(console, made, summary)
        if run.json:
            typer.echo(jsonlib.dumps(summary))
    processes.wait()


def _drafter(folder: Path, known: bool, target: Any, tokenizer: Any) -> Any:
    """The model, float32, beside the target. Raises ConfigError for other tokens."""
    import torch

    from foretoken.draft.sketched import load_sketched
    from foretoken.learn.recipes.load import load_model, vocabulary
    from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash
    from foretoken.target.narrow import unpadded

    if known:
        drafter = load_sketched(folder, "", torch.float32, target.device)
    else:
        drafter = unpadded(load_model(folder, train=True, device=str(target.device))[0], folder)
    same = tokenizer_hash(load_tokenizer(folder)) == tokenizer_hash(tokenizer)
    if vocabulary(drafter) != vocabulary(target) or not same:
        raise ConfigError("drafter", str(folder), "a drafter in the target's tokens")
    return drafter.requires_grad_(False).eval()


def _written(
    run: RunOptions,
    made: SketchRun,
    small: DrafterOptions,
    tokenizer: Any,
    who: TaughtOptions,
    command: str,
) -> dict[str, Any]:
    """Write the folder; what is told of it."""
    from foretoken.cli.train_draft_align import manifest_of
    from foretoken.draft.sketched import is_sketched
    from foretoken.learn.recipes.manifest import versions
    from foretoken.learn.recipes.sketch_export import write_sketch, write_tables

    tuned, trainer = made.sketch, made.trainer
    summary = {
        "recipe": "sketch",
        "target": shown(target_name(who.model)),
        "begun_with": shown(small.drafter),
        "domain": small.domain,
        "data": manifest_of(who.data),
        "config": made.config.model_dump(),
        "bytes": {
            "codes": tuned.code_bytes,
            "tables": tuned.table_bytes,
            "others": sum(value.numel() * value.element_size() for value in made.rest.values()),
        },
        "trained": sum(weight.numel() for weight in trainer.weights.values()),
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "figures": made.figures,
        "versions": versions(),
        "command": command,
    }
    if is_sketched(small.drafter):
        write_tables(run.out, small.drafter, small.domain, tuned, summary, trainer.log)
    else:
        write_sketch(
            run.out, made, tokenizer, summary,
            drafter=small.drafter, domain=small.domain, dense=small.dense,
        )  # fmt: skip
    return summary


def _show(console: Console, made: SketchRun, summary: dict[str, Any]) -> None:
    from foretoken.cli.bench_show import columns, number

    if made.figures:
        table = columns("drafter", "alpha", "KL", "tokens/step")
        for name, worth in made.figures.items():
            table.add_row(
                name, number(worth["alpha"], ".4f"), number(worth["kl"], ".4f"),
                number(worth["tau"]),
            )  # fmt: skip
        console.print(table)
    size = summary["bytes"]
    console.print(
        f"codes {size['codes']:,} bytes, tables {size['tables']:,}, the rest {size['others']:,}; "
        f"{summary['trained']:,} parameters trained",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
