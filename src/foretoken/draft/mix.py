"""mix: several drafters propose into one tree; what each says is calibrated while it runs.

Every source drafts as it would alone; equal paths are drafted once and carry the names of all who
proposed them. `candidates.Judge` turns what the sources say (their q, their evidence, the depth,
the last step's luck) into probabilities that the target goes this way, siblings together at most 1,
so that the best tree of n nodes is simply the n likeliest ones (our notes on policies, U2-U4).
It learns from all candidates below scored nodes, drafted or not, rejected or not.

Exact: fixed children stay fixed, and drawn ones stay drawn. One source may draw (kind
"without_replacement" or "mixed"): its nodes are all kept and stand first among their siblings; how
many fixed ones there are is settled before anything is drawn, and a fixed child equal to a drawn
sibling goes (after a rejection it could not stand).
Source: own; fusion after RASD (2503.03434).
Cost: the sources' own, and some microseconds for a candidate. Sources that run a model are asked in
the way "all" alone; in the way "free" they are left out, and in the way "light" all that do not
just copy, so that a policy may save their time. One that drafts level by level asks whether to go
on (`Budget.source_on`), as it does alone. What is learned of the sources is kept by `scope`, as
what they learn themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from pydantic import Field, field_validator

from foretoken import registry, types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.candidates import Candidates, Judge
from foretoken.draft.labels import labels
from foretoken.draft.mixed_tree import fused
from foretoken.draft.scopes import Scope, Scopes
from foretoken.errors import ConfigError
from foretoken.learn.calibration import recent
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Level, Session, Step

SOURCES = ("aded", "suffix-store", "token-recycling", "predicted")
WAYS = ("light", "free", "all")  # by what is asked in them: copies, what runs no model, everything
DOUBT = 0.5  # of what is asked for, by the sources' own words
DRAWN = ("without_replacement", "mixed")
# of idle tenants' judges together; one has some thousands at most, of 100 bytes each
MOST_BINS = 200_000


class Mix(Drafter):
    """The sources' union under one budget."""

    name = "mix"
    summary = "several drafters in one tree, calibrated while it runs"
    source = "own; fusion after RASD 2503.03434"
    calibrated = True
    nodes = 32

    class Options(types.Options):
        """Who proposes."""

        sources: tuple[str, ...] = Field(
            SOURCES, min_length=1, description="drafters, joined by commas or +"
        )
        source_options: Mapping[str, Mapping[str, Any]] = Field(
            default_factory=dict, description='by source: {"aded": {"table": ...}}; JSON in a shell'
        )
        scope: Scope = Field("tenant", description="who shares what is learned, by every source")
        least: float = Field(
            0.01, ge=0.0, le=1.0, description="joint probability, by the source's own word, below "
            "which nothing is ever asked for"
        )  # fmt: skip

        @field_validator("sources", mode="before")
        @classmethod
        def _split(cls, value: Any) -> Any:
            return tuple(value.replace("+", ",").split(",")) if isinstance(value, str) else value

        @field_validator("source_options", mode="before")
        @classmethod
        def _parse(cls, value: Any) -> Any:
            return json.loads(value) if isinstance(value, str) else value

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Mix.Options = options
        self.parts = self._parts(options, context)
        self.names = tuple(part.name for part in self.parts)
        self.judges = Scopes(options.scope, partial(Judge, self.names), MOST_BINS)
        self.needs = frozenset().union(*(part.needs for part in self.parts))
        heavy = any(not (part.light or part.runs_model) for part in self.parts)
        ranks = [2 if part.runs_model else 0 if part.light and heavy else 1 for part in self.parts]
        self._asked = {
            way: {i for i, least in enumerate(ranks) if least <= rank}
            for rank, way in enumerate(WAYS)
        }
        self._asked[""] = self._asked[WAYS[-1]]
        ways = tuple(way for rank, way in enumerate(WAYS) if rank in ranks)
        self.ways = ways if len(ways) > 1 else ("",)
        self.first_way = "free" if "free" in self.ways else self.ways[0]
        models = [part for part in self.parts if part.runs_model]
        if [(part.emits, "levels" in part.gives) for part in models] == [("point", True)]:
            self.gives = frozenset({"source levels"})
        self._drawn = [i for i, part in enumerate(self.parts) if part.emits != "point"]
        if self._drawn:
            self.emits, self.verifier = "mixed", "mixed"
            self.settles = all(self.parts[i].settles for i in self._drawn)

    def _parts(self, options: Any, context: Context) -> list[Drafter]:
        """The sources, each with its options. Raises ConfigError for sets that cannot be."""
        from foretoken.engine.build import options as checked

        names = options.sources
        given = dict(options.source_options)
        if unknown := set(given) - set(names):
            raise ConfigError(
                "mix.source_options", sorted(unknown)[0], f"one of {', '.join(names)}"
            )
        if len(set(names)) < len(names):
            raise ConfigError("mix.sources", ",".join(names), "every source once")
        classes = {name: registry.find("drafter", name) for name in names}
        for name, cls in classes.items():
            if issubclass(cls, Mix) or not cls.nodes:
                raise ConfigError("mix.sources", name, "drafters that propose and are no mixture")
            if cls.emits == "sampled":
                raise ConfigError("mix.sources", name, f"kinds point, {' or '.join(DRAWN)}")
        if len([n for n, cls in classes.items() if cls.emits in DRAWN]) > 1:
            raise ConfigError("mix.sources", ",".join(names), "one source that draws at most")
        return [
            cls(checked(cls.Options, self._given(cls, given.get(name, {})), name), context)
            for name, cls in classes.items()
        ]

    def _given(self, cls: type[Drafter], values: Mapping[str, Any]) -> dict[str, Any]:
        """A source's options, with the scope of the whole if it has none of its own."""
        scope = {"scope": self.options.scope} if "scope" in cls.Options.model_fields else {}
        return {**scope, **values}

    def begin(self, session: Session) -> None:
        """Begin every source; if one cannot, those that did are ended again."""
        begun: list[Drafter] = []
        try:
            for part in self.parts:
                part.begin(session)
                begun.append(part)
        except BaseException:
            for part in begun:
                part.end(session)
            raise
        session.memo[self.name] = _Memory(self.judges.open(session))

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """`propose_batch` of one."""
        return self.propose_batch([(session, budget)])[0]

    def propose_batch(self, asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        """Each source once for all sessions, then a tree for each session."""
        drafts: list[dict[int, DraftTree]] = [{} for _ in asked]
        for i, part in enumerate(self.parts):
            mine = [
                k for k, (_, budget) in enumerate(asked)
                if budget.nodes > 0 and budget.depth > 0
                and i in self._asked[budget.way]
            ]  # fmt: skip
            if mine:
                trees = part.propose_batch([self._share(i, *asked[k]) for k in mine])
                for k, tree in zip(mine, trees, strict=True):
                    drafts[k][i] = tree
        return [
            self._merged(session, budget, trees)
            for (session, budget), trees in zip(asked, drafts, strict=True)
        ]

    def _share(self, source: int, session: Session, budget: Budget) -> tuple[Session, Budget]:
        """What each source may propose: all, or half where one draws and nothing of it may go. A
        model's levels are shown to who asked with the probabilities that are learned here."""
        go_on = None
        if budget.source_on is not None and self.parts[source].runs_model:
            go_on = _Asking(session.memo[self.name], source, budget.source_on)
        budget = replace(budget, go_on=go_on)
        if self._drawn:
            return session, replace(budget, nodes=budget.nodes // 2)
        # a source's own word may be too low: calibrated, its node may still be asked for
        least = max(DOUBT * budget.min_prob, self.options.least)
        return session, replace(budget, min_prob=least)

    def _merged(self, session: Session, budget: Budget, drafts: dict[int, DraftTree]) -> DraftTree:
        memory: _Memory = session.memo[self.name]
        candidates = Candidates(memory.luck)
        for i, tree in drafts.items():
            if i not in self._drawn and len(tree):
                candidates.add(i, tree)
        candidates.weigh(memory.judge)
        memory.context, memory.candidates = len(session.tokens), candidates
        drawn = next((drafts[i] for i in self._drawn if i in drafts), EMPTY)
        room = replace(budget, nodes=budget.nodes - budget.nodes // 2) if self._drawn else budget
        fixed = self._tree(candidates, candidates.best(room, self.context.eos))
        return fused(drawn, fixed, self.parts[self._drawn[0]].name) if len(drawn) else fixed

    def _tree(self, candidates: Candidates, order: Sequence[int]) -> DraftTree:
        new = {node: i for i, node in enumerate(order)}
        new[-1] = -1
        names = self.names
        return DraftTree(
            [candidates.tokens[node] for node in order],
            [new[candidates.parents[node]] for node in order],
            [candidates.p[node] for node in order],
            sources=[candidates.sources(node, names) for node in order],
        )

    def observe(self, session: Session, step: Step) -> None:
        """Every source sees the step; then the candidates below scored nodes get their labels."""
        for part in self.parts:
            part.observe(session, step)
        memory: _Memory = session.memo[self.name]
        candidates, memory.candidates = memory.candidates, None
        memory.luck = step.committed.accepted
        if candidates is not None and memory.context == step.context and len(candidates):
            candidates.learn(memory.judge, step, cache(partial(labels, session, step)))

    def end(self, session: Session) -> None:
        """End every source."""
        if session.memo.pop(self.name, None) is not None:
            self.judges.close(session)
        for part in self.parts:
            part.end(session)

    def state(self) -> dict[str, Any]:
        """What is known of the sources, by tenant, and the sources' own state."""
        parts = {part.name: state for part in self.parts if (state := part.state())}
        lasting = list(self.judges) if self.judges.lasting else []
        judges = {str(key): judge.state() for key, judge in lasting}
        return {"judges": judges, "parts": parts} if judges or parts else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        if not state:
            return
        for key, judge in state["judges"].items():
            self.judges.get(key).load(judge)
        for part in self.parts:
            if part.name in state["parts"]:
                part.load(state["parts"][part.name])


class _Memory:
    """Per session: the last proposal and the last step's luck."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.context = -1
        self.candidates: Candidates | None = None
        self.luck = 0


class _Asking:
    """Whether a source that drafts level by level is to go on, asked with what its claims are worth
    here."""

    def __init__(self, memory: _Memory, source: int, ask: Callable[[Level], bool]) -> None:
        self._reliability, self._ask = memory.judge.reliability[source], ask
        self._luck = recent(memory.luck)
        self._above = [1.0]

    def __call__(self, level: Level) -> bool:
        """See `Budget.source_on`."""
        q = [self._reliability.estimate(said, 0, level.depth, self._luck) for said in level.q]
        self._above = level.paths(q, self._above)
        return self._ask(replace(level, q=q, joint=self._above))
