"""What training commands share: options of a configuration, the bar, Ctrl-C, folders."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from foretoken.errors import ConfigError

LOG_EVERY = 20  # steps per line where standard error is no terminal


def flags(config: type[BaseModel], name: str) -> str:
    """The option of a field: --name, or --name/--no-name for a choice."""
    dashed = name.replace("_", "-")
    choice = config.model_fields[name].annotation is bool
    return f"--{dashed}/--no-{dashed}" if choice else f"--{dashed}"


def config_options(
    name: str,
    config: type[BaseModel],
    panel: str | None = None,
    leave_out: Iterable[str] = (),
) -> Any:
    """A dataclass with an option for each field of a configuration, so that name, default and help
    have a single source. A field of fixed words is an option of text: the configuration checks it.
    """
    return make_dataclass(
        name,
        [
            (
                one,
                Annotated[
                    info.annotation if get_origin(info.annotation) is None else str,
                    typer.Option(flags(config, one), help=info.description, rich_help_panel=panel),
                ],
                field(default=info.default),
            )
            for one, info in config.model_fields.items()
            if one not in set(leave_out)
        ],
        namespace={"__doc__": f"The fields of {config.__name__} as command-line options."},
        frozen=True,
    )


def spelled(config: BaseModel, leave_out: Iterable[str] = ()) -> list[str]:
    """The options that are not at their defaults, as words of a command."""
    words = []
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if value == info.default or name in set(leave_out):
            continue
        yes, _, no = flags(type(config), name).partition("/")
        words.append((yes if value else no) if isinstance(value, bool) else f"{yes} {value}")
    return words


def shown(path: str | Path) -> str:
    """A path without where it lies on this machine: absolute ones are cut to their last part."""
    return Path(path).name if Path(path).is_absolute() else Path(path).as_posix()


def quiet() -> None:
    """Let transformers say nothing but errors."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def train(
    run: Any, console: Console, *, steps: int, made: int, what: str = "step", main: bool = True
) -> None:
    """`run.train(report, stop)` with a bar and Ctrl-C. steps, made: of the run, in all and already.
    main: whether this process is the one that shows progress."""
    columns = (
        TextColumn(what + " {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=console, speed_estimate_period=600, disable=not main) as bar,
        interrupts(console if main else None) as stopped,
    ):
        task = bar.add_task("first step", total=steps, completed=made)

        def report(now: Any) -> None:
            text = status(now)
            bar.update(task, completed=now.step, description=text)
            if not console.is_terminal and now.step % LOG_EVERY == 0:  # a log has no moving bar
                console.print(f"{what} {now.step}/{now.steps}  {text}", soft_wrap=True)

        run.train(report, lambda: bool(stopped))


def status(now: Any) -> str:
    """A line on the step that was just made. now: `learn.recipes.trainer.Progress`, or alike."""
    rate = now.tokens / max(now.seconds, 1e-9)
    figures = {"loss": now.loss, **getattr(now, "metrics", {})}
    text = f"{rate:,.0f} tokens/s" + _figures(figures)
    return text + ("  held-out" + _figures(now.held_out) if now.held_out else "")


def _figures(values: dict[str, float]) -> str:
    return "".join(f"  {name} {value:.3f}" for name, value in values.items())


@contextmanager
def interrupts(console: Console | None) -> Iterator[list[int]]:
    """A list that is no longer empty once Ctrl-C was pressed; pressed twice, it interrupts."""
    seen: list[int] = []

    def handle(number: int, _: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        if console is not None:
            console.print(
                "Ending this step, then writing a checkpoint; Ctrl-C again stops at once."
            )

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def folder(out: Path) -> None:
    """Fail before the training and not after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "out", str(out), f"a folder that can be made ({error.strerror})"
        ) from None
