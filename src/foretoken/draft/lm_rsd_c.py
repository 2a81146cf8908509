"""lm-rsd-c: a tree of draws without replacement, with a branching number per level (RSD-C).

Siblings are the winners of Gumbel-top-k, in drawn order: they never coincide, so that at low
temperature, too, a second child is a second chance. Cost: one forward of the drafter per level.

A budget that ends within a level is shared out evenly, before that level is drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.growth import Growth
from foretoken.draft.gumbel import without_replacement
from foretoken.draft.lm import LmDrafter
from foretoken.tree import Kind
from foretoken.types import Budget


class Branching(Growth):
    """Level l gives every node branching[l] children, 1 beyond the end of `branching`."""

    kind = "without_replacement"

    def __init__(
        self,
        budget: Budget,
        generator: torch.Generator,
        greedy: bool,
        eos: Collection[int] = (),
        branching: Sequence[int] = (3, 2),
    ) -> None:
        super().__init__(budget, generator, greedy, eos)
        self.branching = branching

    def grow(self, logprobs: Tensor) -> None:
        """See the base class."""
        wanted = self.branching[self.levels] if self.levels < len(self.branching) else 1
        counts = shared(self.room, len(self.frontier), wanted)
        k, fresh = min(max(counts), logprobs.shape[-1]), len(self.tokens)
        if self.greedy:
            best = self.likeliest(logprobs, k)
            for node, count, choices in zip(self.frontier, counts, best, strict=True):
                self.take(node, choices[:count])
        else:
            self._draw(logprobs.exp(), counts, k)
        self.advance(range(fresh, len(self.tokens)))

    def _draw(self, rows: Tensor, counts: Sequence[int], k: int) -> None:
        tokens, _ = without_replacement(rows, k, self.generator)
        places = [
            (i, token) for i, drawn in enumerate(tokens.tolist())
            for token in drawn[: counts[i]] if token >= 0  # else the row had run dry
        ]  # fmt: skip
        first, q = self.keep(rows), rows[[i for i, _ in places], [t for _, t in places]].tolist()
        for (i, token), prob in zip(places, q, strict=True):
            self.add(self.frontier[i], token, prob, first + i)


def shared(room: int, nodes: int, wanted: int) -> list[int]:
    """Children of each of `nodes` nodes: `wanted`, or what there is room for, the first ones more.

    room, nodes: at least 1.
    """
    if room >= nodes * wanted:
        return [wanted] * nodes
    each, rest = divmod(room, nodes)
    return [each + (i < rest) for i in range(nodes)]


class LmRsdC(LmDrafter):
    """Gumbel-top-k with a branching number per level."""

    name = "lm-rsd-c"
    summary = "a small model draws distinct siblings, so many per level"
    source = "RSD 2402.14160, RSD-C"
    emits: Kind = "without_replacement"
    gives = LmDrafter.gives | {"shapes", "turns"}
    grows = Branching
    verifier = "traversal"
    nodes = 21

    class Options(LmDrafter.Options):
        """How many children on each level."""

        branching: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
            (3, 2), min_length=1, description="children of a node on each level, then 1"
        )
