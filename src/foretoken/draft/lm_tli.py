"""lm-tli: a small model of another vocabulary draws a chain of the tokens that both have.

Token-level intersection: the small model's logits outside the shared tokens are -inf, the others
are renormalised and stand at the target's ids. So q' is a law over the target's vocabulary that the
draft was really drawn from, and every rule for drawn chains is exact. The request's processing
(temperature, top-p, penalties) acts on q' at the target's ids, as in `lm-sampled`. The chance to
accept is the sum of min(p, q') over the shared tokens, never less than with q extended by zeros.

Source: Timor et al. 2502.05202, algorithm 4. Done otherwise: tokens are shared if they write the
same bytes, and the small model always reads the text as its own tokenizer writes it; the paper
re-encodes only where the target wrote a token that is not shared. Cost: one forward of the small
model per token. With the target's own tokenizer it is `lm-sampled`. It learns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.base import Context
from foretoken.draft.foreign import Foreign, ForeignDraft
from foretoken.draft.growth import spelled
from foretoken.draft.lm_sampled import Chain
from foretoken.draft.transcript import Transcript
from foretoken.errors import CapabilityError
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session


class SharedDraft(ForeignDraft):
    """A draft of tokens that both vocabularies have."""

    def processed(self, logits: Tensor, temperature: float | None) -> Tensor:
        """[1, drafter's rows] float32: logits of q'; -inf outside the shared tokens."""
        warper, growth, rows = self.memory.warper, self.growth, self.pair.lift(logits.float())
        if temperature is not None and not growth.greedy:
            rows = rows / temperature
        elif not (growth.greedy and warper.trivial):
            paths = [
                [self.pair.to_target[i] for i in spelled(node, growth.tokens, growth.parents)]
                for node in growth.frontier
            ]
            rows = warper.warp_rows(rows, self.session.tokens, paths)
        return self.pair.lower(rows)


class LmTli(Foreign):
    """A drawn chain; the likeliest one for greedy text."""

    name = "lm-tli"
    summary = "a small model of any vocabulary draws a chain of the tokens that both have"
    source = "Timor et al. 2502.05202, algorithm 4 (token-level intersection)"
    emits: Kind = "sampled"
    verifier = "block"
    drafts: ClassVar[type[ForeignDraft]] = SharedDraft

    class Options(Foreign.Options):
        """The base's, and how sharp."""

        temperature: float | None = Field(
            None,
            gt=0.0,
            description="q' is softmax(logits / temperature) in drawn text; None: the request's "
            "own processing",
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: LmTli.Options = options
        self.temperature = options.temperature
        if not self.pair.shared:
            raise CapabilityError(
                f"drafter {self.name!r}: the small model shares no token with the target; "
                "lm-slem needs none"
            )

    def tokens_for(self, nodes: int, transcript: Transcript) -> int:  # noqa: ARG002
        """One each."""
        return nodes

    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> Chain:
        """See the base class."""
        return Chain(budget, generator, greedy, self.ends(session))

    def translate(self, draft: ForeignDraft) -> DraftTree:
        """The same chain at the target's ids."""
        tree = draft.growth.tree()
        tokens: Sequence[int] = [self.pair.to_target[token] for token in tree.tokens]
        dist = None if tree.dist is None else self.pair.lift(tree.dist, 0.0)
        return replace(tree, tokens=tokens, dist=dist)
