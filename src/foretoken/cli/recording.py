"""--trace FILE: a record of what the model writes, for `foretoken tune` and replays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foretoken.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from foretoken.engine.engine import Engine
    from foretoken.learn.recorder import Recorder
    from foretoken.learn.trace import Trace

TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Add a record of this to the file, for replays. It holds the whole text, prompts "
        "included, as token ids, and what the model thought of each token.",
        show_default="off",
    ),
]


def recorded(path: Path | None) -> Trace | None:
    """What the file holds already. Raises ConfigError or ArtifactError before any work for a file
    that cannot be added to."""
    from foretoken.learn.trace import Trace

    if path is None:
        return None
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError("trace", str(path), "a file in a folder that can be written to")
    return Trace.load(path) if path.exists() else None


@contextmanager
def recording(
    engine: Engine, path: Path | None, earlier: Trace | None = None
) -> Iterator[Recorder | None]:
    """A recorder whose trace is added to the file at the end, whatever ended it; None without a
    path. Raises ArtifactError if the file is of another model or tokenizer."""
    if path is None:
        yield None
        return
    from foretoken.learn.recorder import Recorder

    recorder = Recorder(
        engine.target, engine.context.tokenizer_hash, curve=engine.method.policy.curve
    )
    if earlier is not None:
        _check_same(path, earlier, recorder.trace())
    try:
        yield recorder
    finally:
        made = recorder.trace()
        if earlier is not None:
            both = [*earlier.requests, *made.requests]
            made = replace(made, requests=both, curve=made.curve or earlier.curve)
        if made.requests:
            made.save(path)


def _check_same(path: Path, earlier: Trace, new: Trace) -> None:
    for what in ("tokenizer_hash", "model", "vocab", "dtype"):
        old, now = getattr(earlier, what), getattr(new, what)
        if old != now:
            raise ArtifactError(f"{path}: recorded with {what} {old!r}, this model has {now!r}")
