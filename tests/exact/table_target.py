"""A target that looks its rows up: a tiny model's own, without a forward and without a cache.

For statistics of drafters and rules, which need thousands of texts and no model's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from time import perf_counter

import torch
from torch import Tensor

from foretoken.target.base import Job
from foretoken.target.hf import HFTarget
from foretoken.types import Scores


class TableCache:
    """The committed tokens in place of their keys and values."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens: tuple[int, ...] = ()
        self.fresh: tuple[int, ...] = ()  # read by the last score and not yet kept
        self.drafted: Sequence[int] = ()

    @property
    def length(self) -> int:
        return len(self.tokens)

    def keep(self, path: Sequence[int]) -> None:
        self.tokens = (*self.tokens, *self.fresh, *(self.drafted[node] for node in path))
        self.fresh = ()

    def truncate(self, n: int) -> None:
        self.tokens = self.tokens[:n]

    def reserve(self, capacity: int) -> None:
        self.capacity = max(self.capacity, capacity)

    def release(self) -> None:
        self.tokens = ()


class TableTarget:
    """A model as a table; see `foretoken.target.base.Target`. One a model, so that it fills."""

    def __init__(self, like: HFTarget) -> None:
        self.like, self.name, self.device = like, like.name, like.device
        self.vocab, self.eos, self.features = like.vocab, like.eos, like.features
        self.max_context, self.max_draft = like.max_context, like.max_draft
        self._known: dict[tuple[int, ...], Tensor] = {}

    def new_cache(self, capacity: int) -> TableCache:
        return TableCache(capacity)

    def score(self, jobs: Sequence[Job]) -> list[Scores]:
        return [self._score(job) for job in jobs]

    def _score(self, job: Job) -> Scores:
        held, tree = job.cache, job.tree
        assert isinstance(held, TableCache)
        if job.scored == 0:
            held.fresh = tuple(job.fresh)
        held.drafted = tuple(tree.tokens)
        root = (*held.tokens, *held.fresh)
        nodes = range(-1 if job.fresh else job.scored, len(tree))  # the root's row comes once
        texts = [(*root, *(tree.tokens[i] for i in tree.path(node))) for node in nodes]
        return Scores(torch.stack([self._row(text) for text in texts]))

    @torch.inference_mode()
    def _row(self, text: tuple[int, ...]) -> Tensor:
        """[V]: the model's logits after these tokens."""
        if text not in self._known:
            self._known[text] = self.like.model(torch.tensor([text]), use_cache=False).logits[0, -1]
        return self._known[text]

    def wait(self) -> None:
        """Nothing runs."""

    def now(self) -> float:
        return perf_counter()


@cache
def table_of(like: HFTarget) -> TableTarget:
    return TableTarget(like)
