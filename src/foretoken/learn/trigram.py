"""Count tri-grams and bi-grams of token documents, streaming and resumable, into a table file.

Memory is bounded: tokens are counted in chunks, each chunk leaves a *run* (sorted keys, counts) in
a work folder, and `finish` merges the runs range by range. A run is finished or absent, so that a
build goes on after the last finished chunk. Counts add up in any order, hence a resumed build
gives the same file, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretoken.draft.trigram_table import TABLE
from foretoken.errors import ConfigError, ForetokenError
from foretoken.learn.trigram_write import RowWriter, assemble

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Counts = np.ndarray[Any, np.dtype[np.int64]]
Tokens = np.ndarray[Any, np.dtype[Any]]

CHUNK = 1 << 22  # tokens counted at a time: 32 MiB of keys, 160 MiB while they are sorted
_MERGE_ROWS = 1 << 22  # run entries merged at a time
_KINDS = {"bi": 2, "tri": 3}


@dataclass(frozen=True)
class Report:
    """What a build made."""

    tokens: int
    documents: int
    trigrams: int  # stored
    pairs: int  # stored rows
    distinct: int  # tri-grams seen, before pruning
    bytes: int
    min_count: int  # in force, raised where `max_bytes` asked for it


class TrigramBuilder:
    """Counts documents into runs under `work`, then writes the table.

    fingerprint: says what is being counted; a work folder of another one is not taken up.
    `documents` and `tokens` say how far the finished runs reach: after opening, the caller goes on
    with document number `documents`.
    """

    def __init__(
        self,
        work: Path,
        vocab: int,
        fingerprint: str = "",
        *,
        resume: bool = True,
        chunk: int = CHUNK,
    ) -> None:
        if not 1 <= vocab <= 1 << 21:
            raise ConfigError("vocab", vocab, "1 to 2097152 tokens")
        self.work, self.vocab, self.chunk = work, vocab, chunk
        self.bits = max(1, (vocab - 1).bit_length())
        self.fingerprint = hashlib.sha256(
            f"{TABLE.version} {vocab} {fingerprint}".encode()
        ).hexdigest()
        self.documents = self.tokens = self.runs = 0
        self._pending: list[Tokens] = []
        self._pending_tokens = 0
        if not (resume and self._take_up()):
            shutil.rmtree(work, ignore_errors=True)
        with full_disk(work):
            work.mkdir(parents=True, exist_ok=True)

    @property
    def resumed(self) -> bool:
        """Whether finished runs of an earlier call were taken up."""
        return self.runs > 0

    def add(self, tokens: Tokens) -> None:
        """Count one document. Raises ConfigError if a token is outside the vocabulary."""
        low, high = (int(tokens.min()), int(tokens.max())) if len(tokens) else (0, 0)
        if low < 0 or high >= self.vocab:
            bad = low if low < 0 else high
            raise ConfigError("tokens", bad, f"ids below the vocabulary's size, {self.vocab}")
        self._pending.append(tokens)
        self._pending_tokens += len(tokens)
        if self._pending_tokens >= self.chunk:
            self.flush()

    def flush(self) -> None:
        """Finish the current chunk: from here on it survives an interrupt."""
        if not self._pending:
            return
        run = self.work / f"run-{self.runs:05d}"
        draft = run.with_suffix(".part")
        with full_disk(self.work):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            for kind, n in _KINDS.items():
                keys, counts = count_ngrams(self._pending, n, self.bits)
                np.save(draft / f"{kind}-keys.npy", keys)
                np.save(draft / f"{kind}-counts.npy", counts)
            draft.rename(run)
            self.runs += 1
            self.documents += len(self._pending)
            self.tokens += self._pending_tokens
            self._note()
        self._pending, self._pending_tokens = [], 0

    def finish(
        self,
        out: Path,
        tokenizer_hash: str,
        *,
        successors: int = 12,
        min_count: int = 1,
        max_bytes: int | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Report:
        """Merge the runs and put the table at `out` in one move; the work folder goes.

        min_count: tri-grams seen less often are left out. max_bytes: raises min_count as far as it
        must. Raises ConfigError if nothing was counted or no table is that small, ForetokenError
        if the disk is full (`out` is then what it was before).
        """
        self.flush()
        if not self.runs:
            raise ConfigError("data", "no tokens", "at least one document of three tokens")
        with full_disk(out):
            writer = self._rows(successors, min_count)
            if max_bytes is not None and writer.size(min_count) > max_bytes:
                min_count = writer.smallest_min_count(max_bytes)
                writer = self._rows(successors, min_count)
            header = {
                "tokenizer_hash": tokenizer_hash,
                "vocab": self.vocab,
                "successors": successors,
                "min_count": min_count,
                "tokens": self.tokens,
                "documents": self.documents,
                "distinct": writer.distinct,
                "meta": meta or {},
            }
            size = assemble(out, header, writer)
        shutil.rmtree(self.work, ignore_errors=True)
        return Report(
            self.tokens,
            self.documents,
            writer.entries["tri"],
            writer.pairs,
            writer.distinct,
            size,
            min_count,
        )

    def _rows(self, successors: int, min_count: int) -> RowWriter:
        writer = RowWriter(self.work / "sections", self.vocab, self.bits, successors)
        with writer:
            for keys, counts in self._merged("tri"):
                writer.trigrams(keys, counts, min_count)
            for keys, counts in self._merged("bi"):
                writer.bigrams(keys, counts)
        return writer

    def _merged(self, kind: str) -> Iterator[tuple[Keys, Counts]]:
        """Sorted distinct keys and their counts, in ranges that never split a row."""
        runs = [
            tuple(
                np.load(self.work / f"run-{i:05d}" / f"{kind}-{part}.npy", mmap_mode="r")
                for part in ("keys", "counts")
            )
            for i in range(self.runs)
        ]
        cuts = _cuts([keys for keys, _ in runs], self.bits)
        low = [0] * len(runs)
        for cut in cuts:
            high = [
                len(keys) if cut is None else int(np.searchsorted(keys, cut)) for keys, _ in runs
            ]
            spans = list(zip(runs, low, high, strict=True))
            yield _add_up(
                np.concatenate([keys[a:b] for (keys, _), a, b in spans]),
                np.concatenate([counts[a:b] for (_, counts), a, b in spans]),
            )
            low = high

    def _note(self) -> None:
        state = {key: getattr(self, key) for key in ("fingerprint", "documents", "tokens", "runs")}
        draft = self.work / "state.part"
        draft.write_text(json.dumps(state))
        draft.replace(self.work / "state.json")

    def _take_up(self) -> bool:
        """Go on with the finished runs of an earlier build of the same thing."""
        try:
            state = json.loads((self.work / "state.json").read_text())
        except (OSError, ValueError):
            return False
        if state.get("fingerprint") != self.fingerprint:
            return False
        self.documents, self.tokens, self.runs = (
            state["documents"],
            state["tokens"],
            state["runs"],
        )
        # A run that was renamed before its note was written is counted again.
        shutil.rmtree(self.work / f"run-{self.runs:05d}", ignore_errors=True)
        return True


def count_ngrams(documents: list[Tokens], n: int, bits: int) -> tuple[Keys, Counts]:
    """Sorted distinct n-grams, packed with `bits` per token, and how often each occurs.

    N-grams do not cross documents.
    """
    long = [d.astype(np.uint64) for d in documents if len(d) >= n]
    if not long:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    flat = np.concatenate(long)
    keys = flat[: len(flat) - n + 1].copy()
    for i in range(1, n):
        keys <<= np.uint64(bits)
        keys |= flat[i : len(flat) - n + 1 + i]
    if len(long) > 1:
        ends = np.cumsum([len(d) for d in long])[:-1]
        crossing = (ends[:, None] - np.arange(1, n)).ravel()
        keys = np.delete(keys, crossing[crossing < len(keys)])
    keys.sort()
    first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[first], np.diff(first, append=len(keys))


def _add_up(keys: Keys, counts: Counts) -> tuple[Keys, Counts]:
    order = np.argsort(keys, kind="stable")  # sorted runs one after the other: a merge
    keys, counts = keys[order], counts[order]
    if not len(keys):
        return keys, counts
    first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[first], np.add.reduceat(counts, first)


def _cuts(runs: list[Keys], bits: int) -> list[np.uint64 | None]:
    """Row starts that divide all runs into ranges of about _MERGE_ROWS entries; None is the end."""
    stride = max(1, _MERGE_ROWS // 256)
    sample = np.sort(np.concatenate([keys[::stride] for keys in runs]))
    marks = np.unique(sample[256::256] >> np.uint64(bits) << np.uint64(bits))
    return [*marks, None]


class full_disk:  # noqa: N801  a context manager, used like a function
    """Turn "no space left" (and quotas, and read-only folders) into one clear line."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise ForetokenError(f"{self.where}: {reason}; nothing there was changed") from error
