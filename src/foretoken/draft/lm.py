"""lm: a small language model of the same vocabulary drafts for the target.

`LmDrafter` runs the model for every form of draft; a form says how the draft grows from rows of
log-probabilities (`Growth`). One forward of the small model gives one level of the drafts of all
sessions, whatever their width; the last level is not scored. q is the small model's distribution
after the request's own processing (temperature, top-p, penalties ...), so that it is near p; only
processors that the user wrote are left out, since they may count their calls.
Source: Leviathan et al. 2211.17192 and Chen et al. 2302.01318 (the model), SpecInfer 2305.09781
(one forward per level). Exact under every rule that accepts the form's kind. Cost: `depth` forwards
of the small model per step, and its KV memory. It learns nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.growth import Growth
from foretoken.draft.lm_draft import Draft, Memory, grow_together, own_warper
from foretoken.draft.shaped import shaped
from foretoken.prompt.chance import PositionRandom
from foretoken.prompt.sampling import argmax_rows
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session, Step

if TYPE_CHECKING:  # transformers takes seconds to import, and listing methods needs none of it
    from foretoken.draft.lm_model import SmallModel

ROWS_AHEAD = 64  # rows of memory beside the text, for drafts; more are made when they are needed


class LmDrafter(Drafter):
    """Base of the forms: loading, the session's cache and its rollback, forwards for a batch.

    A text longer than the small model's context gets no draft. Raises ConfigError for a model that
    is missing or has another vocabulary or tokenizer, when the drafter is made.
    """

    grows: ClassVar[type[Growth]]  # takes the form's own options by name
    nodes = 12
    runs_model = True
    gives = frozenset({"levels", "entropy", "hidden"})

    class Options(types.Options):
        """Which model, how deep, how sharp."""

        model: Any = Field(
            None,
            description="folder, hub name or model of the target's vocabulary; None: the folder "
            "'drafter' beside the target's weights",
        )
        domain: str = Field("", description="whose tables a sketched folder is loaded with")
        depth: int = Field(12, ge=1, le=64, description="levels at most: forwards per step")
        temperature: float | None = Field(
            None,
            gt=0.0,
            description="q is softmax(logits / temperature) in drawn text; None: the request's own "
            "processing",
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: LmDrafter.Options = options
        self.model: SmallModel = self.load_model(context)
        self._wanted: frozenset[str] = frozenset()

    def load_model(self, context: Context) -> SmallModel:
        """The model that drafts; a form may make something of its own of it."""
        from foretoken.draft.lm_model import small_model

        return small_model(self.options.model, context, self.name, domain=self.options.domain)

    def provide(self, needs: frozenset[str]) -> None:
        """See the base class."""
        super().provide(needs)
        self._wanted |= needs
        if "hidden" in needs:
            self.model.target.watch_hidden()

    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> Growth:
        """How this form grows its draft, or as `budget.shape` asks. budget: already cut to `depth`
        and the model's context; a drawn node may not go for its own probability (`min_prob`)."""
        if budget.shape is not None and "shapes" in self.gives:
            return shaped(self.emits, budget, generator, greedy, session.warper.eos)
        own = type(self.options).model_fields.keys() - LmDrafter.Options.model_fields.keys()
        shape = {name: getattr(self.options, name) for name in own}
        return self.grows(budget, generator, greedy, session.warper.eos, **shape)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """`propose_batch` of one."""
        return self.propose_batch([(session, budget)])[0]

    def propose_batch(self, asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        """All drafts grow together: a forward for the root, then one for each level but the last;
        a draft that is finished drops out."""
        with self.model.lock:
            growths = [self._growth(session, budget) for session, budget in asked]
            growing = [
                Draft(session.tokens, self._memory(session), growth, self._wanted)
                for (session, _), growth in zip(asked, growths, strict=True)
                if growth.frontier
            ]
            grow_together(self.model.target, growing, self.options.temperature)
        return [growth.tree() for growth in growths]

    def _growth(self, session: Session, budget: Budget) -> Growth:
        held, target = len(session.tokens), self.model.target
        # the last level is not scored, so the root may stand on the model's last position
        room = max(target.max_context - held + 1, 0)
        allowed = replace(
            budget,
            nodes=min(budget.nodes, target.max_draft),
            depth=min(budget.depth, self.options.depth, room),
        )
        sampling = session.request.sampling
        generator = PositionRandom(sampling.seed).generator(held, target.device)
        return self.growth(session, allowed, generator, sampling.greedy)

    def _memory(self, session: Session) -> Memory:
        """The session's memory, cut to committed text without its root: the root is read anew if it
        was read before, since its row of logits is where the draft begins."""
        held, target = len(session.tokens), self.model.target
        memory: Memory | None = session.memo.get(self.name)
        if memory is None:
            capacity = min(held + session.room + ROWS_AHEAD, target.max_context)
            memory = Memory(target.new_cache(capacity), own_warper(session))
            session.memo[self.name] = memory
        memory.rows = {}
        memory.cache.truncate(min(memory.cache.length, held - 1))
        return memory

    def observe(self, session: Session, step: Step) -> None:
        """Keep the rows of what was committed and had been scored; forget the others."""
        memory = session.memo.get(self.name)
        if memory is None or memory.cache.length != step.context:
            return  # nothing was drafted in this step
        rows, memory.rows = memory.rows, {}
        path: list[int] = []
        for token in session.tokens[step.context : -1]:  # the last one is the next root
            row = rows.get((path[-1] if path else -1, token))
            if row is None:
                break
            path.append(row)
        with self.model.lock:
            memory.cache.keep(path)

    def end(self, session: Session) -> None:
        """Give the session's rows back."""
        memory = session.memo.pop(self.name, None)
        if memory is not None:
            with self.model.lock:
                memory.cache.release()


class GreedyChain(Growth):
    """The likeliest token at each level, until the chain gets too improbable or the text ends."""

    kind = "point"

    def grow(self, logprobs: Tensor) -> None:
        """See the base class; the frontier is one node."""
        (parent,) = self.frontier
        (token,), (best,) = argmax_rows(logprobs)
        logprob = min(best, 0.0)  # above it by rounding only
        likely = self.above(parent) + logprob >= self._least
        q = math.exp(logprob)
        self.advance([self.add(parent, token, q, logprob=logprob)] if likely else [])


class Lm(LmDrafter):
    """The plainest form: one chain of likeliest tokens."""

    name = "lm"
    summary = "a small model of the same vocabulary drafts its likeliest chain"
    source = "Leviathan et al. 2211.17192, sec. 2; Chen et al. 2302.01318, with greedy drafts"
    emits: Kind = "point"
    gives = LmDrafter.gives | {"shapes", "turns"}
    grows = GreedyChain
