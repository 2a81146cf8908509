"""osd: a small model drafts, and learns from the target's rows while the traffic goes by.

Online speculative decoding: where the target checks a draft it says what should have been drafted,
and an update of the drafter every few requests makes use of it, at the cost of compute that a
memory-bound server has to spare. The parts lie in `foretoken.learn.online`: what is recorded
(`record`, `buffer`), gradient steps (`update`), what is kept of them (`gate`), which texts are
worth it (`select`), several drafters by topic (`routing`).

Source: Liu et al. 2310.07177, ICML 2024; our notes on osd. Beyond the paper: all rows of a text
teach and not the refused ones alone (`rows`), updates pass a gate or are taken back, older texts
are replayed, clusters of prompts are found online, an update may also come within a long request
(`patience`; cf. Test-Time Speculation 2605.09329).

Exact: a draft carries the rows that it was drawn from, and whatever was learned before, each step
is exact for its own q. New weights draft from the next proposal on; the text so far is read anew
with them. A drafter that learns badly, or fails to, costs speed and changes no text.
Cost: as the form's (`lm-sampled` ...), and an update's forward and backward passes, which count as
drafting. Memory: for each tenant and domain that has learned, six copies of the small model's
weights (served, trained, kept, and AdamW's three), and up to `shelf` + 1 that served before; the
`models` tenants that came last have them. Learns: weights, by `scope`. A saved state holds changes
of the weights that serve and counts, no texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from torch import nn

from foretoken import registry
from foretoken.draft.base import Context, Drafter
from foretoken.draft.scopes import Scopes
from foretoken.errors import CapabilityError
from foretoken.learn.online.learner import Learner
from foretoken.learn.online.options import OnlineOptions
from foretoken.learn.online.record import Recorder
from foretoken.learn.online.store import Learners
from foretoken.learn.online.twin import serving_twin
from foretoken.learn.online.worker import Worker
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session, Step

if TYPE_CHECKING:  # transformers takes seconds to import, and listing methods needs none of it
    from foretoken.draft.lm_model import SmallModel


class Osd(Drafter):
    """See the module. `learned` tells what became of the updates."""

    name = "osd"
    summary = "a small model that learns from the traffic it drafts for"
    source = "Liu et al. 2310.07177, ICML 2024"
    emits: Kind = "sampled"
    verifier = "block"
    nodes = 12
    runs_model = trains = True
    gives = frozenset({"levels", "entropy", "hidden"})

    class Options(OnlineOptions):
        """Which model drafts in which form; the rest is about learning."""

        model: Any = Field(
            None,
            description="folder, hub name or model of the target's vocabulary; None: the folder "
            "'drafter' beside the target's weights",
        )
        form: Literal["lm-sampled", "lm", "lm-top-k"] = Field(
            "lm-sampled", description="the drafter whose form drafts have"
        )
        depth: int = Field(12, ge=1, le=64, description="levels at most: forwards per step")
        temperature: float | None = Field(
            None,
            gt=0.0,
            description="q is softmax(logits / temperature) in drawn text; None: the request's own "
            "processing",
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Osd.Options = options
        from foretoken.draft.lm_model import small_model

        self.model: SmallModel = small_model(options.model, context, self.name, whole=True)
        _check(self.model.target)
        form = registry.find("drafter", options.form)
        self.emits, self.verifier = form.emits, form.verifier
        self.nodes = -(-form.nodes * options.depth // form.Options.model_fields["depth"].default)
        self.settles, self.gives = form.settles, form.gives
        # under a name of its own, so that a session may also have a drafter of that form
        self._form: Any = type(form.__name__, (form,), {"name": f"{self.name}:{options.form}"})
        self._wanted: frozenset[str] = frozenset()
        self._given = self._drafter(self.model)
        self._worker = Worker() if options.background else None
        self._stores: Scopes[Learners] = Scopes(
            options.scope,
            partial(Learners, options, self._base, self._publish, self._worker),
            options.max_rows,
        )

    def _drafter(self, model: SmallModel) -> Any:
        """A drafter of the form with this model, which gives what a policy has asked for."""
        values = {"depth": self.options.depth, "temperature": self.options.temperature}
        made = self._form(self._form.Options(model=model.target, **values), self.context)
        made.model = model  # with its lock, which others may hold
        if self._wanted:
            made.provide(self._wanted)
        return made

    def _base(self) -> Any:
        return self.model.target.model

    def _publish(self, trained: Any) -> Any:
        """A drafter with a copy of trained weights."""
        from foretoken.draft.lm_model import SmallModel
        from foretoken.target.small import target_like

        shared = self.model.target
        served = target_like(shared, serving_twin(trained, shared.model))
        return self._drafter(SmallModel(served))

    def provide(self, needs: frozenset[str]) -> None:
        """See the base class."""
        super().provide(needs)
        self._wanted |= needs
        self._given.provide(needs)

    def begin(self, session: Session) -> None:
        """Find the request's domain, and take over what was learned for it beside."""
        store = self._stores.open(session)
        learner = store.of(session.request.prompt)
        learner.advance()
        options = self.options
        recorder = Recorder(
            options.top,
            min(options.window, self.model.target.max_context),
            options.max_rows,
            options.rows == "all",
        )
        session.memo[self.name] = _Memory(store, learner, recorder)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """`propose_batch` of one."""
        return self.propose_batch([(session, budget)])[0]

    def propose_batch(self, asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        """Sessions that are drafted for with the same weights share the forwards."""
        groups: dict[Any, list[int]] = {}
        for i, (session, _) in enumerate(asked):
            groups.setdefault(self._current(session), []).append(i)
        out: dict[int, DraftTree] = {}
        for drafter, mine in groups.items():
            trees = drafter.propose_batch([asked[i] for i in mine])
            out.update(zip(mine, trees, strict=True))
        return [out[i] for i in range(len(asked))]

    def _current(self, session: Session) -> Any:
        """What drafts for a session now. What it read with older weights is given back."""
        memory: _Memory = session.memo[self.name]
        now = memory.store.drafter(memory.learner) or self._given
        if memory.drafter is not now:
            if memory.drafter is not None:
                memory.drafter.end(session)
            memory.drafter = now
        return now

    def observe(self, session: Session, step: Step) -> None:
        """Keep the rows read; note the target's; learn if it is time to."""
        memory: _Memory = session.memo[self.name]
        if memory.drafter is not None:
            memory.drafter.observe(session, step)
        learner = memory.learner
        if learner.learning:
            learner.guard(partial(memory.recorder.note, session, step))
            learner.step()
            if step.committed.finish_reason is None:
                if learner.overdue:
                    self._learn(memory, session, finished=False)
            elif self._stores.lasting:  # else nobody would draft with what is learned now
                self._learn(memory, session, finished=True)

    def _learn(self, memory: _Memory, session: Session, finished: bool) -> None:
        memory.noted = finished
        memory.learner.add(memory.recorder.take(session), finished)
        memory.learner.advance()

    def end(self, session: Session) -> None:
        """Texts of a request that was cut off are learned from as well, when it is next time to."""
        memory: _Memory | None = session.memo.pop(self.name, None)
        if memory is None:
            return
        if memory.drafter is not None:
            memory.drafter.end(session)
        if memory.learner.learning and self._stores.lasting and not memory.noted:
            memory.learner.add(memory.recorder.take(session))
        self._stores.close(session)
        self._shed()

    def _shed(self) -> None:
        """The weights of tenants that came longest ago go, while there are too many."""
        adapted = [store for _, store in self._stores if store.adapted]
        for store in adapted[: -self.options.models]:
            store.shed()

    @property
    def learned(self) -> dict[str, Any]:
        """What became of the updates: tenant -> domain -> counts, seconds and a log; JSON-ready."""
        return {str(key): store.report() for key, store in self._stores}

    def wait(self) -> None:
        """Until nothing is learned beside any more, and it is taken over."""
        for _, store in self._stores:
            store.wait()

    def state(self) -> dict[str, Any]:
        """Changes of weights and counts by tenant, JSON-ready; nothing for scopes that end with
        their session. No texts: what was observed and not yet learned is not in it."""
        return self._stores.state(self.context.tokenizer_hash)

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it is of another tokenizer or model."""
        self._stores.load(state, self.name, self.context.tokenizer_hash)


class _Memory:
    """What the drafter holds of one session."""

    def __init__(self, store: Learners, learner: Learner, recorder: Recorder) -> None:
        self.store, self.learner, self.recorder = store, learner, recorder
        self.drafter: Any = None  # who proposed last, and holds the session's rows
        self.noted = False  # whether the whole text was handed over


def _check(target: Any) -> None:
    """Raise CapabilityError for a model whose copy could not be trained, or not draft alike."""
    from foretoken.target.hf import HFTarget
    from foretoken.target.linear import PackedLinear
    from foretoken.target.small import SmallTarget

    head = target.model.get_output_embeddings()
    plain = type(target) in (HFTarget, SmallTarget)
    if not plain or not isinstance(head, nn.Linear | PackedLinear):
        raise CapabilityError(
            "drafter 'osd' trains a copy of its model and cannot do so with this one (compiled, or "
            "with an output layer of its own); give it the plain model"
        )
