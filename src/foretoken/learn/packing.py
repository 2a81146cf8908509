"""Documents -> full rows of token ids, in an order that depends on nothing but seed and step."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from foretoken.learn.corpus import Document

Ids = npt.NDArray[np.int32]
IGNORED = -100  # target id without a loss


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> list[Ids]:
    """Token ids [n] of each document, each with the end-of-text token as its last."""
    if not documents:
        return []
    # The backend directly: the wrapper warns of documents longer than the model's context.
    encoded = tokenizer.backend_tokenizer.encode_batch([document.text for document in documents])
    return [np.asarray([*text.ids, tokenizer.eos_token_id], dtype=np.int32) for text in encoded]


class RowStream:
    """Training rows [seq + 1], packed again in a new order for every epoch.

    A row is filled with short documents, whole, and what is left of it with the next piece of a
    long one: rows begin where a document begins, no token is padding, and only documents longer
    than a row are cut. `rows` is a pure function of its arguments, so a data position is a number.
    """

    def __init__(self, documents: Sequence[Ids], seq: int, seed: int) -> None:
        self.size, self.seed = seq + 1, seed
        self.short = [ids for ids in documents if len(ids) <= self.size]
        self.long = [ids for ids in documents if len(ids) > self.size]
        self.tokens_per_epoch = sum(len(ids) for ids in documents)
        self._epoch, self._start = 0, 0
        self._packed = self._pack(0)

    def rows(self, first: int, count: int) -> Tensor:
        """Rows first .. first + count of the endless stream, int64 [count, seq + 1]."""
        rows: list[Ids] = []
        while len(rows) < count:
            self._seek(first + len(rows))
            offset = first + len(rows) - self._start
            rows.extend(self._packed[offset : offset + count - len(rows)])
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _seek(self, row: int) -> None:
        if row < self._start:
            self._epoch, self._start, self._packed = 0, 0, self._pack(0)
        while row >= self._start + len(self._packed):
            self._start += len(self._packed)
            self._epoch += 1
            self._packed = self._pack(self._epoch)

    def _pack(self, epoch: int) -> Ids:
        """All rows [n, seq + 1] of one epoch, shuffled. Less than one row of text is dropped."""
        rng = np.random.default_rng([self.seed, epoch])
        long = [self.long[i] for i in rng.permutation(len(self.long))]
        filler = np.concatenate([np.zeros(0, np.int32), *long])
        pieces: list[Ids] = []
        used = room = 0
        for i in rng.permutation(len(self.short)):
            ids = self.short[i]
            if len(ids) > room:
                # The long text may run out; then a short document is cut instead.
                gap = min(room, len(filler) - used)
                pieces.append(filler[used : used + gap])
                used, room = used + gap, self.size
            pieces.append(ids)
            room -= len(ids)
        stream = np.concatenate([*pieces, filler[used:]])
        count = max(1, len(stream) // self.size)
        packed = np.resize(stream, (count, self.size)).astype(np.int32)
        return packed[rng.permutation(count)]


def held_out_rows(documents: Sequence[Ids], seq: int, limit: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both [rows, seq], for evaluation: each document starts a row.

    Short documents are padded and long ones cut to their first row, so every loss counted is
    that of a document read from its beginning. At most `limit` rows; padding is IGNORED.
    """
    kept = documents[:limit]
    inputs = torch.zeros(len(kept), seq, dtype=torch.int64)
    targets = torch.full((len(kept), seq), IGNORED, dtype=torch.int64)
    for row, ids in enumerate(kept):
        cut = torch.from_numpy(ids[: seq + 1].astype(np.int64))
        inputs[row, : len(cut) - 1] = cut[:-1]
        targets[row, : len(cut) - 1] = cut[1:]
    return inputs, targets
