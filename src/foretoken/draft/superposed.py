"""superposed: k drafts of a small model for the price of one, told apart by n-grams.

At every level the small model reads one mean of the embeddings of the k drafts' last tokens, each
weighed by its draft's share of the score, and its one row of logits serves them all; n-grams of
each draft's own text (counts of the live context, and the tri-gram table beside the target) say
which token goes with which draft. The drafts are merged in a trie and checked in one forward.

Source: Shen et al., Superposed Decoding, NeurIPS 2024, arXiv 2405.18400;
our notes on superposed-decoding. That paper writes text with it; as a drafter it is unpublished
(section 3, "Use as a drafter"). Differences: n-grams come from the live context and a small table
instead of 14 GB of counts; what fell out of the beam is drafted too (`ends_only` leaves it out),
since it costs the small model nothing; a score is no probability, so q is another figure, made to
be near the target's (`superposed_beam.Beam._own`). The first level is the model's own top k.

Exact: the draft is fixed, so the target's token is drawn and followed. Cost: `depth` forwards of
one row of the small model per step, whatever k is, and k x S x 5 look-ups a level. The rows that
were read superposed belong to no real text, so they are dropped and what was committed is read
anew. Learns: n-gram counts, shared by `scope`; "request" is all that the method needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from foretoken import types
from foretoken.draft.aded import ASSET, LONGEST_PROMPT
from foretoken.draft.base import Context, Drafter
from foretoken.draft.ngram_counts import NgramCounts, Smoother
from foretoken.draft.scopes import Scope, Scopes
from foretoken.draft.superposed_beam import Beam, Shape
from foretoken.draft.trigram_table import TrigramTable
from foretoken.errors import ArtifactError, CapabilityError, ForetokenError
from foretoken.target.base import Job, KVCache
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session, Step

if TYPE_CHECKING:  # transformers takes seconds to import, and listing methods needs none of it
    from foretoken.draft.lm_model import SmallModel

ROWS_AHEAD = 64  # rows of memory beside the text, for drafts
LAMBDAS = (0.01, 0.04, 0.15, 0.18, 0.12)  # the paper's, for contexts of 1 .. 5 tokens


@dataclass
class _Memory:
    """What the drafter holds of one session."""

    smoother: Smoother
    cache: KVCache | None = None


class Superposed(Drafter):
    """A trie of k drafts; no draft where the text is longer than the small model's context."""

    name = "superposed"
    summary = "k drafts from one pass of a small model, told apart by n-grams"
    source = "Shen et al. 2024, arXiv 2405.18400; as a drafter, own"
    nodes = 12
    runs_model = True

    class Options(types.Options):
        """The paper's constants are those for three drafts."""

        model: Any = Field(
            None,
            description="folder, hub name or model of the target's vocabulary; None: the folder "
            "'drafter' beside the target's weights",
        )
        drafts: int = Field(3, ge=1, le=10, description="k, kept from level to level")
        depth: int = Field(6, ge=1, le=32, description="levels at most: forwards per step")
        alpha: float = Field(0.54, ge=0.0, le=1.0, description="weight of n-grams; 0: none")
        tau: float = Field(0.06, gt=0.0, description="temperature of the shared row in scores")
        keep: int | None = Field(None, ge=1, description="S, tokens of a row; None: 3 per draft")
        delta: float = Field(200.0, ge=0.0, description="score lost where no n-gram is known")
        lambdas: tuple[float, ...] = Field(
            LAMBDAS, min_length=1, max_length=8, description="of contexts of 1, 2 ... tokens"
        )
        ends_only: bool = Field(False, description="draft the last k alone, as the paper does")
        table: Path | None = Field(None, description="tri-gram table; None: the model's own")
        scope: Scope = Field("request", description="who shares what is counted")
        max_ngrams: int = Field(1_000_000, ge=1, description="n-grams; the longest unwritten goes")

        @field_validator("lambdas")
        @classmethod
        def _weights(cls, value: tuple[float, ...]) -> tuple[float, ...]:
            if min(value) < 0.0 or sum(value) > 1.0:
                raise ValueError("weights must not be negative nor sum to more than 1")
            return value

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Superposed.Options = options
        from foretoken.draft.lm_model import small_model

        self.model: SmallModel = small_model(options.model, context, self.name)
        if hasattr(self.model.target, "warm_up"):
            raise CapabilityError(
                f"drafter {self.name!r} changes what its model reads, which a compiled model does "
                "not see; give it one that is not compiled"
            )
        self.table = _table(options.table, context) if options.alpha else None
        keep = options.keep or 3 * options.drafts
        self.shape = Shape(options.drafts, options.alpha, options.tau, keep, options.delta)
        self._stores: Scopes[NgramCounts] = Scopes(
            options.scope,
            lambda: NgramCounts(len(options.lambdas), options.max_ngrams),
            options.max_ngrams,
        )

    def begin(self, session: Session) -> None:
        """Find the store of the session's scope and count the prompt."""
        counts = self._stores.open(session)
        if self.options.alpha:
            counts.add(session.tokens[-LONGEST_PROMPT:], 1)
        smoother = Smoother(counts, self.options.lambdas, self.table)
        session.memo[self.name] = _Memory(smoother)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """The drafts below the root, one forward of the small model per level."""
        target, held = self.model.target, len(session.tokens)
        # the last level is not read, so the root may stand on the model's last position
        room = max(target.max_context - held + 1, 0)
        depth = min(budget.depth, self.options.depth, room, budget.nodes, target.max_draft)
        if depth < 1:
            return EMPTY
        memory: _Memory = session.memo[self.name]
        text = session.tokens[-len(self.options.lambdas) :]
        temperature = session.request.sampling.temperature or 1.0
        beam = Beam(self.shape, memory.smoother, text, self.context.eos, temperature)
        with self.model.lock:
            cache = self._cache(memory, session)
            self._grow(beam, cache, session.tokens, replace(budget, depth=depth))
        return beam.tree(budget, self.options.ends_only)

    def _grow(self, beam: Beam, cache: KVCache, tokens: Sequence[int], budget: Budget) -> None:
        target = self.model.target
        logits = target.score([Job(cache, tokens[cache.length :], EMPTY)])[0].logits[-1]
        cache.keep(())  # committed text: no verdict can take it back
        for level in range(budget.depth):
            if level:
                logits = superposed_row(target, cache, level - 1, beam.mixture())
            if bool(logits[0].isnan()):  # one such logit makes its whole row NaN
                raise ForetokenError(f"token {len(tokens)}: the drafter's logits contain NaN")
            beam.grow(logits)
            # what is less likely than allowed has no likelier children
            if all(draft.joint < budget.min_prob for draft in beam.alive):
                break

    def _cache(self, memory: _Memory, session: Session) -> KVCache:
        """The session's rows, cut to committed text without its root, which is read anew."""
        held, target = len(session.tokens), self.model.target
        if memory.cache is None:
            capacity = min(held + session.room + ROWS_AHEAD, target.max_context)
            memory.cache = target.new_cache(capacity)
        memory.cache.truncate(min(memory.cache.length, held - 1))
        return memory.cache

    def observe(self, session: Session, step: Step) -> None:
        """Count what was committed."""
        if self.options.alpha:
            memory: _Memory = session.memo[self.name]
            memory.smoother.counts.add(session.tokens, step.context)

    def end(self, session: Session) -> None:
        """Give the session's rows back, and its store where the scope ends with it."""
        memory: _Memory = session.memo.pop(self.name)
        self._stores.close(session)
        if memory.cache is not None:
            with self.model.lock:
                memory.cache.release()

    def state(self) -> dict[str, Any]:
        """Counts by tenant, JSON-ready; nothing for scopes that end with their session."""
        return self._stores.state(self.context.tokenizer_hash)

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it was counted with another tokenizer."""
        self._stores.load(state, self.name, self.context.tokenizer_hash)


def superposed_row(target: Any, cache: KVCache, read: int, mixture: Mapping[int, float]) -> Tensor:
    """[V] logits after one more row, whose input is the weighted mean of some embeddings.

    read: superposed rows that the cache holds after its committed ones; now there is one more.
    """
    tokens = list(mixture)
    # the row's place and mask are those of a chain; the token itself is never looked at
    job = Job(cache, (), DraftTree.chain(tokens[:1] * (read + 1)), read)
    with _mixed_embedding(target.model, tokens, list(mixture.values())):
        logits: Tensor = target.score([job])[0].logits[-1]
    return logits


@contextmanager
def _mixed_embedding(model: Any, tokens: list[int], weights: list[float]) -> Iterator[None]:
    """Meanwhile the first row that this thread's forwards read is the mean of these tokens'.

    In place of `inputs_embeds`, so that whatever a family does to its embeddings (scaling, learned
    positions) and to its rows (padding) stays as it is.
    """
    layer, thread = model.get_input_embeddings(), get_ident()
    with torch.inference_mode():
        rows: Tensor = layer(torch.tensor(tokens, device=layer.weight.device))
        mean = torch.tensor(weights, device=rows.device) @ rows.float()

    def mix(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        if get_ident() != thread:  # the model may be someone's target, too
            return output
        out = output.clone()
        out[0, 0] = mean.to(out.dtype)
        return out

    handle = layer.register_forward_hook(mix)
    try:
        yield
    finally:
        handle.remove()


def _table(path: Path | None, context: Context) -> TrigramTable | None:
    """The table named, the model's own, or none."""
    if path is None and context.assets is not None:
        beside = context.assets / ASSET
        path = beside if beside.exists() else None
    if path is None:
        return None
    table = TrigramTable.open(path, context.tokenizer_hash, verify=True)
    if table.vocab > context.vocab:
        raise ArtifactError(f"{path}: made for {table.vocab} tokens, the model has {context.vocab}")
    return table
