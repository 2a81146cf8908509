"""The entry point: sub-commands by name, errors as one line and an exit code.

Exit codes: 0 done, 1 failure, 2 usage or configuration, 130 interrupted with what was produced.
Commands are imported when they are called, so that `foretoken --help` needs neither torch nor
transformers.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foretoken.errors import INTERRUPTED, ForetokenError

COMMANDS = {  # name -> (where, one line of help)
    "demo": (
        "foretoken.cli.demo:demo",
        "See it work: real prompts, plainly and drafted, side by side.",
    ),
    "generate": ("foretoken.cli.generate:generate", "Complete a prompt with any model."),
    "chat": ("foretoken.cli.chat:chat", "Talk with a model that has a chat template."),
    "bench": (
        "foretoken.cli.bench:app",
        "Compare methods: same model, same prompts, same process.",
    ),
    "report": (
        "foretoken.cli.report:report",
        "Results of the bench as one page and pictures.",
    ),
    "tune": (
        "foretoken.cli.tune:tune",
        "What to use for your prompts and model, and why.",
    ),
    "bound": (
        "foretoken.cli.bound:bound",
        "How far each acceptance rule is from the best possible one.",
    ),
    "audit": (
        "foretoken.cli.audit:audit",
        "Is an engine exact? Ours, transformers, vLLM, an endpoint, any function.",
    ),
    "methods": ("foretoken.cli.methods:methods", "List every method and what it guarantees."),
    "train": ("foretoken.cli.train:app", "Train tables and models from text."),
}
# what typer raises for wrong arguments, in any version: the class itself has moved
USAGE_ERRORS: tuple[Any, ...] = typer.BadParameter.__bases__


def load(where: str) -> Any:
    """The command at "module:attribute": a Typer app, or a function that becomes a command."""
    module, _, attribute = where.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command()(found)
        found = single
    return typer.main.get_command(found)


class LazyGroup(TyperGroup):
    """Lists stand-ins with their help; the command itself is imported when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See typer: (name, command, remaining arguments)."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, load(COMMANDS[name][0]) if name in COMMANDS else stand_in, rest


app = typer.Typer(cls=LazyGroup, pretty_exceptions_enable=False)


def _stand_in(name: str) -> Callable[[], None]:
    def command() -> None:
        raise NotImplementedError(f"{name} is resolved by LazyGroup")

    return command


for _name, (_, _help) in COMMANDS.items():
    app.command(_name, help=_help)(_stand_in(_name))


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(version("foretoken"))
        except PackageNotFoundError:
            typer.echo("unknown: foretoken runs from a folder and is not installed")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Any Hugging Face causal language model writes the same text, sooner."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. argv: None for the process's own."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = app(args=arguments, prog_name="foretoken", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # the reader went away, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ForetokenError as error:
        return _fail(str(error), error.exit_code)
    except USAGE_ERRORS as error:
        return _fail(error.format_message(), 2)
    except (OSError, MemoryError) as error:
        return _fail(str(error) or type(error).__name__, 1)


def _fail(message: str, code: int) -> int:
    typer.echo(f"foretoken: {' '.join(message.split())}", err=True)
    return code
