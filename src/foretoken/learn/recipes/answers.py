"""A folder of answers that a target wrote: Parquet shards and a manifest.

`data/train-00000-of-00007.parquet` and so on, which `datasets.load_dataset(folder)` reads as it is;
columns: `id` (prompt # sample . row), `input_ids` (prompt and answer), `loss_mask` (true on tokens
that the target wrote, its end-of-turn among them, and nowhere else), `n_prompt` (tokens before the
first of these), `temperature` and `seed` (how they were drawn), `finish_reason` ("stop", "length",
"loop" where a loop was cut off, "given" for rows that came with an answer).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretoken.errors import ArtifactError, ConfigError, ForetokenError, first_line
from foretoken.learn.recipes.manifest import (
    NAME,
    Manifest,
    Shard,
    read_manifest,
    write_manifest,
)
from foretoken.learn.recipes.rows import Example

GIVEN = "given"


@dataclass(frozen=True)
class Row:
    """One row; see above."""

    id: str
    input_ids: Sequence[int]
    loss_mask: Sequence[bool]
    temperature: float
    seed: int
    finish_reason: str

    @property
    def n_prompt(self) -> int:
        """Tokens before the first that is learned."""
        return next(i for i, learned in enumerate(self.loss_mask) if learned)


@dataclass(frozen=True)
class Answers:
    """What a folder holds."""

    manifest: Manifest
    rows: list[Row]

    def examples(self) -> list[Example]:
        """For training."""
        return [
            Example(np.asarray(row.input_ids, np.int32), np.asarray(row.loss_mask, np.bool_))
            for row in self.rows
        ]


class AnswerFolder:
    """A folder that is being filled. Opening it takes up what an interrupted run left.

    manifest: of this run, without shards. Raises ConfigError if the folder holds another run's
    answers, or anything else; with `resume` off, another run's are replaced.
    """

    def __init__(self, path: Path, manifest: Manifest, resume: bool = True) -> None:
        self.path, self.manifest = path, manifest
        old = read_manifest(path) if (path / NAME).exists() else None
        if old is None and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError("out", str(path), "a new or empty folder")
        if old is not None and resume:
            manifest.check_same(old, path / NAME)
            kept = [shard for shard in old.shards if _intact(path, shard)]
            self.manifest = manifest.model_copy(update={"shards": tuple(kept)})
        elif old is not None:
            for shard in old.shards:
                (path / shard.file).unlink(missing_ok=True)

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be made, rising."""
        have = {shard.file for shard in self.manifest.shards}
        return [i for i in range(self.manifest.planned) if self._file(i) not in have]

    def write(self, index: int, rows: Sequence[Row], counts: Mapping[str, int]) -> None:
        """Add a shard: file first, then its line in the manifest. Raises ForetokenError if the
        disk does not take it; what was written before stays."""
        name = self._file(index)
        with self._room(name):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            digest = _write(self.path / name, rows)
            shard = Shard(file=name, rows=len(rows), sha256=digest, counts=dict(counts))
            self._add(shard)

    def take(self, folder: Path, shard: Shard) -> None:
        """Add a shard of another folder of the same run. Raises ArtifactError if it is damaged."""
        if not _intact(folder, shard):
            raise ArtifactError(f"{folder / shard.file}: damaged; make this part again")
        with self._room(shard.file):
            (self.path / shard.file).parent.mkdir(parents=True, exist_ok=True)
            temporary = (self.path / shard.file).with_suffix(".tmp")
            shutil.copyfile(folder / shard.file, temporary)
            temporary.replace(self.path / shard.file)
            self._add(shard)

    def _add(self, shard: Shard) -> None:
        grown = self.manifest.with_shard(shard)
        write_manifest(self.path, grown)
        self.manifest = grown

    @contextmanager
    def _room(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or first_line(error)
            raise ForetokenError(
                f"{self.path / name}: cannot be written ({why}); {len(self.manifest.shards)} of "
                f"{self.manifest.planned} shards are kept, and the same command goes on"
            ) from None

    def _file(self, index: int) -> str:
        return f"data/train-{index:05d}-of-{self.manifest.planned:05d}.parquet"


def read_answers(folder: Path, tokenizer_hash: str = "", vocab: int | None = None) -> Answers:
    """Everything in a folder, checked: checksums, token ids, that something is to be learned.

    tokenizer_hash, vocab: of the model that will read it, where they are known. Raises
    ArtifactError (one line) for a folder that is unfinished, damaged, in another model's tokens,
    or without a single answer.
    """
    manifest = read_manifest(folder)
    manifest.check_model(folder, tokenizer_hash, vocab)
    if not manifest.complete:
        raise ArtifactError(
            f"{folder}: unfinished, {len(manifest.shards)} of {manifest.planned} shards; the same "
            "`train draft data` command goes on"
        )
    rows = [row for shard in manifest.shards for row in _read(folder, shard)]
    if not rows:
        raise ArtifactError(f"{folder}: there is no answer in it ({manifest.counts})")
    for row in rows:
        ids, mask = np.asarray(row.input_ids), np.asarray(row.loss_mask)
        if len(ids) != len(mask) or not mask.any():
            raise ArtifactError(f"{folder}: row {row.id!r} has no answer that could be learned")
        if ids.min() < 0 or ids.max() >= manifest.vocab:
            raise ArtifactError(
                f"{folder}: row {row.id!r} holds a token outside the vocabulary of {manifest.vocab}"
            )
    return Answers(manifest, rows)


def read_examples(
    folder: Path, tokenizer_hash: str = "", vocab: int | None = None
) -> list[Example]:
    """The examples of `read_answers`."""
    return read_answers(folder, tokenizer_hash, vocab).examples()


def _intact(folder: Path, shard: Shard) -> bool:
    try:
        return hashlib.sha256((folder / shard.file).read_bytes()).hexdigest() == shard.sha256
    except OSError:
        return False


def _write(path: Path, rows: Sequence[Row]) -> str:
    """Write beside, then rename; sha256 of the file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        _parquet().write_table(_table(rows), name, compression="zstd")
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return digest


def _table(rows: Sequence[Row]) -> Any:
    import pyarrow as pa

    columns = {
        "id": pa.string(), "input_ids": pa.list_(pa.int32()), "loss_mask": pa.list_(pa.bool_()),
        "n_prompt": pa.int32(), "temperature": pa.float64(), "seed": pa.int64(),
        "finish_reason": pa.string(),
    }  # fmt: skip
    arrays = [
        pa.array([getattr(row, name) for row in rows], kind) for name, kind in columns.items()
    ]
    return pa.table(arrays, schema=pa.schema(columns.items()))


def _read(folder: Path, shard: Shard) -> list[Row]:
    path = folder / shard.file
    if not _intact(folder, shard):
        raise ArtifactError(f"{path}: missing or damaged; the same `train draft data` mends it")
    table = _parquet().read_table(path)
    ids, masks = (_split(table[name]) for name in ("input_ids", "loss_mask"))
    plain = [table[name].to_pylist() for name in ("id", "temperature", "seed", "finish_reason")]
    return [
        Row(name, tokens, mask, temperature, seed, reason)
        for name, tokens, mask, temperature, seed, reason in zip(
            plain[0], ids, masks, *plain[1:], strict=True
        )
    ]


def _split(column: Any) -> list[Any]:
    """A column of lists as numpy arrays, which share one memory."""
    lists = column.combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    ends = np.cumsum(lists.value_lengths().to_numpy())
    return np.split(flat, ends[:-1]) if len(ends) else []


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ForetokenError(
            "answers are kept as Parquet: pip install 'foretoken[train]'"
        ) from None
    return parquet
