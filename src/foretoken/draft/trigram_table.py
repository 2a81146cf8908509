"""Tri-gram rows at run time: a read-only, memory-mapped base.

A row is the successors of a token pair, likeliest first, with honest probabilities: a base row was
pruned *after* division by its total, so it may sum to less than 1.

File: magic, version, sha256 of the header, header (JSON), then sections aligned to 64 bytes, all
little-endian. Two-level CSR: `tri_first[a]` points into the sorted second tokens `tri_second`, and
`tri_start` from there into successors. `bi_*` are the back-off rows of single tokens. A total is
kept as round(8 log2 total) in one byte, enough to say how far a row may be trusted.
`foretoken.learn.trigram` writes it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foretoken.draft.mapped import Kind
from foretoken.errors import ArtifactError

Row = tuple[Sequence[int], Sequence[float]]  # successors and probabilities, likeliest first
NO_ROW: Row = ((), ())

TABLE = Kind("tri-gram table", b"foretoken-3gram\n", 1, "foretoken train aded")
WEIGHT_BITS = np.dtype("<u2")  # float16 bit patterns
_CACHED_ROWS = 1 << 16
_FORMAT: dict[int, Literal["B", "H", "I"]] = {1: "B", 2: "H", 4: "I"}  # of memoryview

# float16 bit patterns of 0.0 .. 1.0 are 0 .. 0x3C00: decoding is one look-up
_WEIGHT: list[float] = np.arange(0x3C01, dtype=np.uint16).view(np.float16).astype(float).tolist()
_TOTAL: list[float] = [2.0 ** (code / 8) for code in range(256)]


def token_type(vocab: int) -> np.dtype[Any]:
    """The type that token ids are stored in."""
    return np.dtype("<u2") if vocab <= 1 << 16 else np.dtype("<u4")


def sections(vocab: int) -> dict[str, np.dtype[Any]]:
    """name -> element type, in file order."""
    token, offset, code = token_type(vocab), np.dtype("<u4"), np.dtype("u1")
    return {
        "tri_first": offset,  # [V+1]
        "tri_start": offset,  # [pairs+1]
        "tri_second": token,  # [pairs]
        "tri_total": code,  # [pairs]
        "tri_token": token,  # [tri-grams]
        "tri_weight": WEIGHT_BITS,  # [tri-grams]
        "bi_start": offset,  # [V+1]
        "bi_total": code,  # [V]
        "bi_token": token,  # [bi-grams]
        "bi_weight": WEIGHT_BITS,  # [bi-grams]
    }


def rank(weights: dict[int, float], limit: int) -> Row:
    """The `limit` heaviest entries, ties by token id."""
    get = weights.__getitem__
    # two sorts of plain numbers, the second one stable, beat one of tuples by a factor of three
    best = sorted(sorted(weights), key=get, reverse=True)[:limit]
    return best, list(map(get, best))


def normalise(row: Row) -> Row:
    """The row with probabilities that sum to at most 1."""
    total = sum(row[1])
    return (row[0], [w / total for w in row[1]]) if total > 1.0 else row


def blend(old: Row, new: Row, share: float, limit: int) -> Row:
    """(1 - share) old + share new, the `limit` heaviest entries."""
    keep = 1.0 - share
    weights = dict(zip(old[0], [keep * w for w in old[1]], strict=True))
    for token, weight in zip(new[0], new[1], strict=True):
        if token in weights:
            weights[token] += share * weight
        else:
            weights[token] = share * weight
    return rank(weights, limit)


class TrigramTable:
    """The read-only base. `open` maps the file, so that loading costs nothing per tri-gram.

    trust: pseudo-count k of the shrinkage towards the back-off row; a row with total n is read as
    (n * w + k * bigram) / (n + k), because a pair seen once says little.
    """

    def __init__(self, path: Path, header: dict[str, Any], views: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.vocab: int = header["vocab"]
        self.tokenizer_hash: str = header["tokenizer_hash"]
        self.trust = 0.0
        self._view = views
        self._first, self._second = views["tri_first"], views["tri_second"]
        self._cache: dict[int, Row] = {}

    @classmethod
    def open(
        cls, path: Path, tokenizer_hash: str | None = None, *, verify: bool = False
    ) -> TrigramTable:
        """Map the file; `verify` also reads all of it and compares its checksum.

        Raises ArtifactError if it is missing, truncated, corrupt, of another version, or made for
        another tokenizer than `tokenizer_hash` (None: do not compare).
        """
        header, body = TABLE.open(path, tokenizer_hash, verify=verify)
        return cls(path, header, _views(path, header, body))

    @property
    def trigrams(self) -> int:
        """Stored tri-grams."""
        return len(self._view["tri_token"])

    def trigram(self, a: int, b: int) -> tuple[Row, float]:
        """Successors of the pair as stored, and the row's total (within 4.4 %); (NO_ROW, 0.0)."""
        if not (0 <= a < self.vocab and 0 <= b < self.vocab):
            return NO_ROW, 0.0
        low, high = self._first[a], self._first[a + 1]
        at = bisect_left(self._second, b, low, high)
        if at == high or self._second[at] != b:
            return NO_ROW, 0.0
        return self._slice("tri", at)

    def bigram(self, b: int) -> tuple[Row, float]:
        """Successors of one token and their total; (NO_ROW, 0.0) if it was never followed."""
        return self._slice("bi", b) if 0 <= b < self.vocab else (NO_ROW, 0.0)

    def row(self, a: int, b: int) -> Row:
        """The pair's row shrunk towards the back-off row; NO_ROW for a pair never seen.

        a = -1 asks for the back-off row itself. Cached; the caller must not change it.
        """
        if a >= self.vocab or b >= self.vocab:  # the model's vocabulary may be padded
            return NO_ROW
        key = (a + 1) * self.vocab + b
        row = self._cache.get(key)
        if row is None:
            if len(self._cache) >= _CACHED_ROWS:
                self._cache.clear()
            row = self._cache[key] = self.bigram(b)[0] if a < 0 else self._shrunk(a, b)
        return row

    def _shrunk(self, a: int, b: int) -> Row:
        row, total = self.trigram(a, b)
        if not row[0] or not self.trust:
            return row
        own = total / (total + self.trust)
        return blend(self.bigram(b)[0], row, own, limit=2 * len(row[0]) + 4)

    def _slice(self, kind: str, at: int) -> tuple[Row, float]:
        view = self._view
        start = view[kind + "_start"]
        low, high = start[at], start[at + 1]
        if low == high:
            return NO_ROW, 0.0
        probs = [_WEIGHT[w] for w in view[kind + "_weight"][low:high]]
        return (view[kind + "_token"][low:high].tolist(), probs), _TOTAL[view[kind + "_total"][at]]


def _views(path: Path, header: dict[str, Any], body: memoryview) -> dict[str, Any]:
    views: dict[str, Any] = {}
    for name, kind in sections(header["vocab"]).items():
        offset, count = header["sections"][name]
        view = body[offset : offset + count * kind.itemsize]
        if len(view) != count * kind.itemsize:
            raise ArtifactError(f"{path}: section {name} is truncated")
        views[name] = view.cast(_FORMAT[kind.itemsize])
    for kind_name, start in (("tri", views["tri_start"]), ("bi", views["bi_start"])):
        if start[-1] != len(views[kind_name + "_token"]):
            raise ArtifactError(f"{path}: the sections of the {kind_name}-grams disagree")
    return views
