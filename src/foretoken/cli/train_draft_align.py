"""foretoken train draft align: teach a drafter what its target writes."""

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
from foretoken.learn.recipes.align_config import AlignConfig

if TYPE_CHECKING:
    from foretoken.learn.recipes.config import TrainConfig
    from foretoken.learn.recipes.rows import Rows
    from foretoken.learn.recipes.soft_config import SoftConfig

_WHO = "Models and data"

AlignOptions = config_options("AlignOptions", AlignConfig, "Training")


@dataclass(frozen=True)
class WhoOptions:
    """Who learns from whom, on what."""

    data: Annotated[
        Path,
        typer.Option("--data", help="Folder that `train draft data` wrote.", rich_help_panel=_WHO),
    ]
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The target, folder or hub name.",
                     show_default="the bundled demo model", rich_help_panel=_WHO),
    ] = None  # fmt: skip
    drafter: Annotated[
        Path | None,
        typer.Option("--drafter", help="Folder of the drafter to begin with.",
                     show_default="a new one", rich_help_panel=_WHO),
    ] = None  # fmt: skip
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="Plain text (JSONL or a text file) to keep among the answers; "
                     "repeatable.", rich_help_panel=_WHO),
    ] = None  # fmt: skip
    stdlib: Annotated[
        bool,
        typer.Option("--stdlib/--no-stdlib", help="Python's standard library among it.",
                     rich_help_panel=_WHO),
    ] = False  # fmt: skip
    dtype: Annotated[
        str,
        typer.Option("--dtype", help="Of the target: auto, float32, bfloat16 or float16.",
                     rich_help_panel=_WHO),
    ] = "auto"  # fmt: skip
    with_target: Annotated[
        bool,
        typer.Option("--with-target/--without-target", help="Load the target's weights; ce-text "
                     "can do without, and then no alpha is known.", rich_help_panel=_WHO),
    ] = True  # fmt: skip

    def words(self, shape: Any) -> list[str]:
        """The options that say so, for the command of a card; no path tells where it was made."""
        words = [f"--data {shown(self.data)}"]
        words += [f"--model {shown(self.model)}"] if self.model else []
        words += [f"--drafter {shown(self.drafter)}"] if self.drafter else spelled(shape)
        words += [f"--text {shown(path)}" for path in self.text or ()]
        words += ["--stdlib"] if self.stdlib else []
        words += [] if self.dtype == "auto" else [f"--dtype {self.dtype}"]
        return words + ([] if self.with_target else ["--without-target"])


@grouped
def align(
    who: WhoOptions,
    shape: ShapeOptions,
    options: AlignOptions,  # type: ignore[valid-type]
    run: RunOptions,
) -> None:
    """Train a drafter on answers that its target wrote. Ctrl-C writes a checkpoint; the same
    command goes on."""
    console = Console(stderr=True)
    config, drafter_shape = AlignConfig.checked(**asdict(options)), shape_of(shape)
    checkpoints, name = run.checkpoints(), target_name(who.model)
    with console.status("Loading models and answers ..."):
        from foretoken.learn.recipes.align import Align, packable
        from foretoken.learn.recipes.processes import Processes

        quiet()
        processes = Processes(run.device)
        device = str(processes.device)
        target, tokenizer, drafter = models_of(who, drafter_shape, config, name, device)
        rows = rows_of(who, config, tokenizer, drafter, packable(drafter, target))
        made = Align(
            drafter, target, rows, config, checkpoints, resume=run.resume, processes=processes
        )
    trainer = made.trainer
    train(trainer, console, steps=config.steps, made=trainer.step, main=processes.main)
    summary = {
        "recipe": "align",
        "target": shown(name),
        "begun_with": None if who.drafter is None else shown(who.drafter),
        "shape": None if who.drafter is not None else drafter_shape.model_dump(),
        "data": manifest_of(who.data),
        "corpus": rows.corpus,
        "command": command(who, drafter_shape, config, run.out),
    }
    finish(run, console, drafter, tokenizer, trainer, summary)


def models_of(
    who: WhoOptions, shape: Any, config: TrainConfig, name: str, device: str
) -> tuple[Any | None, Any, Any]:
    """(target or None, tokenizer, drafter)."""
    from foretoken.errors import ConfigError
    from foretoken.learn.recipes.load import load_model, new_drafter, target_facts
    from foretoken.prompt.tokens import tokenizer_hash

    facts, tokenizer = target_facts(name)
    target = load_model(name, dtype=who.dtype, device=device)[0] if who.with_target else None
    if who.drafter is None:
        return target, tokenizer, new_drafter(facts, shape, seed=config.seed).to(device)
    drafter, own = load_model(who.drafter, train=True, device=device)
    if tokenizer_hash(own) != tokenizer_hash(tokenizer):
        accepted = f"a drafter in the tokens of {shown(name)}"
        raise ConfigError("drafter", str(who.drafter), accepted)
    return target, tokenizer, drafter


def rows_of(
    who: WhoOptions, config: AlignConfig | SoftConfig, tokenizer: Any, drafter: Any, packed: bool
) -> Rows:
    """Answers, with plain text among them if there is any."""
    from foretoken.learn.corpus import build_corpus
    from foretoken.learn.recipes.load import vocabulary
    from foretoken.learn.recipes.mixing import mixed
    from foretoken.learn.recipes.pretrain import text_rows
    from foretoken.learn.recipes.rows import Rows
    from foretoken.prompt.tokens import tokenizer_hash

    answers = Rows.read(
        who.data, config.seq, config.seed, config.held_out, packed=packed,
        tokenizer_hash=tokenizer_hash(tokenizer), vocab=vocabulary(drafter),
    )  # fmt: skip
    if not (who.text or who.stdlib) or not config.text_share:
        return answers
    corpus = build_corpus(who.text or [], 0.0, use_stdlib=who.stdlib)
    text = text_rows(corpus, tokenizer, config.seq, config.seed)
    shares = {"answers": 1 - config.text_share, "text": config.text_share}
    rows = mixed({"answers": answers, "text": text}, shares)
    rows.corpus = {"text": corpus.manifest()}
    return rows


def manifest_of(data: Path) -> dict[str, Any]:
    """What the answers are, for the model card."""
    from foretoken.learn.recipes.manifest import read_manifest

    found = read_manifest(data)
    return {
        "folder": shown(data),
        "model": found.model,
        "counts": found.counts,
        "prompts": found.prompts,
        "prompts_sha256": found.prompts_sha256,
        "sources": [dict(source) for source in found.sources],
        "command": found.command,
    }


def command(who: WhoOptions, shape: Any, config: AlignConfig, out: Path) -> str:
    """The command that repeats this run; no path tells where it was made."""
    words = ["foretoken train draft align", *who.words(shape)]
    return " ".join([*words, *spelled(config), f"--out {shown(out)}"])
