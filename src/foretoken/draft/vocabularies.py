"""The map between the vocabularies of a drafter and its target: equal texts, equal tokens.

A token of one is a token of the other if both write the same bytes (`spelling`), whatever marks
their spaces or byte-level letters have. Special tokens write nothing: those of equal names are
paired, and the ends and starts of texts by their role. Rows of a model's output beyond what its
tokenizer knows (padding) are no token of anybody, unless both have the same tokenizer: then every
id that both models have stands for itself.

Source: token-level intersection of Timor et al. 2502.05202, algorithm 4, and the direct map of
OmniDraft 2507.02659; bytes in place of normalised strings: ours. One table per pair is kept for as
long as somebody drafts with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from foretoken.draft.base import Context
from foretoken.draft.spelling import Spelling
from foretoken.errors import CapabilityError
from foretoken.prompt.tokens import tokenizer_hash


class Vocabularies:
    """A pair of tokenizers and of output sizes.

    target, drafter: what their tokens write. sizes: rows of the output of (target, drafter). eos:
    ids that end a text, of the target and of the drafter. hashes: of the tokenizers; equal ones are
    one tokenizer (`same`).
    """

    def __init__(
        self,
        target: Spelling,
        drafter: Spelling,
        sizes: tuple[int, int],
        eos: tuple[Sequence[int], Sequence[int]],
        hashes: tuple[str, str],
    ) -> None:
        self.target, self.drafter, self.hashes = target, drafter, hashes
        self.same = same = hashes[0] == hashes[1]
        self.n_target, self.n_drafter = sizes
        self.eos = tuple(eos[0])
        pairs = dict(zip(*[range(min(sizes))] * 2, strict=True)) if same else self._pairs(eos)
        self.to_target = [-1] * self.n_drafter  # [drafter's rows] the target's id; -1: none
        self.to_drafter = [-1] * self.n_target  # [target's rows] the drafter's id; -1: none
        for ours, theirs in pairs.items():
            self.to_target[ours], self.to_drafter[theirs] = theirs, ours
        self._index: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _pairs(self, eos: tuple[Sequence[int], Sequence[int]]) -> dict[int, int]:
        """Drafter's id -> target's id, one to one."""
        target, drafter = self.target, self.drafter
        named = {name: i for i, name in target.specials.items()}
        found = {i: target.by_bytes.get(piece) for piece, i in drafter.by_bytes.items()}
        found |= {i: named.get(name) for i, name in drafter.specials.items()}
        roles = [(drafter.bos, target.bos), (drafter.eos, target.eos), *zip(*eos, strict=False)]
        for ours, theirs in roles:
            if ours is not None and found.get(ours) is None and theirs not in found.values():
                found[ours] = theirs
        return {
            ours: theirs for ours, theirs in found.items()
            if theirs is not None and theirs < self.n_target and ours < self.n_drafter
        }  # fmt: skip

    @property
    def identical(self) -> bool:
        """Whether an id of either is the same id of the other, every one."""
        return self.same and self.n_target == self.n_drafter

    @property
    def shared(self) -> int:
        """How many tokens both have."""
        return sum(i >= 0 for i in self.to_target)

    @property
    def report(self) -> str:
        """One line: how much of either vocabulary the other has, and rows that are no token."""
        if self.same:
            sizes = f"{self.n_drafter} and {self.n_target} rows"
            return f"one tokenizer; {sizes if self.n_drafter != self.n_target else 'equal rows'}"
        padded = [
            max(self.n_drafter - self.drafter.size, 0),
            max(self.n_target - self.target.size, 0),
        ]
        return (
            f"{self.shared} of the drafter's {self.n_drafter} tokens are among the target's "
            f"{self.n_target}; rows without a token: {padded[0]} and {padded[1]}"
        )

    def index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """([shared], [shared]) int64: drafter's and target's ids of the tokens of both."""
        if device not in self._index:
            pairs = [(ours, theirs) for ours, theirs in enumerate(self.to_target) if theirs >= 0]
            both = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
            self._index[device] = (both[:, 0].contiguous(), both[:, 1].contiguous())
        return self._index[device]

    def lift(self, rows: Tensor, empty: float = -torch.inf) -> Tensor:
        """[m, target's rows] of rows over the drafter's ids [m, drafter's rows]; `empty` elsewhere
        (-inf for logits, 0 for probabilities)."""
        if self.identical:
            return rows
        ours, theirs = self.index(rows.device)
        out = rows.new_full((len(rows), self.n_target), empty)
        out[:, theirs] = rows[:, ours]
        return out

    def lower(self, rows: Tensor, empty: float = -torch.inf) -> Tensor:
        """[m, drafter's rows] of rows over the target's ids: the reverse of `lift`."""
        if self.identical:
            return rows
        ours, theirs = self.index(rows.device)
        out = rows.new_full((len(rows), self.n_drafter), empty)
        out[:, ours] = rows[:, theirs]
        return out


_guard = Lock()
_known: WeakValueDictionary[object, Vocabularies] = WeakValueDictionary()


def vocabularies(
    context: Context, tokenizer: Any, rows: int, eos: Sequence[int], owner: str
) -> Vocabularies:
    """The pair of a target and a drafter, made once.

    tokenizer, rows, eos: the drafter's tokenizer, its rows of output, its ends of text. owner: who
    asks. Raises CapabilityError if a tokenizer is missing or is no fast one.
    """
    if context.tokenizer is None or tokenizer is None:
        whose = "target" if context.tokenizer is None else "small model"
        raise CapabilityError(
            f"drafter {owner!r} reads text, but the {whose} comes without a tokenizer"
        )
    hashes = tokenizer_hash(context.tokenizer), tokenizer_hash(tokenizer)
    key = (*hashes, context.vocab, rows, context.eos, tuple(eos))
    with _guard:
        found = _known.get(key)
        if found is None:
            target = Spelling(context.tokenizer)
            found = _known[key] = Vocabularies(
                target,
                target if hashes[0] == hashes[1] else Spelling(tokenizer),
                (context.vocab, rows),
                (context.eos, eos),
                hashes,
            )
        return found
