"""vocabtrim: a small model that scores the target's frequent tokens alone draws a chain.

Most of a small model's forward is its output layer where the vocabulary is large. VocabTrim keeps
the rows of the tokens that the target writes most often (`vocab_trim.json`, made from its answers
by `foretoken train draft vocab-trim`); what was dropped is never proposed and costs a rejection
when it comes. Source: Goel et al. 2506.22694. Exact: q is zero outside the kept tokens, and rules
draw from the target's whole vocabulary.

Beyond the paper (our notes on vocabtrim, sec. 8): `recalibrate` counts what the target writes, and
when too little of it was among the kept tokens chooses them anew, from these counts and those of
the file. One slice per scope, so that no tenant's drafts tell what another's answers were made of;
sessions with different slices draft one after the other. Every other `lm` form uses the file of its
model's folder as it is.
Cost: one forward per token, without V - k rows of the output layer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from foretoken.draft.base import Context
from foretoken.draft.growth import Growth
from foretoken.draft.lm import LmDrafter
from foretoken.draft.lm_sampled import Chain
from foretoken.draft.scopes import Scope, Scopes
from foretoken.draft.trim import FILE, Counts, Trim, kept_tokens, read_trim
from foretoken.errors import ConfigError
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session, Step

if TYPE_CHECKING:
    from foretoken.draft.lm_model import SmallModel
    from foretoken.draft.trimmed import Slice, TrimmedHead

SLICES = 4  # of stores: how many are held at once; others are cut again when they are needed


class VocabTrim(LmDrafter):
    """A drawn chain of kept tokens."""

    name = "vocabtrim"
    summary = "a small model that scores frequent tokens alone draws a chain"
    source = "Goel et al. 2025, arXiv 2506.22694"
    emits: Kind = "sampled"
    grows = Chain
    verifier = "block"
    nodes = 12

    class Options(LmDrafter.Options):
        """Which tokens, and whether they follow the target."""

        keep: Any = Field(
            None,
            description=f"a {FILE}, a folder with one, or token ids; None: that of the model's "
            "folder",
        )
        k: int | None = Field(None, ge=1, description="keep so many; None: all of the file")
        recalibrate: float = Field(
            0.0,
            ge=0.0,
            le=1.0,
            description="choose anew when less than this share of recent output was kept; 0: never",
        )
        recent: int = Field(512, ge=1, description="tokens of output that are judged together")
        scope: Scope = Field("tenant", description="who shares what is counted")
        max_tokens: int = Field(
            32_768, ge=1, description="tokens of output that counts reach back to, idle ones too"
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: VocabTrim.Options = options
        from foretoken.draft.trimmed import trimmed_head

        head = trimmed_head(self.model.target.model)
        assert head is not None
        self._head: TrimmedHead = head
        trim = self.model.trim
        assert trim is not None
        self.trim: Trim = trim
        self._own = Kept(trim.keep, trim.vocab)
        self._base = trim.known() + self._own.known.astype(np.float64)  # none of them counts as 0
        self._stores: Scopes[Recent] = Scopes(options.scope, self._store, options.max_tokens)
        self._slices: OrderedDict[Kept, Slice] = OrderedDict()

    def load_model(self, context: Context) -> SmallModel:
        """The whole model with a trimmed output layer of this drafter's own."""
        from foretoken.draft.lm_model import SmallModel, small_model
        from foretoken.draft.trimmed import trimmed
        from foretoken.target.small import target_like

        whole = small_model(self.options.model, context, self.name, whole=True)
        trim = self._trim(whole, context)
        twin = trimmed(whole.target.model, trim.keep)
        return SmallModel(target_like(whole.target, twin), whole.name, trim=trim)

    def _trim(self, whole: SmallModel, context: Context) -> Trim:
        keep, field = self.options.keep, f"{self.name}.keep"
        place = whole.name if keep is None else keep
        if isinstance(place, str | Path):
            path = Path(place)
            trim = read_trim(path) if place and path.exists() else None
            if trim is None:
                accepted = f"a {FILE} (`foretoken train draft vocab-trim` makes it) or token ids"
                raise ConfigError(field, keep, accepted)
            trim.check(path, context.tokenizer_hash, context.vocab)
        else:
            ids = set(place) if isinstance(place, Iterable) else set()
            if not ids or not all(isinstance(i, int) and 0 <= i < context.vocab for i in ids):
                accepted = f"a {FILE}, its folder, or token ids from 0 to {context.vocab - 1}"
                raise ConfigError(field, keep, accepted)
            counts = np.zeros(context.vocab, np.int64)
            counts[sorted(ids)] = 1
            trim = Trim.of(counts, len(ids), ids & set(context.eos), context.tokenizer_hash)
        return trim if self.options.k is None else trim.smaller(self.options.k)

    def _store(self) -> Recent:
        return Recent(self.options.max_tokens, self._own)

    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> Growth:
        """See the base class; the options are the output layer's and not the chain's."""
        return Chain(budget, generator, greedy, session.warper.eos)

    def begin(self, session: Session) -> None:
        """Find what the session's scope has counted."""
        self._stores.open(session)

    def propose_batch(self, asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        """Sessions that share a slice draft together."""
        alike: dict[Kept, list[int]] = {}
        for i, (session, _) in enumerate(asked):
            alike.setdefault(self._stores.get(self._stores.key(session)).kept, []).append(i)
        trees: dict[int, DraftTree] = {}
        with self.model.lock:
            for kept, mine in alike.items():
                with self._head.using(self._slice(kept)):
                    grown = super().propose_batch([asked[i] for i in mine])
                trees.update(zip(mine, grown, strict=True))
        return [trees[i] for i in range(len(asked))]

    def _slice(self, kept: Kept) -> Slice:
        if kept is self._own:
            return self._head.slice
        if kept not in self._slices:
            self._slices[kept] = self._head.cut(kept.ids.tolist())
            if len(self._slices) > SLICES:
                self._slices.popitem(last=False)
        self._slices.move_to_end(kept)
        return self._slices[kept]

    def observe(self, session: Session, step: Step) -> None:
        """Count what was written, if that is asked for, and choose anew where it must be."""
        super().observe(session, step)
        if not self.options.recalibrate:
            return
        store = self._stores.get(self._stores.key(session))
        for token in step.committed.tokens:
            store.add(token)
            if store.judged == self.options.recent:
                if store.covered < self.options.recalibrate * store.judged:
                    self._choose(store)
                store.judged = store.covered = 0

    def _choose(self, store: Recent) -> None:
        """Keep the k tokens of the most counts: of recent output, and of the file as if it were as
        much text again."""
        counts: Counts = self._base * (len(store) / self._base.sum())
        np.add.at(counts, list(store.tokens), 1.0)
        chosen = kept_tokens(counts, self.trim.k, self.trim.always)
        if chosen != store.kept.ids.tolist():
            self._slices.pop(store.kept, None)
            store.kept = Kept(chosen, self.trim.vocab)

    def end(self, session: Session) -> None:
        """Give the model's rows back; forget what was counted unless the scope lasts."""
        super().end(session)
        kept = self._stores.get(self._stores.key(session)).kept
        self._stores.close(session)
        if not self._stores.lasting:
            self._slices.pop(kept, None)

    def state(self) -> dict[str, Any]:
        """Recent output by tenant, JSON-ready; nothing for scopes that end with their session."""
        return self._stores.state(self.context.tokenizer_hash)

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it was counted with another tokenizer."""
        self._stores.load(state, self.name, self.context.tokenizer_hash)


class Kept:
    """Tokens that may be proposed; told from others by identity. ids: distinct, rising."""

    def __init__(self, ids: Sequence[int], vocab: int) -> None:
        self.ids = np.asarray(ids, np.int64)
        self.known = np.zeros(vocab, np.bool_)
        self.known[self.ids] = True


class Recent:
    """What the target wrote of late, in one scope. most: tokens that are remembered. kept: what may
    be proposed at first."""

    def __init__(self, most: int, kept: Kept) -> None:
        self.tokens: deque[int] = deque(maxlen=most)
        self.judged, self.covered = 0, 0  # tokens since the last judgement; those that were kept
        self.kept = self._first = kept

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, token: int) -> None:
        """A token was written."""
        self.tokens.append(token)
        self.judged += 1
        self.covered += bool(self.kept.known[token])

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        own = None if self.kept is self._first else self.kept.ids.tolist()
        return {
            "tokens": list(self.tokens), "judged": self.judged, "covered": self.covered,
            "kept": own,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.tokens.extend(state["tokens"])
        self.judged, self.covered = state["judged"], state["covered"]
        if state["kept"] is not None:
            self.kept = Kept(state["kept"], len(self.kept.known))
