"""Build the datastore of the drafter `rest`: a corpus, sorted by the text before each place.

The sorting is libdivsufsort's (through pydivsufsort), on the corpus read backwards; the format is
`foretoken.draft.rest_store`'s. Everything happens in memory: some 25 bytes a token at the peak with
ids of 16 bits, 50 with wider ones, because the library sorts bytes. The same documents give the
same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretoken.draft.mapped import ALIGN
from foretoken.draft.rest_store import SECTIONS, STORE, element_types
from foretoken.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]
MOST = (1 << 32) - 1  # tokens and separators that the places, u32, can tell apart


@dataclass(frozen=True)
class Report:
    """What a build made."""

    tokens: int  # without separators
    documents: int
    bytes: int  # of the file


def build_store(
    out: Path,
    documents: Iterable[Array],
    vocab: int,
    tokenizer_hash: str,
    meta: Mapping[str, Any] | None = None,
) -> Report:
    """Write the datastore of some documents (token ids, [n] each) to `out` in one move.

    meta: kept in the header (JSON-ready). Raises ConfigError for a token outside the vocabulary,
    no token at all, too many, or where pydivsufsort is missing. On any error the file that was
    there stays.
    """
    text, count = join(documents, vocab)
    sections = {"text": text, "ends": places(text, vocab)}
    body, layout, size = [], {}, 0
    digest = hashlib.sha256()
    for name in SECTIONS:
        raw = sections[name].astype(element_types(vocab)[name], copy=False).tobytes()
        layout[name] = (size, len(sections[name]))
        body.append(raw + b"\0" * (-len(raw) % ALIGN))
        size += len(body[-1])
        digest.update(body[-1])
    tokens = len(sections["ends"])
    header = {
        "vocab": vocab,
        "tokenizer_hash": tokenizer_hash,
        "tokens": tokens,
        "documents": count,
        "sections": layout,
        "bytes": size,
        "sha256": digest.hexdigest(),
        "meta": dict(meta or {}),
    }
    return Report(tokens, count, _write(out, [STORE.encode_header(header), *body]))


def join(documents: Iterable[Array], vocab: int) -> tuple[Array, int]:
    """(separator, document, separator, document ... separator; how many documents). Empty documents
    are left out."""
    kind, separator = element_types(vocab)["text"], np.array([vocab])
    parts, size = [separator.astype(kind)], 1
    for tokens in documents:
        if not len(tokens):
            continue
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= vocab:
            bad = low if low < 0 else high
            raise ConfigError("tokens", bad, f"ids below the vocabulary's size, {vocab}")
        parts.append(np.concatenate((tokens, separator)).astype(kind))
        size += len(parts[-1])
        if size > MOST:
            raise ConfigError("data", f"more than {MOST} tokens", "less text in one datastore")
    if size == 1:
        raise ConfigError("data", "no tokens", "text with at least one token")
    return np.concatenate(parts), len(parts) - 1


def places(text: Array, separator: int) -> Array:
    """Places in `text` that follow a token and no separator, sorted by the text before them read
    backwards. text begins and ends with the separator, its largest id."""
    try:
        from pydivsufsort import divsufsort
    except ImportError:
        raise ConfigError(
            "train rest", "pydivsufsort is missing", 'pip install "foretoken[retrieval]"'
        ) from None
    backwards = np.ascontiguousarray(text[::-1])
    order = np.asarray(divsufsort(backwards))
    # the separator is the largest id, so what begins with one (backwards) stands last
    order = order[: len(order) - np.count_nonzero(text == separator)]
    return len(text) - order


def _write(out: Path, parts: list[bytes]) -> int:
    """Bytes written. The name appears when the file is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(out)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return out.stat().st_size
