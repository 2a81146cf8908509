"""foretoken train draft cut: a drafter cut out of its target."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.options import grouped
from foretoken.cli.train_draft_options import RunOptions, target_name, write_folder
from foretoken.cli.training import config_options, quiet, shown, spelled, train
from foretoken.errors import ConfigError
from foretoken.learn.recipes.cut_config import CutConfig

if TYPE_CHECKING:
    from foretoken.draft.trim import Trim
    from foretoken.learn.recipes.cut import CutRun
    from foretoken.learn.recipes.rows import Rows

_WHO = "Model and data"
BEST = "best"

CutOptions = config_options("CutOptions", CutConfig, "Cuts and training")


@dataclass(frozen=True)
class TaughtOptions:
    """Whose answers are learned."""

    data: Annotated[
        Path,
        typer.Option("--data", help="Folder that `train draft data` wrote.", rich_help_panel=_WHO),
    ]
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The target, folder or hub name.",
                     show_default="the bundled demo model", rich_help_panel=_WHO),
    ] = None  # fmt: skip
    dtype: Annotated[
        str,
        typer.Option("--dtype", help="Of the target: auto, float32, bfloat16 or float16.",
                     rich_help_panel=_WHO),
    ] = "auto"  # fmt: skip

    def words(self) -> list[str]:
        """The options that say so, for the command of a card."""
        words = [f"--data {shown(self.data)}"]
        words += [f"--model {shown(self.model)}"] if self.model else []
        return words + ([] if self.dtype == "auto" else [f"--dtype {self.dtype}"])


@grouped
def cut(
    who: TaughtOptions,
    options: CutOptions,  # type: ignore[valid-type]
    run: RunOptions,
    stage: Annotated[
        str, typer.Option("--stage", help="Which stage is written: its number, or best (MBSU).")
    ] = BEST,
) -> None:
    """Cut a drafter out of its target: drop layers, narrow the others, train in between, and write
    the best stage. Ctrl-C writes a checkpoint; the same command goes on."""
    console = Console(stderr=True)
    config = CutConfig.checked(**asdict(options))
    wanted = _stage(stage, config)
    checkpoints, name = run.checkpoints(), target_name(who.model)
    with console.status("Loading the model and answers ..."):
        from foretoken.learn.recipes.cut import CutRun
        from foretoken.learn.recipes.load import load_model
        from foretoken.learn.recipes.processes import Processes

        quiet()
        processes = Processes(run.device)
        target, tokenizer = load_model(name, dtype=who.dtype, device=str(processes.device))
        rows = answers_of(who, config.seq, config.seed, config.held_out, target, tokenizer)
        trim = _trim(who, config, target, tokenizer)
        made = CutRun(
            target, rows, config, checkpoints, keep=None if trim is None else trim.keep,
            resume=run.resume, processes=processes,
        )  # fmt: skip
    train(made, console, steps=config.steps, made=made.step, main=processes.main)
    if processes.main:
        chosen = wanted or made.best
        words = ["foretoken train draft cut", *who.words(), *spelled(config)]
        words += [] if wanted is None else [f"--stage {wanted}"]
        words.append(f"--out {shown(run.out)}")
        with console.status("Writing the drafter ..."):
            summary = _written(run.out, made, chosen, tokenizer, trim, who, " ".join(words))
        _show(console, made, chosen)
        console.print(f"stage {chosen} -> {shown(run.out)}", soft_wrap=True, highlight=False)
        if run.json:
            typer.echo(jsonlib.dumps(summary))
    processes.wait()


def answers_of(
    who: TaughtOptions, seq: int, seed: int, held_out: float, model: Any, tokenizer: Any
) -> Rows:
    """The answers as rows that the model can read. Raises ConfigError, ArtifactError."""
    from foretoken.learn.recipes.align import packable
    from foretoken.learn.recipes.load import vocabulary
    from foretoken.learn.recipes.rows import Rows
    from foretoken.prompt.tokens import tokenizer_hash

    return Rows.read(
        who.data, seq, seed, held_out, packed=packable(model),
        tokenizer_hash=tokenizer_hash(tokenizer), vocab=vocabulary(model),
    )  # fmt: skip


def _stage(text: str, config: CutConfig) -> int | None:
    if text == BEST:
        return None
    if not text.isdigit() or not 1 <= int(text) <= config.stages:
        raise ConfigError("stage", text, f"{BEST}, or a number from 1 to {config.stages}")
    return int(text)


def _trim(who: TaughtOptions, config: CutConfig, target: Any, tokenizer: Any) -> Trim | None:
    """The tokens that the drafter will score, if not all."""
    if config.vocab is None:
        return None
    from foretoken.draft.trim import Trim
    from foretoken.learn.recipes.answers import read_examples
    from foretoken.learn.recipes.load import vocabulary
    from foretoken.learn.recipes.vocab_trim import always_kept, count_tokens
    from foretoken.prompt.tokens import tokenizer_hash
    from foretoken.target.hf import eos_ids

    vocab, identity = vocabulary(target), tokenizer_hash(tokenizer)
    examples = read_examples(who.data, identity, vocab)
    counts = count_tokens((e for e in examples if not e.held(config.held_out)), vocab)
    always = always_kept(tokenizer, eos_ids(target), counts)
    try:
        return Trim.of(counts, config.vocab, always, identity)
    except ConfigError as error:
        raise ConfigError("vocab", config.vocab, error.accepted) from None


def _written(
    out: Path,
    made: CutRun,
    stage: int,
    tokenizer: Any,
    trim: Trim | None,
    who: TaughtOptions,
    command: str,
) -> dict[str, Any]:
    """Write the folder; what is told of it."""
    from foretoken.cli.train_draft_align import manifest_of
    from foretoken.draft.trim import FILE
    from foretoken.target.narrow import SIDE_FILE, padded, widths_of

    drafter = made.drafter(stage)
    widths, full = widths_of(drafter), padded(drafter)
    files = {SIDE_FILE: widths.encoded()} if widths_of(full) != widths else {}
    if trim is not None:
        files[FILE] = (jsonlib.dumps(trim.model_dump()) + "\n").encode()
    summary = {
        "recipe": "cut",
        "target": shown(target_name(who.model)),
        "data": manifest_of(who.data),
        "config": made.config.model_dump(),
        "stages": [{k: v for k, v in s.items() if k != "curve"} for s in made.stages],
        "stage": stage,
        "best": made.best,
        "read": made.stages[stage - 1]["read"],  # parameters per drafted token
        "steps": made.step,
        "tokens": made.step * made.config.batch * made.config.seq,
        "seconds": sum(s["seconds"] for s in made.stages),
        "held_out": made.stages[stage - 1]["worth"],
        "command": command,
    }
    return write_folder(full, tokenizer, out, summary, _curve(made), files)


def _curve(made: CutRun) -> list[dict[str, Any]]:
    """All steps in a row, with the figures of each stage where it ends."""
    log: list[dict[str, Any]] = []
    for stage in made.stages:
        before = len(log)
        log += [{**row, "step": before + row["step"]} for row in stage["curve"]]
        log[-1]["held_out"] = {name: stage["worth"][name] for name in ("alpha", "tau", "mbsu")}
    return log


def _show(console: Console, made: CutRun, chosen: int) -> None:
    from foretoken.cli.bench_show import columns, number

    table = columns(  # heads: KV heads; read: parameters per drafted token; tau: tokens per step
        "stage", "layers", "heads", "neurons", "read", "alpha", "tau", "c", "MBSU", ""
    )
    for stage in made.stages:
        worth = stage["worth"]
        table.add_row(
            str(stage["stage"]), str(len(stage["layers"])), _range(stage["kv_heads"]),
            _range(stage["ffn"]), f"{stage['read']:,}", number(worth["alpha"]),
            number(worth["tau"]), number(worth["cost"]), number(worth["mbsu"]),
            "written" if stage["stage"] == chosen else "",
        )  # fmt: skip
    console.print(table)


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
