"""A corpus on disk in which any run of last tokens is found at once: the datastore of `rest`.

The file holds the corpus and, for every token, the place after it, sorted by the text that leads up
to that place *read backwards*. All places after one run of tokens therefore stand together, and the
longest known tail of a context is found by one search that narrows token by token. (REST sorts the
text read forwards and searches anew for every length of the tail.)

File: magic, version, sha256 of the header, header (JSON), then two sections aligned to 64 bytes,
little-endian: `text`, tokens as u16 (u32 where 16 bits do not hold vocabulary and separator), and
`ends`, u32. 6 or 8 bytes a token. `text` begins with a separator, the id `vocab`, and one follows
every document. `foretoken.learn.rest` writes it; it is mapped, so that only what is read takes
memory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from foretoken.draft.mapped import Kind
from foretoken.errors import ArtifactError

ASSET = "rest.store"  # beside the model, taken up if no store is named
STORE = Kind("datastore", b"foretoken-rest\n\n", 1, "foretoken train rest")
SECTIONS = ("text", "ends")
_FORMAT: dict[int, Literal["H", "I"]] = {2: "H", 4: "I"}  # of memoryview


def element_types(vocab: int) -> dict[str, np.dtype[Any]]:
    """section -> element type; the separator is one more id than the vocabulary has."""
    return {"text": np.dtype("<u2" if vocab < 1 << 16 else "<u4"), "ends": np.dtype("<u4")}


class Tail(NamedTuple):
    """The last `length` tokens of a context: entries low to high - 1 are the places after them."""

    length: int
    low: int
    high: int


class RestStore:
    """Read-only; safe to share between sessions and threads.

    text: the corpus, read like a list of ints. separator: the id between documents; no token of a
    context equals it.
    """

    def __init__(self, path: Path, header: dict[str, Any], views: dict[str, memoryview]) -> None:
        self.path, self.header = path, header
        self.separator: int = header["vocab"]
        self.text: Sequence[int] = views["text"]
        self._ends: Sequence[int] = views["ends"]

    def __len__(self) -> int:
        """Tokens held."""
        return len(self._ends)

    @classmethod
    def open(
        cls, path: Path, tokenizer_hash: str | None = None, *, verify: bool = True
    ) -> RestStore:
        """Map the file; `verify` also reads all of it once and compares its checksum.

        Raises ArtifactError if it is missing, truncated, corrupt, of another version, or made for
        another tokenizer than `tokenizer_hash` (None: do not compare).
        """
        header, body = STORE.open(path, tokenizer_hash, verify=verify)
        return cls(path, header, _views(header, body))

    def tails(self, tokens: Sequence[int], longest: int) -> list[Tail]:
        """Every tail of `tokens` that occurs in the corpus, of 1 to `longest` tokens, the shortest
        first; the entries of a longer one lie within those of a shorter one."""
        text, ends = self.text, self._ends
        low, high = 0, len(ends)
        found: list[Tail] = []
        for length in range(1, min(longest, len(tokens)) + 1):
            token = tokens[-length]
            if token >= self.separator:  # the model's vocabulary may be padded
                break
            # all entries agree in the length - 1 tokens before, so the next one sorts them

            def before(end: int, length: int = length) -> int:
                return text[end - length]

            low = bisect_left(ends, token, low, high, key=before)
            high = bisect_right(ends, token, low, high, key=before)
            if low == high:
                break
            found.append(Tail(length, low, high))
        return found

    def places(self, tail: Tail, limit: int, within: Tail | None = None) -> list[int]:
        """Where `text` goes on after a tail, without the places of a longer one `within` it. At
        most `limit`, at even strides, since the first ones all come after much the same text."""
        low, gap, skip = tail.low, tail.high, 0
        if within is not None:
            gap, skip = within.low, within.high - within.low
        count = tail.high - low - skip
        taken = range(count) if count <= limit else (i * count // limit for i in range(limit))
        return [self._ends[at if at < gap else at + skip] for at in (low + i for i in taken)]


def open_beside(
    path: Path | None, folder: Path | None, vocab: int, tokenizer_hash: str, verify: bool
) -> RestStore | None:
    """The store at `path`; without one the model folder's own; None if that has none.

    Raises ArtifactError for a file that cannot be used with this model.
    """
    if path is None and folder is not None and (folder / ASSET).exists():
        path = folder / ASSET
    if path is None:
        return None
    store = RestStore.open(path, tokenizer_hash, verify=verify)
    if store.separator > vocab:
        raise ArtifactError(f"{path}: made for {store.separator} tokens, the model has {vocab}")
    return store


def _views(header: dict[str, Any], body: memoryview) -> dict[str, memoryview]:
    """Sections by name. The header is checksummed, so its layout is the writer's."""
    views: dict[str, memoryview] = {}
    for name, kind in element_types(header["vocab"]).items():
        offset, count = header["sections"][name]
        views[name] = body[offset : offset + count * kind.itemsize].cast(_FORMAT[kind.itemsize])
    return views
