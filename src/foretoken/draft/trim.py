"""Which tokens a drafter may propose: the kept part of the vocabulary, and the file that says so.

`vocab_trim.json` lies beside a drafter's weights, which stay whole: the folder is a Hugging Face
model as before, and only foretoken slices its output layer when it loads it. Source: VocabTrim,
Goel et al. 2506.22694 (tokens counted in text that the target wrote); FR-Spec, Zhao et al.
2502.14856 (the same idea, tokens counted in raw text).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from torch import Tensor

from foretoken.errors import ArtifactError, ConfigError

FILE = "vocab_trim.json"
VERSION = 1
_AGAIN = "make it anew with `foretoken train draft vocab-trim`"
Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]  # [V]: how often the target wrote a token


class Trim(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    vocab: int  # rows of the whole output layer, padded ids included
    k: int  # tokens kept
    keep: tuple[int, ...]  # their ids, rising
    counts: tuple[int, ...]  # [k] how often each was counted, so that fewer can be kept later
    always: tuple[int, ...]  # kept whatever was counted: end of text and the like, rising
    coverage: float  # share of the counted tokens that are kept
    tokenizer_hash: str  # of the tokenizer that gives the ids their meaning
    counts_hash: str  # of all V counts
    key: str = ""  # of the three that decide what is kept; filled when it is made

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.version != VERSION:
            raise ValueError(f"version {self.version}, this program reads {VERSION}")
        if len(self.keep) != self.k or len(self.counts) != self.k:
            raise ValueError(f"{len(self.keep)} ids and {len(self.counts)} counts for k {self.k}")
        kept = set(self.keep)
        if len(kept) != self.k or list(self.keep) != sorted(kept):
            raise ValueError("ids must rise; none may stand twice")
        if not self.k or self.keep[0] < 0 or self.keep[-1] >= self.vocab:
            raise ValueError(f"ids must lie in 0 to {self.vocab - 1}")
        if not kept.issuperset(self.always):
            raise ValueError("a token that is always kept is not among the kept ones")
        own = key_of(self.tokenizer_hash, self.k, self.counts_hash)
        if self.key and self.key != own:
            raise ValueError("its key is that of another tokenizer, size or count")
        object.__setattr__(self, "key", own)
        return self

    @classmethod
    def of(
        cls, counts: Counts, k: int, always: Collection[int] = (), tokenizer_hash: str = ""
    ) -> Trim:
        """The k tokens that `kept_tokens` chooses. Raises ConfigError for an impossible k."""
        keep = kept_tokens(counts, k, always)
        total = float(counts.sum())
        return cls(
            vocab=len(counts),
            k=k,
            keep=tuple(keep),
            counts=tuple(int(n) for n in counts[keep]),
            always=tuple(sorted(set(always))),
            coverage=float(counts[keep].sum()) / total if total else 0.0,
            tokenizer_hash=tokenizer_hash,
            counts_hash=hash_of(counts),
        )

    def known(self) -> npt.NDArray[np.int64]:
        """[V] the counts of the kept tokens, 0 elsewhere."""
        counts = np.zeros(self.vocab, np.int64)
        counts[list(self.keep)] = self.counts
        return counts

    def smaller(self, k: int) -> Trim:
        """The k best of the kept tokens. Raises ConfigError if there are not as many."""
        if k > self.k:
            raise ConfigError("k", k, f"at most the {self.k} tokens that the file keeps")
        if k == self.k:
            return self
        known = self.known()
        known[list(self.keep)] += 1  # above the dropped ones, in the same order
        keep = kept_tokens(known, k, self.always)
        counts = self.known()[keep]
        share = float(counts.sum()) / sum(self.counts) if any(self.counts) else 0.0
        return Trim(
            vocab=self.vocab, k=k, keep=tuple(keep), counts=tuple(map(int, counts)),
            always=self.always, coverage=self.coverage * share,
            tokenizer_hash=self.tokenizer_hash, counts_hash=self.counts_hash,
        )  # fmt: skip

    def check(self, where: Path | str, tokenizer_hash: str = "", vocab: int | None = None) -> None:
        """Raise ArtifactError, which names `where`, if this is another tokenizer's or of another
        vocabulary; "" and None: not known."""
        if vocab is not None and self.vocab != vocab:
            raise ArtifactError(
                f"{where}: {FILE} is of a vocabulary of {self.vocab}, not {vocab}; {_AGAIN}"
            )
        if tokenizer_hash and self.tokenizer_hash and self.tokenizer_hash != tokenizer_hash:
            raise ArtifactError(f"{where}: {FILE} is of another tokenizer; {_AGAIN}")

    def write(self, folder: Path) -> Path:
        """Write the file beside a drafter's weights, whole or not at all; its path."""
        path = folder / FILE
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{FILE}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.model_dump()) + "\n")
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return path


def read_trim(path: Path) -> Trim | None:
    """The trim of a drafter's folder, or of the file itself; None for a folder without one. Raises
    ArtifactError for a file that is damaged or of another version."""
    if path.is_dir():
        path = path / FILE
        if not path.is_file():
            return None
    try:
        return Trim.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ArtifactError(f"{path}: {reason}; {_AGAIN}") from None


def kept_tokens(counts: Counts, k: int, always: Collection[int] = ()) -> list[int]:
    """The ids to keep, rising: `always`, then by (count falling, id rising) up to k in all.

    Tokens that were never counted come last, the lowest ids first, so that there are always k
    distinct ones. Raises ConfigError if k is no size between those of `always` and the vocabulary.
    """
    vocab, must = len(counts), sorted(set(always))
    if must and not 0 <= must[0] <= must[-1] < vocab:
        raise ConfigError("always", must[-1], f"token ids from 0 to {vocab - 1}")
    if not max(len(must), 1) <= k <= vocab:
        raise ConfigError("k", k, f"{max(len(must), 1)} to {vocab} tokens")
    rank = np.asarray(counts, np.float64).copy()
    rank[must] = np.inf
    order = np.argsort(-rank, kind="stable")  # equal counts: the lower id stays in front
    return sorted(order[:k].tolist())


def eagle3_maps(keep: Sequence[int], vocab: int) -> tuple[Tensor, Tensor]:
    """(d2t [k] int64, t2d [V] bool) as EAGLE-3 checkpoints store them: the target's id of draft
    index j is j + d2t[j]; t2d tells which of the target's ids the draft knows."""
    ids = torch.tensor(list(keep), dtype=torch.int64)
    known = torch.zeros(vocab, dtype=torch.bool)
    known[ids] = True
    return ids - torch.arange(len(ids)), known


def hash_of(counts: Counts) -> str:
    """sha256 (hex) of all V counts."""
    return hashlib.sha256(np.ascontiguousarray(counts).astype("<i8").tobytes()).hexdigest()


def key_of(tokenizer_hash: str, k: int, counts_hash: str) -> str:
    """What the kept tokens follow from, as one hash: a trim with another key is another trim."""
    return hashlib.sha256(f"{tokenizer_hash}\0{k}\0{counts_hash}".encode()).hexdigest()
