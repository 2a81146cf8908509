"""Drafters whose small model has a tokenizer of its own: what they share.

The small model reads the session's text in its own tokens (`transcript`) and grows a draft of them
as `lm` does; a method says which of its tokens may be drafted, and what the drafted ones are in the
target's vocabulary. Its memory of keys and values follows the text: where an earlier token becomes
another one, everything from there on is read again.

With the target's own tokenizer the two texts are one, and all of these drafters are forms of `lm`.
Source: Timor et al. 2502.05202, algorithms 2 and 4, and OmniDraft 2507.02659, algorithm 1.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.growth import Growth
from foretoken.draft.lm import ROWS_AHEAD
from foretoken.draft.lm_draft import Draft, Memory, grow_together, own_warper
from foretoken.draft.transcript import Pair, Transcript
from foretoken.draft.vocabularies import Vocabularies, vocabularies
from foretoken.prompt.chance import PositionRandom
from foretoken.prompt.tokens import load_tokenizer
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session, Step

if TYPE_CHECKING:  # transformers takes seconds to import, and listing methods needs none of it
    from foretoken.draft.lm_model import SmallModel


@dataclass(kw_only=True)
class ForeignMemory(Memory):
    """What the drafter holds of one session. `rows` and `cache` count in the drafter's tokens."""

    transcript: Transcript
    read: int = -1  # of its ids, how many the last draft follows; -1: none was drafted
    # the last draft's own tokens, and how many of them spell each node of the tree and those above
    drafted: tuple[Sequence[int], Sequence[int]] = ((), ())


class ForeignDraft(Draft):
    """One session's draft in the drafter's own tokens; `most` of the target's may come of it."""

    def __init__(
        self,
        session: Session,
        memory: ForeignMemory,
        growth: Growth,
        wanted: frozenset[str],
        most: int,
    ) -> None:
        super().__init__(memory.transcript.ids, memory, growth, wanted)
        self.session, self.most = session, most
        self.memory: ForeignMemory = memory
        self.transcript, self.pair = memory.transcript, memory.transcript.pair


class Foreign(Drafter):
    """Base: loading, the session's two texts, the cache and its rollback, forwards for a batch.

    No draft where the text is longer than the small model's context, or ends inside a character
    that it has no tokens for. Raises ConfigError for a model that is missing, CapabilityError for a
    target or model without a tokenizer, when the drafter is made.
    """

    nodes = 6
    runs_model = True
    gives = frozenset({"levels", "entropy", "hidden"})
    drafts: ClassVar[type[ForeignDraft]] = ForeignDraft
    temperature: float | None = None  # of drawn drafts; None: the method's own affair

    class Options(types.Options):
        """Which model, and how deep."""

        model: Any = Field(
            None,
            description="folder, hub name or model of any vocabulary; None: the folder 'drafter' "
            "beside the target's weights",
        )
        tokenizer: Any = Field(
            None, description="the model's, or a folder or hub name; None: the one in its folder"
        )
        depth: int = Field(6, ge=1, le=64, description="tokens of its own at most: forwards a step")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Foreign.Options = options
        from foretoken.draft.lm_model import small_model

        self.model: SmallModel = small_model(options.model, context, self.name, foreign=True)
        tokenizer, target = options.tokenizer, self.model.target
        if isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(tokenizer)
        if tokenizer is None:
            tokenizer = self.model.tokenizer
        self.pair: Vocabularies = vocabularies(
            context, tokenizer, target.vocab, target.eos, self.name
        )
        self._wanted: frozenset[str] = frozenset()

    def provide(self, needs: frozenset[str]) -> None:
        """See the base class."""
        super().provide(needs)
        self._wanted |= needs
        if "hidden" in needs:
            self.model.target.watch_hidden()

    @abstractmethod
    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> Growth:
        """How the draft grows. budget: in the drafter's own tokens."""

    @abstractmethod
    def translate(self, draft: ForeignDraft) -> DraftTree:
        """The draft in the target's tokens, `draft.most` of them or fewer."""

    @property
    def nothing(self) -> DraftTree:
        """No draft."""
        return DraftTree(kind=self.emits)

    def tokens_for(self, nodes: int, transcript: Transcript) -> int:
        """How many of its own tokens the drafter needs for so many of the target's: as many as in
        the text so far."""
        ratio = len(transcript.ids) / max(transcript.seen, 1)
        return math.ceil(nodes * max(ratio, 1.0))

    def ends(self, session: Session) -> set[int]:
        """The drafter's tokens that end the session's text."""
        known = (self.pair.to_drafter[token] for token in session.warper.eos)
        return {ours for ours in known if ours >= 0}

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """`propose_batch` of one."""
        return self.propose_batch([(session, budget)])[0]

    def propose_batch(self, asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        """All drafts grow together, one forward of the small model per token of it."""
        with self.model.lock:
            drafts = [self._draft(session, budget) for session, budget in asked]
            growing = [draft for draft in drafts if draft is not None and draft.growth.frontier]
            grow_together(self.model.target, growing, self.temperature)
        return [self.nothing if draft is None else self.translate(draft) for draft in drafts]

    def _draft(self, session: Session, budget: Budget) -> ForeignDraft | None:
        nodes = min(budget.nodes, budget.depth)
        if nodes < 1:
            return None
        memory = self.memory(session)
        transcript, target = memory.transcript, self.model.target
        held = len(transcript.ids)
        # the last token is not scored, so the text may end on the model's last position
        room = min(self.options.depth, target.max_draft, target.max_context - held + 1)
        if held == 0 or room < 1 or transcript.broken:
            return None
        memory.read = held
        most = min(self.tokens_for(nodes, transcript), room)
        sampling = session.request.sampling
        generator = PositionRandom(sampling.seed).generator(len(session.tokens), target.device)
        allowed = replace(budget, nodes=most, depth=most, shape=None)
        growth = self.growth(session, allowed, generator, sampling.greedy)
        return self.drafts(session, memory, growth, self._wanted, nodes)

    def memory(self, session: Session) -> ForeignMemory:
        """The session's memory, its text up to date; the cache holds less than all of it, since the
        last token's row of logits is where the draft begins."""
        memory: ForeignMemory | None = session.memo.get(self.name)
        target = self.model.target
        if memory is None:
            transcript = Transcript(self.pair)
            prompt = session.tokens[: session.n_prompt]
            self.learn(session, transcript.follow(prompt)[1], prompt=True)
            self.learn(session, transcript.follow(session.tokens)[1])
            capacity = min(len(transcript.ids) + session.room + ROWS_AHEAD, target.max_context)
            cache = target.new_cache(capacity)
            memory = ForeignMemory(cache, own_warper(session), transcript=transcript)
            session.memo[self.name] = memory
        memory.rows, memory.read = {}, -1
        memory.cache.truncate(min(memory.cache.length, max(len(memory.transcript.ids) - 1, 0)))
        return memory

    def learn(self, session: Session, pairs: Sequence[Pair], prompt: bool = False) -> None:
        """New target tokens of the text, with the drafter's tokens of the same text."""

    def observe(self, session: Session, step: Step) -> None:  # noqa: ARG002
        """Follow the text; keep the rows of what was committed and had been scored."""
        memory: ForeignMemory | None = session.memo.get(self.name)
        if memory is None:
            return
        cache, transcript, rows = memory.cache, memory.transcript, memory.rows
        stayed, pairs = transcript.follow(session.tokens)
        path: list[int] = []
        if stayed == memory.read:
            for token in transcript.ids[stayed:-1]:  # the last one is read for the next draft
                row = rows.get((path[-1] if path else -1, token))
                if row is None:
                    break
                path.append(row)
        with self.model.lock:
            if cache.length == memory.read:  # something was drafted in this step
                cache.keep(path)
            if not path:
                cache.truncate(min(cache.length, stayed))
        memory.rows, memory.read = {}, -1
        self.learn(session, pairs)

    def end(self, session: Session) -> None:
        """Give the session's rows back."""
        memory = session.memo.pop(self.name, None)
        if memory is not None:
            with self.model.lock:
                memory.cache.release()
