"""Prompts in, a folder of the target's own answers out: shard by shard, to be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foretoken.bench.machine import model_name
from foretoken.engine.engine import Engine
from foretoken.errors import INTERRUPTED, ConfigError, ForetokenError
from foretoken.learn.recipes.answering import Answering, Settings
from foretoken.learn.recipes.answers import AnswerFolder
from foretoken.learn.recipes.manifest import Manifest, read_manifest, versions
from foretoken.learn.recipes.talks import Asked


class StoppedError(ForetokenError):
    """Ctrl-C ended it between two shards; those that were finished are kept."""

    exit_code = INTERRUPTED


def write_data(  # noqa: PLR0913
    engine: Engine,
    asked: Asked,
    settings: Settings,
    out: Path,
    *,
    command: str = "",
    part: tuple[int, int] = (0, 1),
    resume: bool = True,
    watch: Callable[[int, int, int], None] = lambda *_: None,
) -> Manifest:
    """Answer everything, and return the manifest of the folder.

    part: (k, n) makes shards k, k + n, ... only, so that n processes or machines share the work,
    each with a folder of its own; `merge` puts them together.
    watch: called with (answered turns, tokens of them, prompts of finished shards) as it goes.
    Raises ConfigError for a folder of another run, StoppedError on Ctrl-C, ForetokenError if the
    disk is full or no prompt got an answer.
    """
    size = settings.shard
    chunks = [asked.talks[i : i + size] for i in range(0, len(asked.talks), size)]
    folder = AnswerFolder(out, _manifest(engine, asked, settings, len(chunks), command), resume)
    answering = Answering(engine, settings)
    missing = [index for index in folder.missing() if index % part[1] == part[0]]
    mine = range(part[0], len(chunks), part[1])
    done = sum(len(chunks[i]) for i in mine) - sum(len(chunks[i]) for i in missing)
    turns = tokens = 0

    def on_answer(written: int) -> None:
        nonlocal turns, tokens
        turns, tokens = turns + 1, tokens + written
        watch(turns, tokens, done)

    watch(0, 0, done)
    for index in missing:
        with _stopping(folder):
            rows, counts = answering.write(chunks[index], on_answer)
            folder.write(index, rows, counts)
        done += len(chunks[index])
        watch(turns, tokens, done)
    made = folder.manifest
    if mine and not sum(shard.rows for shard in made.shards):
        raise ForetokenError(
            f"{out}: no prompt got an answer that could be learned ({_told(made)})"
        )
    return made


def merge(folders: Sequence[Path], out: Path) -> Manifest:
    """One folder of what `part`s of one run made: the same, bit for bit, as if one process had
    made it all. Raises ConfigError for parts of different runs, or if some are missing or an `out`
    that is not empty; ArtifactError for a damaged file."""
    manifests = [read_manifest(folder) for folder in folders]
    first = manifests[0].model_copy(update={"shards": ()})
    for folder, found in zip(folders, manifests, strict=True):
        first.check_same(found, folder)
    found_in = {
        shard.file: (folder, shard)
        for folder, manifest in zip(folders, manifests, strict=True)
        for shard in manifest.shards
    }
    if len(found_in) < first.planned:
        accepted = f"folders with all {first.planned} shards of the run; these have {len(found_in)}"
        raise ConfigError("merge", ", ".join(f.name for f in folders), accepted)
    made = AnswerFolder(out, first, resume=False)
    for folder, shard in found_in.values():
        made.take(folder, shard)
    return made.manifest


def _manifest(
    engine: Engine, asked: Asked, settings: Settings, planned: int, command: str
) -> Manifest:
    if engine.tokenizer is None:
        raise ConfigError("tokenizer", None, "a model with a tokenizer")
    target = engine.target
    how: Mapping[str, Any] = {
        "dtype": str(getattr(target, "dtype", "")).removeprefix("torch."),
        "exact": getattr(target, "exact", "default"),
    }
    return Manifest(
        model=model_name(target),
        tokenizer_hash=engine.context.tokenizer_hash,
        vocab=target.vocab,
        eos=target.eos,
        command=command,
        settings={**settings.model_dump(mode="json"), **how},
        sources=tuple(asdict(source) for source in asked.sources),
        prompts={"read": asked.read, "repeated": asked.repeated, "used": len(asked.talks)},
        prompts_sha256=asked.sha256,
        planned=planned,
        versions=versions(),
    )


@contextmanager
def _stopping(folder: AnswerFolder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        made, planned = len(folder.manifest.shards), folder.manifest.planned
        raise StoppedError(
            f"stopped with {made} of {planned} shards; the same command goes on"
        ) from None


def _told(made: Manifest) -> str:
    return ", ".join(f"{n} {what}" for what, n in made.counts.items() if n) or "nothing was asked"
