"""Drafts and target rows that look like a language model's, without one: for timing rules.

Rows have the logits of a Zipf law over tokens in a random order, plus noise. In the "usual" case
the target's row is the drafter's with more noise; in the "worst" case it has an order of its own,
so that about everything is rejected. The forms of `lm` draw the drafts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from foretoken.draft.growth import Growth, spelled
from foretoken.tree import DraftTree
from foretoken.types import Budget

Case = Literal["usual", "worst"]
CASES: tuple[Case, ...] = ("usual", "worst")
EXPONENT = 1.2  # of the Zipf law; the likeliest of 128 k tokens then has about a fifth of the mass
ROUGH = 0.7  # standard deviation of the noise on a row's logits
APART = 0.5  # of the noise between drafter and target in the usual case
WIDTH = 8  # nodes of a level, or sequences side by side
Path = tuple[int, ...]
CHAIN = "chain"  # the shape of a sampled draft that is a single path; the others are kinds


class Draft(NamedTuple):
    """One draft and what the target says about it."""

    tree: DraftTree
    logits: Tensor  # [n+1, V] float32


class Synthetic:
    """A source of rows. vocab: tokens; seed: the same seed, the same rows in the same order."""

    def __init__(self, vocab: int, seed: int) -> None:
        self.vocab, self.seed = vocab, seed
        self.generator = torch.Generator().manual_seed(seed)
        ranks = 1.0 + torch.randperm(vocab, generator=self.generator).float()
        self._base = -EXPONENT * ranks.log()

    def draft(self, shape: str, nodes: int, case: Case) -> Draft:
        """A draft of at most `nodes` nodes (fewer where independent draws coincide).

        shape: a kind of draft, or CHAIN.
        """
        growth = growths()[shape](Budget(nodes), torch.Generator().manual_seed(self.seed))
        rows: dict[Path, Tensor] = {}  # the drafter's logits where it was asked for them
        while growth.frontier:
            asked = [spelled(node, growth.tokens, growth.parents) for node in growth.frontier]
            rows |= {place: self.row() for place in asked}
            growth.grow(torch.stack([rows[place] for place in asked]).log_softmax(dim=-1))
        tree = growth.tree()
        places = [spelled(node, tree.tokens, tree.parents) for node in range(-1, len(tree))]
        usual = case == "usual"
        target = [self._near(rows.get(place)) if usual else self.row() for place in places]
        return Draft(tree, torch.stack(target))

    def row(self) -> Tensor:
        """[V] float32: logits of a fresh context."""
        shift = int(torch.randint(self.vocab, (), generator=self.generator))
        return self._base.roll(shift) + ROUGH * self._noise()

    def _near(self, row: Tensor | None) -> Tensor:
        return self.row() if row is None else row + APART * self._noise()

    def _noise(self) -> Tensor:
        return torch.randn(self.vocab, generator=self.generator)


def growths() -> dict[str, Callable[[Budget, torch.Generator], Growth]]:
    """Shape -> what grows it."""
    from foretoken.draft.lm_greedy_k import LikeliestAndDrawn
    from foretoken.draft.lm_iid_k import Sequences
    from foretoken.draft.lm_rsd_s import StochasticBeam
    from foretoken.draft.lm_sampled import Chain
    from foretoken.draft.lm_top_k import BestFirst

    return {
        "point": partial(BestFirst, greedy=False, width=WIDTH),
        "sampled": partial(Sequences, greedy=False, sequences=WIDTH),
        "without_replacement": partial(StochasticBeam, greedy=False, width=WIDTH),
        "mixed": partial(LikeliestAndDrawn, greedy=False, width=WIDTH),
        CHAIN: partial(Chain, greedy=False),
    }
