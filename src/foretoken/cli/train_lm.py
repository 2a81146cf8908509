"""foretoken train lm: the recipe of the bundled demo model, and of others like it."""

from __future__ import annotations

import json as jsonlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from foretoken.cli.options import grouped
from foretoken.errors import ConfigError
from foretoken.learn.lm_config import LmConfig

if TYPE_CHECKING:
    from foretoken.learn.lm import LmRun

LOG_EVERY = 20  # steps per line where standard error is no terminal


def _flags(name: str) -> str:
    dashed = name.replace("_", "-")
    return (
        f"--{dashed}/--no-{dashed}"
        if LmConfig.model_fields[name].annotation is bool
        else (f"--{dashed}")
    )


# One field of the configuration is one option: name, default and help have a single source.
LmOptions = make_dataclass(
    "LmOptions",
    [
        (
            name,
            Annotated[info.annotation, typer.Option(_flags(name), help=info.description)],
            field(default=info.default),
        )
        for name, info in LmConfig.model_fields.items()
    ],
    namespace={"__doc__": "The fields of LmConfig as command-line options."},
)


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
    _folder(out)
    console = Console(stderr=True)
    with console.status("Reading the corpus ..."):
        from transformers.utils import logging

        from foretoken.learn.corpus import build_corpus
        from foretoken.learn.lm import LmRun
        from foretoken.learn.lm_export import export

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        corpus = build_corpus(sources.data or [], config.held_out, use_stdlib=sources.stdlib)
        folder = work if work is not None else out.with_name(out.name + ".ckpt")
        run = LmRun(config, corpus, folder, resume, sources.tokenizer)
    _train(run, console)
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

    def shown(path: Path) -> str:
        return path.name if path.is_absolute() else path.as_posix()

    words = [
        "foretoken train lm --out",
        shown(out),
        *(f"--data {shown(path)}" for path in sources.data or ()),
    ]
    words += [] if sources.stdlib else ["--no-stdlib"]
    words += [] if sources.tokenizer is None else [f"--tokenizer {shown(sources.tokenizer)}"]
    for name, info in LmConfig.model_fields.items():
        value = getattr(config, name)
        if value == info.default or (name == "vocab" and sources.tokenizer is not None):
            continue
        yes, _, no = _flags(name).partition("/")
        words.append((yes if value else no) if isinstance(value, bool) else f"{yes} {value}")
    return " ".join(words)


def _train(run: LmRun, console: Console) -> None:
    columns = (
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=console, speed_estimate_period=600) as bar,
        _interrupts(console) as stopped,
    ):
        task = bar.add_task("first step", total=run.config.steps, completed=run.step)

        def report(now: Any) -> None:
            held = "".join(f"  {kind} {loss:.3f}" for kind, loss in now.held_out.items())
            rate = now.tokens / now.seconds
            text = f"{rate:,.0f} tokens/s  loss {now.loss:.3f}{held and '  held-out' + held}"
            bar.update(task, completed=now.step, description=text)
            if not console.is_terminal and now.step % LOG_EVERY == 0:  # a log has no moving bar
                console.print(f"step {now.step}/{now.steps}  {text}", soft_wrap=True)

        run.train(report, lambda: bool(stopped))


@contextmanager
def _interrupts(console: Console) -> Iterator[list[int]]:
    """A list that is no longer empty once Ctrl-C was pressed; pressed twice, it interrupts."""
    seen: list[int] = []

    def handle(number: int, _: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        console.print("Ending this step, then writing a checkpoint; Ctrl-C again stops at once.")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder(out: Path) -> None:
    """Fail before the training and not after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "out", str(out), f"a folder that can be made ({error.strerror})"
        ) from None
