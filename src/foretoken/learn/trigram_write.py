"""Rows out of merged counts, and the table file out of rows. Used by `foretoken.learn.trigram`."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from foretoken.draft.mapped import ALIGN
from foretoken.draft.trigram_table import TABLE, sections
from foretoken.errors import ConfigError, ForetokenError

Array = np.ndarray[Any, np.dtype[Any]]
_CLIP = 1 << 12  # counts above are alike when min_count is chosen
_COPY = 1 << 22  # bytes


class RowWriter:
    """Prunes rows and appends them to one file per section; knows what a higher min_count saves.

    Weights are count / row total before pruning, so that they stay honest probabilities.
    """

    def __init__(self, folder: Path, vocab: int, bits: int, successors: int) -> None:
        self.folder, self.vocab, self.bits, self.successors = folder, vocab, bits, successors
        self.types = sections(vocab)
        self.pairs = self.distinct = 0
        self.entries = {"tri": 0, "bi": 0}
        self._pairs_of = np.zeros(vocab, np.int64)  # [V] stored rows per first token
        self._bi_length = np.zeros(vocab, np.int64)  # [V]
        self._bi_total = np.zeros(vocab, np.uint8)  # [V]
        self._entry_counts = np.zeros(_CLIP + 1, np.int64)  # [count]: stored tri-grams
        self._row_counts = np.zeros(_CLIP + 1, np.int64)  # [count of the heaviest]: stored rows
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> RowWriter:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._files = {name: (self.folder / name).open("wb") for name in self.types}
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                self._append("tri_start", np.array([self.entries["tri"]]))
                self._append("tri_first", np.append(0, np.cumsum(self._pairs_of)))
                self._append("bi_start", np.append(0, np.cumsum(self._bi_length)))
                self._append("bi_total", self._bi_total)
        finally:
            for file in self._files.values():
                file.close()

    def trigrams(self, keys: Array, counts: Array, min_count: int) -> None:
        """Append the rows of sorted distinct tri-grams; called with whole rows, in order."""
        if not len(keys):
            return
        self.distinct += len(keys)
        prefixes, totals, lengths, kept = self._prune(keys, counts, min_count)
        starts = self.entries["tri"] + np.cumsum(lengths) - lengths
        self._store("tri", keys, counts, kept, np.repeat(totals, lengths))
        self._append("tri_start", starts)
        self._append("tri_second", prefixes & np.uint64((1 << self.bits) - 1))
        self._append("tri_total", _codes(totals))
        firsts = (prefixes >> np.uint64(self.bits)).astype(np.int64)
        self._pairs_of += np.bincount(firsts, minlength=self.vocab)
        self.pairs += len(prefixes)
        clipped = np.minimum(counts[kept], _CLIP)
        self._entry_counts += np.bincount(clipped, minlength=_CLIP + 1)
        if len(lengths):  # the heaviest comes first in its row
            heads = clipped[np.cumsum(lengths) - lengths]
            self._row_counts += np.bincount(heads, minlength=_CLIP + 1)

    def bigrams(self, keys: Array, counts: Array) -> None:
        """Append the back-off rows of sorted distinct bi-grams; whole rows, in order."""
        if not len(keys):
            return
        prefixes, totals, lengths, kept = self._prune(keys, counts, 1)
        self._store("bi", keys, counts, kept, np.repeat(totals, lengths))
        at = prefixes.astype(np.int64)
        self._bi_length[at] = lengths
        self._bi_total[at] = _codes(totals)

    def size(self, min_count: int) -> int:
        """Bytes of the sections if tri-grams below `min_count` went too."""
        at = min(min_count, _CLIP)
        entries, rows = int(self._entry_counts[at:].sum()), int(self._row_counts[at:].sum())
        token = self.types["tri_token"].itemsize
        fixed = 9 * self.vocab + 12 + ALIGN * (len(self.types) + 16)
        return fixed + (token + 2) * (entries + self.entries["bi"]) + (token + 5) * rows

    def smallest_min_count(self, max_bytes: int) -> int:
        """The least min_count that fits; ConfigError if none does."""
        for count in range(1, _CLIP + 1):
            if self.size(count) <= max_bytes:
                return count
        least = f"at least {self.size(_CLIP)} for this vocabulary"
        raise ConfigError("max_bytes", max_bytes, least)

    def _prune(
        self, keys: Array, counts: Array, min_count: int
    ) -> tuple[Array, Array, Array, Array]:
        """prefixes [rows], totals [rows], lengths [rows], kept [entries] (heaviest first)."""
        prefix = keys >> np.uint64(self.bits)
        start = np.flatnonzero(np.concatenate(([True], prefix[1:] != prefix[:-1])))
        total = np.add.reduceat(counts, start)
        length = np.diff(start, append=len(keys))
        order = np.arange(len(keys))
        many = np.flatnonzero(np.repeat(length > 1, length))  # rows of one are in order
        row = np.repeat(np.arange(len(start)), length)
        # (row, heaviest first); the stable sort leaves ties in order of token id
        sort_key = (row[many].astype(np.uint64) << np.uint64(32)) | (
            np.uint64(0xFFFFFFFF) - np.minimum(counts[many], 0xFFFFFFFF).astype(np.uint64)
        )
        order[many] = many[np.argsort(sort_key, kind="stable")]
        place = np.arange(len(keys)) - np.repeat(start, length)
        keep = (place < self.successors) & (counts[order] >= min_count)
        new_length = np.add.reduceat(keep.astype(np.int64), start)
        alive = new_length > 0
        return prefix[start][alive], total[alive], new_length[alive], order[keep]

    def _store(self, kind: str, keys: Array, counts: Array, kept: Array, totals: Array) -> None:
        self._append(kind + "_token", keys[kept] & np.uint64((1 << self.bits) - 1))
        weights = (counts[kept] / totals).astype("<f2")
        self._append(kind + "_weight", weights.view("<u2"))
        self.entries[kind] += len(kept)
        if self.entries[kind] >= 1 << 32:
            raise ForetokenError("more than 4294967295 tri-grams to store; raise --min-count")

    def _append(self, section: str, values: Array) -> None:
        self._files[section].write(values.astype(self.types[section]).tobytes())


def assemble(out: Path, header: dict[str, Any], writer: RowWriter) -> int:
    """Join header and sections to `out` in one move; returns its bytes.

    On any error the file that was there stays, and no half-written one is left.
    """
    layout: dict[str, tuple[int, int]] = {}
    digest, end = hashlib.sha256(), 0
    for name, kind in writer.types.items():
        path = writer.folder / name
        layout[name] = (end, path.stat().st_size // kind.itemsize)
        size = 0
        for block in _blocks(path):
            digest.update(block)
            size += len(block)
        end += size
    header = {**header, "sections": layout, "bytes": end, "sha256": digest.hexdigest()}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(TABLE.encode_header(header))
            for name in writer.types:
                for block in _blocks(writer.folder / name):
                    file.write(block)
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return out.stat().st_size


def _blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes in blocks, zero-padded to the alignment."""
    with path.open("rb") as file:
        while block := file.read(_COPY):
            yield block + b"\0" * (-len(block) % ALIGN)


def _codes(totals: Array) -> Array:
    codes: Array = np.clip(np.rint(8 * np.log2(np.maximum(totals, 1))), 0, 255)
    return codes
