"""rasd: a small model's tree, with what was retrieved for the same context grafted on.

Two retrievers look for the end of the context: in the text itself (the latest place of the longest
n-gram) and, where there is one, in the corpus of `rest`. The small model grows its likeliest tree
as in `lm-top-k`. What was retrieved is kept if the model finds its first token possible, and laid
over the tree from the root down, so that the longest common prefix is drafted once; the best nodes
of both are the draft. It reaches deeper than the model was run, and into what the model never saw.

Source: Quan et al. 2025, RASD, arXiv 2503.03434; our notes. The paper's text was not at hand,
and the brief's rules are guesses in part. Kept: the gate on the first token (`first_k` or
`first_prob`, brief k1 and theta1), the floor on a path (`least`, theta2), the share of retrieved
nodes (`retrieved`, B_r), fusion by longest prefix, the final cut by score. Done otherwise:
- A node's probability is what the retrieval says, weighed, plus what that leaves times the model's
  own. It rises where both agree, and siblings sum to at most 1. The brief takes the model's alone
  where it has one.
- Every copied token is trusted by the match as long as it has become, l / (l + `trust`), and one
  from the corpus as `rest` trusts it; the brief has one factor for the whole path.
- After a match of 8 tokens the first token passes whatever the model says: else a name that the
  model never saw could not be copied.
`weight` and `trust` were set on Python functions and grade-school maths, where q is about right.

Exact: all children are fixed. Cost: `lm-top-k`'s forwards, plus the retrieval. Past the small
model's context there is no draft. It learns nothing; what was indexed ends with its session.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.base import Context
from foretoken.draft.growth import Growth
from foretoken.draft.lm import LmDrafter
from foretoken.draft.lm_top_k import BestFirst
from foretoken.draft.ngram_index import NgramIndex, continuation
from foretoken.draft.rasd_fusion import cut, fuse, gate
from foretoken.draft.rest import Reading, continuations, match_class
from foretoken.draft.rest_store import open_beside
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session

SHORTEST, INDEXED, LONGEST = 2, 8, 16  # of a match in the text itself: n-grams are indexed up to 8


class Rasd(LmDrafter):
    """Retrieval pruned by the small model and fused with its tree."""

    name = "rasd"
    summary = "a small model's likeliest tree fused with what text and corpus say"
    source = "Quan et al. 2025, RASD, arXiv 2503.03434; retrieval as in REST, arXiv 2311.08252"
    emits: Kind = "point"
    verifier = "walk"
    nodes = 24

    class Options(LmDrafter.Options):
        """The model's beam, the retrieval, and how much of it passes."""

        width: int = Field(8, ge=1, le=64, description="nodes of a level that may have children")
        store: Path | None = Field(
            None, description="datastore; None: rest.store of the model's folder, else none"
        )
        verify: bool = Field(True, description="compare the file's checksum, which reads all of it")
        length: int = Field(10, ge=1, le=256, description="tokens of a retrieved path at most")
        retrieved: int = Field(16, ge=0, description="nodes that only the retrieval has, at most")
        first_k: int = Field(10, ge=0, description="first tokens that pass: the model's likeliest")
        first_prob: float = Field(
            0.01, ge=0.0, le=1.0, description="and those that the model gives so much"
        )
        least: float = Field(
            0.02, ge=0.0, le=1.0, description="probability of a retrieved path at least"
        )
        weight: float = Field(
            0.5, ge=0.0, le=1.0, description="of the retrieval where the model has its own guesses"
        )
        trust: float = Field(
            3.0, ge=0.0, description="tokens of a match whose copy is right every other time"
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Rasd.Options = options
        self.store = open_beside(
            options.store, context.assets, context.vocab, context.tokenizer_hash, options.verify
        )
        self._reading = Reading()
        self._index = f"{self.name}.index"  # beside the base's memory in `session.memo`

    def begin(self, session: Session) -> None:
        """Index the prompt."""
        index = NgramIndex(INDEXED, SHORTEST)
        index.find(session.tokens)
        session.memo[self._index] = index

    def end(self, session: Session) -> None:
        """Drop the index and give the model's rows back."""
        session.memo.pop(self._index, None)
        super().end(session)

    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> Fused:
        """See the base class; `_growth` adds what was retrieved."""
        return Fused(budget, generator, greedy, session.warper.eos, self.options)

    def _growth(self, session: Session, budget: Budget) -> Growth:
        growth = super()._growth(session, budget)
        if isinstance(growth, Fused) and growth.frontier:
            # with the whole budget's depth: retrieved paths go deeper than the model is run
            growth.retrieved = [tree for tree in self.retrieve(session, budget) if len(tree)]
        return growth

    def retrieve(self, session: Session, budget: Budget) -> list[DraftTree]:
        """What corpus and text say about how the context goes on; evidence is `rest`'s."""
        depth = min(budget.depth, self.options.length)
        allowed, tokens = replace(budget, depth=depth), session.tokens
        found = []
        if self.store is not None:
            read = self._reading
            places = read.places(self.store, tokens[-read.longest :])
            found.append(continuations(self.store, places, allowed, self.context.eos, read))
        length, end = match(session.memo[self._index], tokens)
        if length:
            chain = continuation(tokens, end, min(depth, budget.nodes), self.context.eos)
            matched = range(length, length + len(chain))
            q = [n / (n + self.options.trust) for n in matched]
            found.append(
                replace(DraftTree.chain(chain, q), evidence=[match_class(length)] * len(q))
            )
        return found


def match(index: NgramIndex, tokens: list[int]) -> tuple[int, int]:
    """(length, end) of the latest place of the longest indexed tail; the length is that of all the
    text that agrees there, at most LONGEST. (0, 0) if there is none."""
    length, end = index.find(tokens)
    while 0 < length < min(LONGEST, end) and tokens[end - length - 1] == tokens[-length - 1]:
        length += 1
    return length, end


class Fused(BestFirst):
    """The model's likeliest tree; `tree` is fused with `retrieved`."""

    def __init__(
        self,
        budget: Budget,
        generator: torch.Generator,
        greedy: bool,
        eos: Collection[int],
        options: Rasd.Options,
    ) -> None:
        super().__init__(budget, generator, greedy, eos, options.width)
        self.options = options
        self.retrieved: Sequence[DraftTree] = ()
        self._first: dict[int, float] = {}  # first tokens that passed: the model's probability
        self._deepest: int | None = None  # where a policy stopped the draft

    def grow(self, logprobs: Tensor) -> None:
        """See the base class; the first row is the retrieved paths' judge."""
        if not self.levels:
            self._first = gate(
                logprobs[0], self.retrieved, self.options.first_k, self.options.first_prob
            )
        super().grow(logprobs)

    def stop(self) -> None:
        """What was retrieved ends there, too."""
        super().stop()
        self._deepest = self.levels

    def tree(self) -> DraftTree:
        """The best nodes of both."""
        own, options = super().tree(), self.options
        fused = fuse(own, self.retrieved, self._first, options.weight)
        best, deepest = cut(fused, self.budget, options.retrieved, options.least), self._deepest
        if deepest is None:
            return best
        return best.prune(node for node, depth in enumerate(best.depths) if depth <= deepest)
