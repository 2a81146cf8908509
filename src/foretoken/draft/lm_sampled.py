"""lm-sampled: a chain drawn from a small model's own distribution.

The draft of Leviathan et al. and Chen et al. With block verification no exact rule accepts more of
a chain. Cost: one forward of the drafter per token. Options: see `lm`.
"""

from __future__ import annotations

from torch import Tensor

from foretoken.draft.growth import Growth
from foretoken.draft.gumbel import independent
from foretoken.draft.lm import LmDrafter
from foretoken.tree import Kind


class Chain(Growth):
    """One token a level: a draw, or the likeliest one for greedy text."""

    kind = "sampled"

    def grow(self, logprobs: Tensor) -> None:
        """See the base class; the frontier is one node."""
        (parent,) = self.frontier
        if self.greedy:
            self.advance(self.take(parent, self.likeliest(logprobs, 1)[0]))
            return
        row = logprobs.exp()
        (token,) = independent(row, [0], self.generator)
        self.advance([self.add(parent, token, float(row[0, token]), self.keep(row))])


class LmSampled(LmDrafter):
    """A drawn chain."""

    name = "lm-sampled"
    summary = "a small model draws a chain"
    source = "Leviathan et al. 2211.17192; Chen et al. 2302.01318"
    emits: Kind = "sampled"
    grows = Chain
    verifier = "block"
    nodes = 12
