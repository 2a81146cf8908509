"""foretoken generate: one prompt in, its continuation out, as it is written."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from foretoken.cli.opening import open_engine
from foretoken.cli.options import MethodOptions, TargetOptions, TextOptions, grouped
from foretoken.cli.recording import TraceFile, recorded, recording
from foretoken.errors import INTERRUPTED, ConfigError


@grouped
def generate(  # noqa: PLR0913, PLR0917
    target: TargetOptions,
    method: MethodOptions,
    text: TextOptions,
    prompt: Annotated[
        str | None,
        typer.Argument(help="The prompt; without one, standard input.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the prompt from here, as it is.")
    ] = None,
    prediction: Annotated[
        Path | None,
        typer.Option("--prediction", help="A file with what will probably be written."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--raw", help="Wrap the prompt in the model's chat template.")
    ] = False,
    show_draft: Annotated[
        bool, typer.Option("--show-draft", help="Colour what was drafted and accepted.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Every step: who proposed what, what was expected, what stood."
        ),
    ] = False,
    trace: TraceFile = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout instead of the text.")
    ] = False,
) -> None:
    """Complete a prompt. The text goes to stdout, a line of statistics to stderr."""
    words = read_prompt(prompt, file)
    expected = None if prediction is None else read_file("prediction", prediction)
    sampling, limits = text.sampling(), text.limits()
    earlier = recorded(trace)
    engine = open_engine(target, method)

    from foretoken.cli import render
    from foretoken.cli.answer import answer
    from foretoken.cli.explain import Explainer, together
    from foretoken.learn.memory import remembering
    from foretoken.prompt.prediction import predictions
    from foretoken.prompt.tokens import encode_prompt, render_chat
    from foretoken.types import Request

    if chat:
        ids = render_chat(engine.tokenizer, [{"role": "user", "content": words}])
    else:
        ids = encode_prompt(engine.tokenizer, words)
    (likely,) = predictions(engine.tokenizer, expected, 1, True, engine.method.drafter)
    colour = show_draft and render.wants_colour(sys.stdout)

    def show(pieces: list[render.Piece]) -> None:
        sys.stdout.write(render.painted(pieces, colour))
        sys.stdout.flush()

    explainer = Explainer() if explain else None
    with remembering(engine, method.memory), recording(engine, trace, earlier) as recorder:
        request = Request(ids, sampling, limits, prediction=likely)
        watching = together(recorder, explainer.watch if explainer is not None else None)
        done = answer(engine, request, None if json else show, on_step=watching)
        typer.echo(render.statistics(done.completion, done.seconds, method.method), err=True)
        if json:
            facts = {
                "model": engine.target.name,  # type: ignore[attr-defined]
                "dtype": str(engine.target.dtype).removeprefix("torch."),  # type: ignore[attr-defined]
                "method": method.method,
                "policy": engine.method.policy.name,
            }
            facts |= {"explained": explainer.document()} if explainer is not None else {}
            typer.echo(jsonlib.dumps(render.document(done.completion, done.seconds, **facts)))
        elif not done.completion.text.endswith("\n"):
            typer.echo()
        if explainer is not None:
            explainer.show(engine.tokenizer.decode)
    if done.interrupted:
        raise typer.Exit(INTERRUPTED)


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The argument, the file as it is, or standard input less the newline that shells add."""
    if prompt is not None and file is not None:
        raise ConfigError("file", str(file), "a prompt or --file, not both")
    if prompt is not None:
        return prompt
    if file is not None:
        return read_file("file", file)
    if sys.stdin.isatty():
        raise ConfigError("prompt", None, "a prompt as argument, --file, or text on standard input")
    return _text("prompt", sys.stdin.buffer.read()).removesuffix("\n")


def read_file(field: str, path: Path) -> str:
    """A file's text, as it is. Raises ConfigError that names the option `field`."""
    try:
        return _text(field, path.read_bytes())
    except OSError as error:
        raise ConfigError(field, str(path), f"a readable file ({error.strerror})") from None


def _text(field: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(field, f"{len(content)} bytes", f"UTF-8 text ({error.reason})") from None
