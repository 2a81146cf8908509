"""prompt-lookup: copy what followed the last few tokens when they occurred before.

Source: Saxena 2023, Prompt Lookup Decoding. Where the author takes
the leftmost full-length match, this takes the longest n-gram and then its *latest* place, and a
match may overlap the tail, so that a loop goes on in circles. Exact: the draft is fixed.
Cost: O(new tokens) per step through an incremental index. It learns nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.ngram_index import NgramIndex, copied
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session


class PromptLookup(Drafter):
    """One chain per step, or nothing where the tail is new."""

    name = "prompt-lookup"
    summary = "copy what followed the last tokens earlier in the context"
    source = "Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding"
    nodes = 10
    light = True

    class Options(types.Options):
        """How long a match to look for, and how much to copy."""

        max_ngram: int = Field(3, ge=1, le=16, description="longest tail to look for")
        min_ngram: int = Field(1, ge=1, le=16, description="shortest tail worth a draft")
        length: int = Field(10, ge=1, le=1024, description="tokens to copy at most")

        @model_validator(mode="after")
        def _ordered(self) -> PromptLookup.Options:
            if self.min_ngram > self.max_ngram:
                raise ValueError("min_ngram must not exceed max_ngram")
            return self

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: PromptLookup.Options = options

    def begin(self, session: Session) -> None:
        """Index the prompt."""
        index = NgramIndex(self.options.max_ngram, self.options.min_ngram)
        index.find(session.tokens)
        session.memo[self.name] = index

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """What followed the longest tail that occurred before, at its latest place."""
        room = replace(budget, nodes=min(self.options.length, budget.nodes))
        return copied(session.memo[self.name], session.tokens, room, self.context.eos)

    def end(self, session: Session) -> None:
        """Drop the index."""
        session.memo.pop(self.name, None)
