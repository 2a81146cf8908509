"""lm-iid-k: K sequences, drawn independently from a small model (SpecTr).

Equal draws share a node, and the tree remembers how many there were: k-SEQ counts sequences and not
nodes. At low temperature the sequences coincide, which is what drawing without replacement avoids.
Cost: one forward of the drafter per level, over the distinct nodes.

The worst case, K sequences that part at once, decides the depth before anything is drawn; for
greedy text the K likeliest first tokens start one chain each.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.growth import Growth
from foretoken.draft.gumbel import independent
from foretoken.draft.lm import LmDrafter
from foretoken.tree import Kind
from foretoken.types import Budget


class Sequences(Growth):
    """Independent sequences side by side; a sequence ends early only below its own token."""

    kind = "sampled"

    def __init__(
        self,
        budget: Budget,
        generator: torch.Generator,
        greedy: bool,
        eos: Collection[int] = (),
        sequences: int = 4,
    ) -> None:
        self.sequences = max(min(sequences, budget.nodes), 1)
        depth = min(budget.depth, budget.nodes // self.sequences)
        super().__init__(replace(budget, depth=depth), generator, greedy, eos)
        self._alive = [(-1, -1)] * self.sequences  # (last draw, its node) of each sequence

    def grow(self, logprobs: Tensor) -> None:
        """See the base class."""
        if self.greedy:
            best = self.likeliest(logprobs, 1 if self.levels else self.sequences)
            taken = [self.take(*pair) for pair in zip(self.frontier, best, strict=True)]
            self.advance(node for nodes in taken for node in nodes)
            return
        rows = logprobs.exp()
        place = {node: i for i, node in enumerate(self.frontier)}
        alive = [(draw, node) for draw, node in self._alive if node in place]
        which = [place[node] for _, node in alive]
        tokens = independent(rows, which, self.generator)
        first, fresh = self.keep(rows), len(self.tokens)
        index: dict[tuple[int, int], int] = {}
        self._alive = []
        q = rows[which, tokens].tolist()
        for (draw, parent), at, token, prob in zip(alive, which, tokens, q, strict=True):
            if (parent, token) not in index:
                index[parent, token] = self.add(parent, token, prob, first + at)
            self._alive.append((len(self.draw_nodes), index[parent, token]))
            self.draw_nodes.append(index[parent, token])
            self.draw_parents.append(draw)
        self.advance(range(fresh, len(self.tokens)))


class LmIidK(LmDrafter):
    """K independent sequences."""

    name = "lm-iid-k"
    summary = "a small model draws K independent sequences"
    source = "SpecTr 2310.15141"
    emits: Kind = "sampled"
    gives = LmDrafter.gives | {"shapes"}
    grows = Sequences
    verifier = "k-seq"
    nodes = 24

    class Options(LmDrafter.Options):
        """How many sequences."""

        sequences: int = Field(4, ge=1, le=64, description="sequences drawn side by side")
