"""foretoken chat: a conversation. Each turn reads only what is new: the KV rows stay."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from foretoken.cli.opening import open_engine
from foretoken.cli.options import MethodOptions, TargetOptions, TextOptions, grouped
from foretoken.cli.recording import TraceFile, recorded, recording
from foretoken.errors import ConfigError

if TYPE_CHECKING:
    from foretoken.cli.answer import Answer, OnStep, Show
    from foretoken.engine.engine import Engine
    from foretoken.types import Limits, Sampling, Session

HELP = "/reset starts anew, /quit or Ctrl-D leaves, Ctrl-C stops an answer"


class Conversation:
    """The turns so far and the session whose KV rows the next turn takes over."""

    def __init__(
        self, engine: Engine, sampling: Sampling, limits: Limits, system: str | None = None
    ) -> None:
        if not getattr(engine.tokenizer, "chat_template", None):
            name = getattr(engine.target, "name", "")
            raise ConfigError("model", name, "a model with a chat template; others: generate")
        self.engine, self.sampling, self.limits = engine, sampling, limits
        self._start = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._start)
        self.on_step: OnStep | None = None  # gets every step of the answers
        self._last: Session | None = None

    def say(self, text: str, show: Show | None = None) -> Answer:
        """One turn. Raises ConfigError, and forgets the turn, if it cannot be taken."""
        from foretoken.cli.answer import answer
        from foretoken.prompt.tokens import render_chat
        from foretoken.types import Request

        turn = [*self.messages, {"role": "user", "content": text}]
        ids = render_chat(self.engine.tokenizer, turn)
        request = Request(ids, self.sampling, self.limits, keep_cache=True)
        done = answer(self.engine, request, show, self._last, self.on_step)
        self._last = done.session
        # templates add their own space or line break before the content
        said = done.completion.text.strip()
        self.messages = [*turn, {"role": "assistant", "content": said}]
        return done

    def reset(self) -> None:
        """Forget everything said, and free the memory."""
        self.messages = list(self._start)
        if self._last is not None:
            self.engine.release(self._last)
            self._last = None


@grouped
def chat(
    target: TargetOptions,
    method: MethodOptions,
    text: TextOptions,
    system: Annotated[str | None, typer.Option("--system", help="The system message.")] = None,
    show_draft: Annotated[
        bool, typer.Option("--show-draft", help="Colour what was drafted and accepted.")
    ] = False,
    trace: TraceFile = None,
) -> None:
    """Talk with a model. Answers go to stdout, statistics to stderr; a line is a turn."""
    from foretoken.learn.memory import remembering

    sampling, limits = text.sampling(), text.limits()
    earlier = recorded(trace)
    talk = Conversation(open_engine(target, method), sampling, limits, system)
    interactive = sys.stdin.isatty()
    if interactive:
        typer.echo(HELP, err=True)
    engine = talk.engine
    with remembering(engine, method.memory), recording(engine, trace, earlier) as talk.on_step:
        try:
            while (line := _read(interactive)) is not None and line != "/quit":
                if line == "/reset":
                    talk.reset()
                elif line:
                    _turn(talk, line, method.method, show_draft, interactive)
        finally:
            talk.reset()


def _turn(talk: Conversation, line: str, method: str, show_draft: bool, interactive: bool) -> None:
    from foretoken.cli import render

    colour = show_draft and render.wants_colour(sys.stdout)

    def show(pieces: list[render.Piece]) -> None:
        sys.stdout.write(render.painted(pieces, colour))
        sys.stdout.flush()

    try:
        done = talk.say(line, show)
    except ConfigError as error:
        if not interactive:
            raise
        typer.echo(f"{error} ({HELP})", err=True)
        return
    typer.echo()
    typer.echo(render.statistics(done.completion, done.seconds, method), err=True)
    if done.interrupted and not interactive:
        raise KeyboardInterrupt


def _read(interactive: bool) -> str | None:
    """The next line, stripped; None at the end of input."""
    while True:
        try:
            return input("> " if interactive else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not interactive:
                raise
            typer.echo(f"\n{HELP}", err=True)
