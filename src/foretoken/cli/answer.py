"""One answer as it comes: shown piece by piece, kept as far as it got when Ctrl-C ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

from foretoken.cli.render import OriginText, Piece
from foretoken.engine.engine import Engine
from foretoken.types import Completion, Request, Session, Step

Show = Callable[[list[Piece]], None]
OnStep = Callable[[Session, Step], None]


@dataclass(frozen=True)
class Answer:
    """What was written."""

    session: Session
    completion: Completion
    seconds: float  # wall clock, the reading of the prompt included
    interrupted: bool  # Ctrl-C ended it


def answer(
    engine: Engine,
    request: Request,
    show: Show | None = None,
    resume: Session | None = None,
    on_step: OnStep | None = None,
) -> Answer:
    """Decode one request. show: gets text that can no longer change, with its origin. on_step: gets
    every step."""

    def decode(tokens: list[int]) -> str:
        return str(engine.tokenizer.decode(tokens, skip_special_tokens=True))

    session = engine.add(request, resume=resume)
    text, interrupted, shown = OriginText(decode, request.limits.stop), False, 0
    start = perf_counter()

    def give() -> None:
        nonlocal shown
        new = session.output[shown : len(session.origin)]
        shown += len(new)
        if show is not None and (pieces := text.push(new, session.origin[shown - len(new) :])):
            show(pieces)

    try:
        while session.finish_reason is None:
            for stepped in engine.step():
                if on_step is not None:
                    on_step(*stepped)
            give()
    except KeyboardInterrupt:
        interrupted = True
        give()
    finally:
        engine.cancel(session)
    seconds = perf_counter() - start
    if show is not None and (rest := text.finish(session.text_end)):
        show(rest)
    completion = engine.completion(session)
    if interrupted:
        completion = replace(completion, finish_reason="cancelled")
    return Answer(session, completion, seconds, interrupted)
