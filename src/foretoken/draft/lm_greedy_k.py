"""lm-greedy-k: the likeliest tokens and one that is drawn from the others (Optimal MDSD).

A node with k children has the k-1 likeliest tokens as fixed children, and one drawn from the rest
of its row, which stands first and is tested first. For one node no draft law with k children is
known to do better at low temperature, and its verification is optimal.

How many children a node has is ours: the `width` likeliest continuations of a level, by joint
probability, are counted by parent, as in beam search. That looks at parents and rows alone, never
at what is then drawn. For greedy text all are fixed, which is beam search.
Cost: one forward of the drafter per level, over at most `width` nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.growth import Choice, Growth
from foretoken.draft.gumbel import independent
from foretoken.draft.lm import LmDrafter
from foretoken.tree import Kind
from foretoken.types import Budget


class LikeliestAndDrawn(Growth):
    """At most `width` nodes a level; the least likely child of each parent is drawn instead."""

    kind = "mixed"

    def __init__(
        self,
        budget: Budget,
        generator: torch.Generator,
        greedy: bool,
        eos: Collection[int] = (),
        width: int = 4,
    ) -> None:
        super().__init__(budget, generator, greedy, eos)
        self.width = width

    def grow(self, logprobs: Tensor) -> None:
        """See the base class."""
        best = self._beam(logprobs)
        fresh = len(self.tokens)
        if self.greedy:
            for node, choices in best:
                self.take(node, choices)
        else:
            self._draw(logprobs, best)
        self.advance(range(fresh, len(self.tokens)))

    def _beam(self, logprobs: Tensor) -> list[tuple[int, list[Choice]]]:
        """The likeliest continuations of the level: by parent, best first."""
        width = min(self.width, self.room)
        rows = list(zip(self.frontier, self.likeliest(logprobs, width), strict=True))
        ranked = sorted(
            ((self.above(node) + log, node) for node, choices in rows for _, log in choices),
            key=lambda candidate: -candidate[0],
        )
        counts = Counter(node for _, node in ranked[:width])
        return [(node, choices[: counts[node]]) for node, choices in rows]

    def _draw(self, logprobs: Tensor, best: list[tuple[int, list[Choice]]]) -> None:
        rows = logprobs.exp()
        parents = [i for i, (_, choices) in enumerate(best) if choices]
        for i in parents:
            fixed = [token for token, _ in best[i][1][:-1]]
            if fixed:
                rows[i, fixed] = 0.0
                rows[i] = (rows[i].double() / rows[i].sum(dtype=torch.float64)).float()
        tokens = independent(rows, parents, self.generator)
        q, logs = rows[parents, tokens].tolist(), logprobs[parents, tokens].tolist()
        first = self.keep(rows)
        for i, token, prob, log in zip(parents, tokens, q, logs, strict=True):
            node, choices = best[i]
            self.add(node, token, prob, first + i, logprob=log)
            self.take(node, choices[:-1])


class LmGreedyK(LmDrafter):
    """The likeliest tokens and a drawn one."""

    name = "lm-greedy-k"
    summary = "a small model's likeliest tokens, and one drawn from the others"
    source = "Optimal MDSD 2502.18779, greedy drafting"
    emits: Kind = "mixed"
    grows = LikeliestAndDrawn
    verifier = "traversal"
    nodes = 24

    class Options(LmDrafter.Options):
        """How wide the beam is."""

        width: int = Field(4, ge=1, le=64, description="nodes of a level")
