"""A target that looks its rows up: the tiny model's own, without a forward and without a cache.

For statistics of drafters and rules, which need thousands of texts and no model's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from foretoken.target.base import Job
from foretoken.types import Scores
from tests import tiny


@cache
def row(name: str, history: tuple[int, ...]) -> Tensor:
    """[V]: the model's logits after these tokens."""
    return tiny.plain_logits(name, history)[-1]


class TableCache:
    """The committed tokens in place of their keys and values."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.tokens = capacity, ()
        self.scored: tuple[tuple[int, ...], Sequence[int]] = ((), ())

    @property
    def length(self) -> int:
        return len(self.tokens)

    def keep(self, path: Sequence[int]) -> None:
        fresh, drafted = self.scored
        self.tokens = (*self.tokens, *fresh, *(drafted[node] for node in path))

    def truncate(self, n: int) -> None:
        self.tokens = self.tokens[:n]

    def reserve(self, capacity: int) -> None:
        self.capacity = max(self.capacity, capacity)

    def release(self) -> None:
        self.tokens = ()


class TableTarget:
    """Any tiny model as a table; see `foretoken.target.base.Target`."""

    def __init__(self, name: str) -> None:
        model = tiny.target(name)
        self.name, self.vocab, self.eos = name, model.vocab, model.eos
        self.features, self.max_context = model.features, model.max_context
        self.max_draft = model.max_draft

    def new_cache(self, capacity: int) -> TableCache:
        return TableCache(capacity)

    def score(self, jobs: Sequence[Job]) -> list[Scores]:
        return [self._score(job) for job in jobs]

    def _score(self, job: Job) -> Scores:
        assert isinstance(job.cache, TableCache)
        assert job.scored == 0, "drafts that grow in several scores are not looked up here"
        job.cache.scored = (tuple(job.fresh), job.tree.tokens)
        root = (*job.cache.tokens, *job.fresh)
        paths = [job.tree.path(node) for node in range(-1, len(job.tree))]
        texts = [(*root, *(job.tree.tokens[i] for i in path)) for path in paths]
        return Scores(torch.stack([row(self.name, text) for text in texts]))

    def wait(self) -> None:
        """Nothing runs."""
