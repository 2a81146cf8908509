"""omnidraft: a small model of any vocabulary, with n-grams of its tokens learned while decoding.

The small model drafts tokens of its own. From left to right the longest n-gram that is known to be
one token of the target is merged into it, else a token that both vocabularies have stands for
itself (`vocabularies`), else the draft ends. Whatever target token was committed and is n >= 2
tokens of the drafter in the same text becomes an n-gram. Tokens that are neither shared nor in an
n-gram are not drafted.

`rule="exact"`, the default: the likeliest chain is drafted, fixed, so that the target's own token
is drawn and compared, whatever q was. `rule="paper"` is LOSSY: the chain is drawn, a merged token
has q' = product of its parts, the first part keeps q minus that product, and tokens are accepted
with min(1, p / q'). That would be exact if q' were the law of what is proposed, and it is not where
n-grams share their first token or a draft ends inside one. The guarantee says so.

Source: Ramakrishnan et al. 2507.02659 (OmniDraft), algorithm 1; greedy text is exact there, too.
Ours: the exact rule, longest match, what is not drafted, bytes in place of strings, a bound on the
n-grams, and that prompts teach n-grams. Learns: n-grams by `scope`; with `every`, the small model's
weights (`learn.online.omnidraft`, a copy of them), which needs scope "process". Cost: a forward of
the small model per token of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.base import Context
from foretoken.draft.foreign import Foreign, ForeignDraft, ForeignMemory
from foretoken.draft.lm import GreedyChain
from foretoken.draft.lm_sampled import Chain
from foretoken.draft.lm_slem import OwnDraft, chain
from foretoken.draft.omnidraft_cache import NgramCache
from foretoken.draft.scopes import Scope, Scopes, check_tokenizer
from foretoken.draft.transcript import Pair
from foretoken.draft.vocabularies import Vocabularies
from foretoken.errors import ConfigError
from foretoken.learn.online.omnidraft import Distiller, Notes
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session, Step

CACHE, NOTES = "omnidraft.cache", "omnidraft.notes"  # in `session.memo`
Part = tuple[int, int, int]  # start and end in the draft, target token


class MergedDraft(OwnDraft):
    """A draft of tokens that become target tokens, alone or merged."""

    def processed(self, logits: Tensor, temperature: float | None) -> Tensor:
        """[1, drafter's rows] float32: as the base's; -inf for what becomes no target token."""
        cache: NgramCache = self.session.memo[CACHE]
        useful = cache.useful(self.pair, logits.device)
        return super().processed(logits, temperature).masked_fill(~useful, -math.inf)


class OmniDraft(Foreign):
    """A chain of shared and merged tokens."""

    name = "omnidraft"
    trains = True
    summary = "a small model of any vocabulary, its tokens merged by n-grams learned online"
    source = "Ramakrishnan et al. 2507.02659 (OmniDraft, NeurIPS 2025), algorithm 1"
    emits: Kind = "point"
    verifier = "walk"
    lossy_with: ClassVar[str] = "rule=paper"
    drafts: ClassVar[type[ForeignDraft]] = MergedDraft

    class Options(Foreign.Options):
        """The base's, the n-grams, the rule, and learning."""

        scope: Scope = Field("tenant", description="who shares the learned n-grams")
        max_ngrams: int = Field(32_768, ge=1, description="n-grams, of idle caches together")
        prompt: bool = Field(True, description="learn n-grams from prompts, too")
        rule: Literal["exact", "paper"] = Field(
            "exact",
            description="exact: draw the target's token and compare; paper: min(1, p / q') with "
            "the merged q', which is LOSSY for drawn text",
        )
        every: int = Field(0, ge=0, description="finished requests per update of weights; 0: none")
        steps: int = Field(1, ge=1, le=64, description="gradient steps per update")
        lr: float = Field(1e-4, gt=0.0, description="AdamW's learning rate")
        ngram_weight: float = Field(0.2, ge=0.0, description="lambda, of the n-grams' loss")
        window: int = Field(512, ge=2, description="drafter tokens of a text that teach")
        held: int = Field(4096, ge=1, description="rows that wait for an update at most")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: OmniDraft.Options = options
        if options.rule == "paper":
            self.emits, self.verifier = "sampled", "token"
            self.lossy = "merged tokens are not quite drawn from the q' that is stated (rule=paper)"
        most = options.max_ngrams
        self._stores: Scopes[NgramCache] = Scopes(options.scope, lambda: NgramCache(most), most)
        self.distiller: Distiller | None = None
        self._ended = 0
        if options.every:
            self._learns(options)

    def _learns(self, options: OmniDraft.Options) -> None:
        """Draft with a copy of the model, whose weights will change."""
        if options.scope != "process":
            accepted = "0, or scope 'process': the weights are shared by all who draft with them"
            raise ConfigError(f"{self.name}.every", options.every, accepted)
        from foretoken.draft.lm_model import SmallModel
        from foretoken.target.small import target_like

        self.distiller = Distiller(
            self.model.target.model, self.pair, options.lr, options.ngram_weight, options.window,
            options.held,
        )  # fmt: skip
        served = target_like(self.model.target, self.distiller.serving)
        self.model = SmallModel(served, self.model.name or served.name)

    def begin(self, session: Session) -> None:
        """Find the n-grams of the session's scope."""
        session.memo[CACHE] = self._stores.open(session)
        if self.distiller is not None:
            session.memo[NOTES] = Notes()

    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> GreedyChain | Chain:
        """See the base class."""
        form = Chain if self.options.rule == "paper" else GreedyChain
        return form(budget, generator, greedy, self.ends(session))

    def translate(self, draft: ForeignDraft) -> DraftTree:
        """See the base class."""
        tree, joint = draft.growth.tree(), draft.growth.joint
        parts = merged(self.pair, draft.session.memo[CACHE], tree.tokens)[: draft.most]
        draft.memory.drafted = tree.tokens, [end for _, end, _ in parts]
        found = chain([token for _, _, token in parts], [joint[end - 1] for _, end, _ in parts])
        if self.options.rule == "exact":
            return found
        if tree.dist is None or not parts:
            return DraftTree.chain(found.tokens, found.q, "sampled")
        rows = merged_laws(self.pair, tree.dist, tree.tokens, parts)
        return DraftTree(
            found.tokens, found.parents, found.q, "sampled", rows, list(range(len(parts)))
        )

    def learn(self, session: Session, pairs: Sequence[Pair], prompt: bool = False) -> None:
        """Target tokens that are several of the drafter's become n-grams."""
        if self.options.prompt or not prompt:
            cache: NgramCache = session.memo[CACHE]
            for pair in pairs:
                if len(pair.gram) > 1:
                    cache.add(pair.gram, pair.token)

    def observe(self, session: Session, step: Step) -> None:
        """See the base class; where weights are learned, note the target's rows."""
        if self.distiller is not None:
            notes: Notes = session.memo[NOTES]
            self.distiller.note(session, step, notes)
            memory: ForeignMemory | None = session.memo.get(self.name)
            if memory is not None and memory.read >= 0 and len(step.tree):
                before = memory.transcript.ids[: memory.read]
                self.distiller.note_refused(step, notes, before, *memory.drafted)
        super().observe(session, step)

    def end(self, session: Session) -> None:
        """Give the rows back; idle caches together hold at most `max_ngrams` n-grams. Every so many
        requests the weights are learned."""
        super().end(session)
        session.memo.pop(CACHE, None)
        self._stores.close(session)
        notes: Notes | None = session.memo.pop(NOTES, None)
        if self.distiller is not None and notes is not None:
            self.distiller.finish(session, notes)
            self._ended += 1
            if self._ended % self.options.every == 0:
                with self.model.lock:
                    self.distiller.learn(self.options.steps)

    def state(self) -> dict[str, Any]:
        """The n-grams by tenant, JSON-ready; nothing for scopes that end with their session."""
        found = self._stores.state(self.context.tokenizer_hash)
        return found and {**found, "drafter_hash": self.pair.hashes[1]}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it is of another pair of tokenizers."""
        if state:
            saved = {"tokenizer_hash": state["drafter_hash"]}
            check_tokenizer(saved, f"{self.name} (drafter)", self.pair.hashes[1])
        self._stores.load(state, self.name, self.context.tokenizer_hash)


def merged(pair: Vocabularies, cache: NgramCache, tokens: Sequence[int]) -> list[Part]:
    """A draft of the drafter's tokens from left to right in the target's: where each begins and
    ends in the draft, and the target's token. It ends where neither an n-gram nor a shared token
    goes on."""
    parts: list[Part] = []
    at = 0
    while at < len(tokens):
        n, token = cache.match(tokens, at) or (1, pair.to_target[tokens[at]])
        if token < 0:
            break
        parts.append((at, at + n, token))
        at += n
    return parts


def merged_laws(
    pair: Vocabularies, rows: Tensor, tokens: Sequence[int], parts: Sequence[Part]
) -> Tensor:
    """[m, target's rows]: the paper's q' at each part. rows: [k, drafter's rows] probabilities that
    the draft's tokens [k] were drawn from."""
    laws = pair.lift(rows[[start for start, _, _ in parts]], 0.0)
    for law, (start, end, token) in zip(laws, parts, strict=True):
        if end - start > 1:
            product = math.prod(float(rows[i, tokens[i]]) for i in range(start, end))
            law[token] += product
            first = pair.to_target[tokens[start]]
            if first >= 0:
                law[first] = max(float(law[first]) - product, 0.0)
    return laws
