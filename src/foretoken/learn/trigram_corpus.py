"""Documents for a tri-gram table: text files, JSONL, folders of them, arrays of token ids.

Everything streams: one line of JSONL, one piece of a text file, one slice of an array at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from foretoken.errors import ConfigError
from foretoken.learn.corpus import stdlib_source

TEXT_SUFFIXES = frozenset({".txt", ".py", ".md", ".rst", ".text"})
SUFFIXES = TEXT_SUFFIXES | {".jsonl", ".npy"}
PIECE = 1 << 20  # characters of a text file, tokens of an array, read at a time
_ANSWERS = ("answer", "canonical_solution", "completion", "response", "output")

Piece = str | np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Data:
    """What to count, in a fixed order. `template`: format string over the fields of JSONL rows."""

    paths: tuple[Path, ...] = ()
    stdlib: bool = False
    template: str | None = None

    def files(self) -> list[Path]:
        """Every file, folders searched, sorted. Raises ConfigError for one that cannot be used."""
        found: list[Path] = []
        for path in self.paths:
            if path.is_dir():
                found += sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
            elif path.is_file() and path.suffix in SUFFIXES:
                found.append(path)
            else:
                known = ", ".join(sorted(SUFFIXES))
                raise ConfigError("data", str(path), f"an existing folder or file of type {known}")
        if not found and not self.stdlib:
            raise ConfigError(
                "data", [str(p) for p in self.paths], "at least one file, or --stdlib"
            )
        return found

    def fingerprint(self) -> str:
        """Names, sizes and times of the files: equal as long as nothing was changed."""
        stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in self.files()]
        return json.dumps([stats, self.stdlib, self.template])

    def pieces(self) -> Iterator[tuple[Piece, bool]]:
        """(text or token ids, whether its document ends here)."""
        if self.stdlib:
            # modules only: the functions cut out of them would be counted twice
            for document in stdlib_source()[0]:
                if document.kind == "module":
                    yield document.text, True
        for path in self.files():
            yield from _pieces(path, self.template)


def documents(data: Data, tokenizer: Any, skip: int, batch: int = 64) -> Iterator[Any]:
    """Token ids of each piece after the first `skip`; an end-of-text token closes documents."""
    eos = [] if tokenizer is None or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rest = islice(data.pieces(), skip, None)
    while group := list(islice(rest, batch)):
        texts = [piece for piece, _ in group if isinstance(piece, str)]
        if texts and tokenizer is None:
            raise ConfigError("tokenizer", None, "--model or --tokenizer: there is text to encode")
        encoded = iter(
            tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else ()
        )
        for piece, ends in group:
            if isinstance(piece, str):
                yield np.array(next(encoded) + (eos if ends else []), dtype=np.int64)
            else:
                yield piece


def _pieces(path: Path, template: str | None) -> Iterator[tuple[Piece, bool]]:
    try:
        if path.suffix == ".npy":
            yield from _array(path)
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield _render(f"{path}:{number}", line, template), True
        else:
            with path.open(encoding="utf-8", errors="replace") as file:
                piece = file.read(PIECE)
                while piece:
                    following = file.read(PIECE)
                    yield piece, not following
                    piece = following
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("data", str(path), f"a readable file ({error})") from error


def _array(path: Path) -> Iterator[tuple[Piece, bool]]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ConfigError("data", str(path), f"an array of token ids ({error})") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ConfigError("data", str(path), "a one-dimensional array of integers")
    for start in range(0, len(array), PIECE):
        # two tokens of overlap: no tri-gram is lost (two bi-grams per piece are counted twice)
        yield np.asarray(array[max(0, start - 2) : start + PIECE]), True


def _render(place: str, line: str, template: str | None) -> str:
    try:
        row = json.loads(line)
        return template.format(**row) if template is not None else _known_fields(row)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        accepted = "text, question + answer, prompt (+ answer), or a --template with its fields"
        raise ConfigError("data", place, f"a JSON row with {accepted} ({error})") from error


def _known_fields(row: dict[str, Any]) -> str:
    if "text" in row:
        return str(row["text"])
    if "question" in row:
        return f"Question: {row['question']}\nAnswer: {row['answer']}"
    return str(row["prompt"]) + "".join(str(row[name]) for name in _ANSWERS if name in row)
