"""Examples (prompt + answer) -> rows of tokens with a mask of what is learned, in a fixed order.

Whole examples are packed after one another. Unlike a plain stream of documents, every example is
read as if it stood alone (`Batch.positions` begin at 0 with it, which transformers takes for the
border of a document): target and drafter then see what they will see when they serve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foretoken.errors import ConfigError
from foretoken.learn.packing import Ids, RowStream

Mask = npt.NDArray[np.bool_]
OPEN_ROWS = 64  # rows that may still take a short example: less padding, at little cost


@dataclass(frozen=True)
class Batch:
    """Rows of tokens. Logits at position t - 1 predict token t, so the weights of a loss are
    `mask[:, 1:]`."""

    ids: Tensor  # [B, L] int64
    mask: Tensor  # [B, L] bool: the prediction of this token counts (answer, its end included)
    # [B, L] int64, from 0 in every example; None: rows are read as one text each
    positions: Tensor | None = None

    @property
    def learned(self) -> Tensor:
        """How many predictions count, a scalar."""
        return self.mask[:, 1:].sum()

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device."""
        positions = None if self.positions is None else self.positions.to(device)
        return Batch(self.ids.to(device), self.mask.to(device), positions)

    def rows(self, first: int, last: int) -> Batch:
        """Rows first .. last - 1."""
        positions = None if self.positions is None else self.positions[first:last]
        return Batch(self.ids[first:last], self.mask[first:last], positions)

    def take(self, index: Tensor) -> Batch:
        """The rows of an index [n], in its order."""
        positions = None if self.positions is None else self.positions[index]
        return Batch(self.ids[index], self.mask[index], positions)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Example:
    """Token ids [n], and which of them are to be learned [n]."""

    ids: Ids
    mask: Mask

    @classmethod
    def of(cls, ids: Sequence[int] | Ids, n_prompt: int) -> Example:
        """A prompt of `n_prompt` tokens with its answer."""
        tokens = np.asarray(ids, dtype=np.int32)
        return cls(tokens, np.arange(len(tokens)) >= n_prompt)

    def held(self, fraction: float) -> bool:
        """Whether it is never trained on: by hash of its prompt, so that all answers to one prompt
        stay on one side and nothing moves when examples are added."""
        start = int(self.mask.argmax()) or len(self.ids)
        digest = hashlib.sha256(self.ids[:start].tobytes()).digest()
        return int.from_bytes(digest[:8], "big") % 10_000 < fraction * 10_000

    def cut(self, seq: int) -> Example:
        """At most `seq` tokens: the front of the prompt goes, down to half a row, then the end."""
        start = int(self.mask.argmax())
        keep = min(start, max(seq // 2, seq - (len(self.ids) - start)))
        kept = slice(start - keep, start - keep + seq)
        return Example(self.ids[kept], self.mask[kept])


class Stream(Protocol):
    """An endless order of rows."""

    def batch(self, first: int, count: int) -> Batch:
        """Rows first .. first + count - 1; depends on nothing else."""
        ...


class Rows:
    """An endless stream of training rows, and the held-out ones.

    `batch` is a pure function of its arguments and the seed: a data position is a number, and any
    process can compute what another one trains on.
    """

    def __init__(self, stream: Stream, held: Batch, tokens: int, sha256: str) -> None:
        self.stream, self._held = stream, held
        self.tokens_per_epoch = tokens  # those that are learned
        self.sha256 = sha256  # of the training data, for checkpoints
        self.examples: Sequence[Example] = ()  # trained on, cut to a row; () for plain text
        self.corpus: dict[str, Any] = {}  # manifests of plain text by name, for model cards

    @classmethod
    def of(
        cls,
        examples: Iterable[Example | tuple[Sequence[int] | Ids, int]],
        seq: int,
        seed: int = 0,
        held_out: float = 0.0,
        packed: bool = True,
    ) -> Rows:
        """Rows of `seq` tokens from (ids, n_prompt) or from examples with a mask of their own.

        held_out: fraction of the prompts that are never trained on. packed: off, every example has
        a row of its own (`forward.reads_packed`). Raises ConfigError if nothing is left to train
        on.
        """
        all_examples = (e if isinstance(e, Example) else Example.of(*e) for e in examples)
        # the side is decided before anything is cut off: answers of different length leave
        # different parts of one prompt
        kept = [(e.held(held_out), e.cut(seq)) for e in all_examples if e.mask[1:].any()]
        train = [e for out, e in kept if not out]
        if not train:
            raise ConfigError("data", f"{len(kept)} examples", "some with an answer to train on")
        held = sorted((e for out, e in kept if out), key=lambda e: e.ids.tobytes())
        digest = hashlib.sha256()
        for example in train:
            digest.update(example.ids.tobytes() + b"\0" + example.mask.tobytes())
        tokens = sum(int(e.mask.sum()) for e in train)
        made = cls(
            _Examples(train, seq, seed, packed),
            pack(held, seq, packed),
            tokens,
            digest.hexdigest(),
        )
        made.examples = train
        return made

    @classmethod
    def read(
        cls,
        folder: Path,
        seq: int,
        seed: int = 0,
        held_out: float = 0.0,
        *,
        packed: bool = True,
        tokenizer_hash: str = "",
        vocab: int | None = None,
    ) -> Rows:
        """Rows from what `train draft data` wrote; tokenizer_hash, vocab: of the model that reads
        them. Raises ConfigError or ArtifactError."""
        from foretoken.learn.recipes.answers import read_examples

        return cls.of(read_examples(folder, tokenizer_hash, vocab), seq, seed, held_out, packed)

    @classmethod
    def of_documents(
        cls, train: Sequence[Ids], held: Sequence[Ids], seq: int, seed: int = 0
    ) -> Rows:
        """Rows of `seq` tokens of plain text, every token learned (`learn.packing.RowStream`)."""
        if not train:
            raise ConfigError("data", "no documents", "at least one document to train on")
        digest = hashlib.sha256()
        for ids in train:
            digest.update(ids.tobytes() + b"\0")
        stream = RowStream(train, seq - 1, seed)
        whole = [Example.of(ids, 0).cut(seq) for ids in held]
        return cls(
            _Documents(stream), pack(whole, seq), stream.tokens_per_epoch, digest.hexdigest()
        )

    def batch(self, step: int, count: int, rank: int = 0, world: int = 1) -> Batch:
        """Rows of 0-based `step`, of `count` rows over all `world` processes; `rank`'s share."""
        if count % world:
            raise ConfigError("batch", count, f"a multiple of the {world} processes")
        share = count // world
        return self.stream.batch(step * count + rank * share, share)

    def held_out(self, limit: int = 1 << 30) -> Batch:
        """The first `limit` held-out rows, in an order that never changes; may be empty."""
        return self._held.rows(0, limit)


class _Documents:
    def __init__(self, stream: RowStream) -> None:
        self.stream = stream

    def batch(self, first: int, count: int) -> Batch:
        ids = self.stream.rows(first, count)
        return Batch(ids, torch.ones_like(ids, dtype=torch.bool))


class _Examples:
    """Packs all examples again, in a new order, for every epoch."""

    def __init__(self, examples: Sequence[Example], seq: int, seed: int, packed: bool) -> None:
        self.examples, self.seq, self.seed, self.packed = examples, seq, seed, packed
        self._epoch, self._start, self._packed = 0, 0, self._epoch_rows(0)

    def batch(self, first: int, count: int) -> Batch:
        parts: list[Batch] = []
        while count > 0:
            self._seek(first)
            offset = first - self._start
            part = self._packed.rows(offset, offset + count)
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return joined(parts)

    def _seek(self, row: int) -> None:
        if row < self._start:
            self._epoch, self._start, self._packed = 0, 0, self._epoch_rows(0)
        while row >= self._start + len(self._packed):
            self._start += len(self._packed)
            self._epoch += 1
            self._packed = self._epoch_rows(self._epoch)

    def _epoch_rows(self, epoch: int) -> Batch:
        rng = np.random.default_rng([self.seed, epoch])
        chosen = [self.examples[i] for i in rng.permutation(len(self.examples))]
        packed = pack(chosen, self.seq, self.packed)
        return packed.take(torch.from_numpy(rng.permutation(len(packed))))


def pack(examples: Sequence[Example], seq: int, together: bool = True) -> Batch:
    """All examples, none longer than `seq`, whole in rows [n, seq]. Padding is token 0 at position
    0, not learned."""
    rows: list[list[Example]] = []
    room: dict[int, int] = {}  # open row -> tokens that it can still take
    for example in examples:
        size = len(example.ids)
        row = next((row for row, left in room.items() if left >= size), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room[row] = seq if together else 0
            if len(room) > OPEN_ROWS:
                del room[min(room, key=room.__getitem__)]
        rows[row].append(example)
        if together and row in room:
            room[row] -= size
    ids = np.zeros((len(rows), seq), np.int64)
    mask, positions = np.zeros((len(rows), seq), np.bool_), np.zeros((len(rows), seq), np.int64)
    for row, packed in enumerate(rows):
        start = 0
        for example in packed:
            here = slice(start, start + len(example.ids))
            ids[row, here], mask[row, here] = example.ids, example.mask
            mask[row, start] = False  # nothing comes before the first token: it is not predicted
            positions[row, here] = np.arange(len(example.ids))
            start += len(example.ids)
    return Batch(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(positions))


def joined(parts: Sequence[Batch]) -> Batch:
    """Rows of all parts. Where some have positions, a row of the others is one text."""
    if len(parts) == 1:
        return parts[0]
    ids, mask = torch.cat([p.ids for p in parts]), torch.cat([p.mask for p in parts])
    if all(part.positions is None for part in parts):
        return Batch(ids, mask)
    whole = torch.arange(ids.shape[1], device=ids.device)
    positions = [whole.expand_as(p.ids) if p.positions is None else p.positions for p in parts]
    return Batch(ids, mask, torch.cat(positions))
