"""lm-rsd-s: stochastic beam search over a small model (RSD-S).

Each level keeps the `width` continuations with the largest perturbed scores, whatever their
parents: likely sequences branch, unlikely ones end. The leaves of a level are sequences drawn
without replacement. A score says nothing about its token, given the siblings drawn before, so that
cutting by score is no bias; siblings stand by falling score, which is drawn order. A node that
keeps no child stays as a leaf. For greedy text: beam search by joint probability.
Cost: one forward of the drafter per level, over at most `width` nodes.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.growth import Growth
from foretoken.draft.gumbel import conditioned, exponential, survivors, without_replacement
from foretoken.draft.lm import LmDrafter
from foretoken.tree import Kind
from foretoken.types import Budget


class StochasticBeam(Growth):
    """At most `width` nodes a level, ranked by score."""

    kind = "without_replacement"

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
        self.scores: list[float] = []  # per node, float64: float32 would tie

    def grow(self, logprobs: Tensor) -> None:
        """See the base class."""
        width = min(self.width, self.room)
        if self.greedy:
            self._grow_likeliest(logprobs, width)
        else:
            self._grow_drawn(logprobs.exp(), width)

    def _grow_drawn(self, rows: Tensor, width: int) -> None:
        k = min(width, rows.shape[-1])
        tokens, left = without_replacement(rows, k, self.generator)
        above = np.array([self.above(node) for node in self.frontier])
        top = np.array([self.scores[node] if node >= 0 else 0.0 for node in self.frontier])
        noise = exponential(left.shape, self.generator)
        scores = conditioned(above, top, left, noise).ravel()
        best = [i for i in survivors(scores, width).tolist() if scores[i] > -np.inf]
        drawn = tokens.ravel()[best].tolist()
        parents = [i // k for i in best]
        q = rows[parents, drawn].tolist()
        first, fresh = self.keep(rows), len(self.tokens)
        for i, token, prob in zip(parents, drawn, q, strict=True):
            self.add(self.frontier[i], token, prob, first + i)
        self.scores += scores[best].tolist()
        self.advance(range(fresh, len(self.tokens)))

    def _grow_likeliest(self, logprobs: Tensor, width: int) -> None:
        best = self.likeliest(logprobs, width)
        ranked = sorted(
            ((self.above(node) + log, node, token, log)
             for node, choices in zip(self.frontier, best, strict=True) for token, log in choices),
            key=lambda candidate: -candidate[0],
        )  # fmt: skip
        new = [self.take(node, [(token, log)])[0] for _, node, token, log in ranked[:width]]
        self.advance(new)


class LmRsdS(LmDrafter):
    """Stochastic beam search."""

    name = "lm-rsd-s"
    summary = "a small model draws distinct sequences, the beam decides where to branch"
    source = "RSD 2402.14160, RSD-S; Kool et al. 1903.06059"
    emits: Kind = "without_replacement"
    settles = False  # a later sibling survives by what the earlier ones left of the row
    gives = LmDrafter.gives | {"shapes", "turns"}
    grows = StochasticBeam
    verifier = "traversal"
    nodes = 24

    class Options(LmDrafter.Options):
        """How wide the beam is."""

        width: int = Field(4, ge=1, le=64, description="nodes of a level")
