"""stand: the target's own distribution after each n-gram is remembered, and drafted from.

Each row that the target computes goes into the mean of the rows that followed the same 1, 2, 3 and
4 tokens (`stand_table`); the ten likeliest tokens stay. A draft starts at the row of the last
tokens and goes on with its own. `stand` takes the likeliest children, best first by joint
probability; `stand-drawn` draws them by Gumbel-top-k, in the shape of a tuned template
(`foretoken train stand-tree`), and greedy text is drafted as by `stand`.

Source: Song et al. 2025, STAND; our notes on stand. What differs from the brief, and why:
- keys of one token, too (a guess there: 4, 3, 2): most texts repeat few longer n-grams;
- rows of shorter keys weigh in where a longer one was seen rarely (`trust`; 0 is the paper's rule):
  a row seen once is as sure of itself in contexts that only end alike;
- rows are raw and processed on use, so that a change of temperature does not poison them;
- a prompt's rows are not computed for us: its tokens count as rows that know one token, a little;
- rejected nodes teach as well (`all_nodes`): their rows are the target's, at no further cost;
- the step of a mean has a floor; the row written longest ago goes first.

Exact: fixed children under `walk`; drawn ones, in drawn order with the rows that they were drawn
from, under `recursive` or `traversal`. The chance of a draft depends on (seed, position) alone.
Cost: a few look-ups and a sort of ten entries per node, and as much per row learned.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from foretoken import types
from foretoken.draft import stand_template
from foretoken.draft.base import Context, Drafter
from foretoken.draft.gumbel import uniform
from foretoken.draft.scopes import Scope, Scopes, check_tokenizer
from foretoken.draft.stand_sprout import DrawnSprout, Sprout
from foretoken.draft.stand_table import StandTable, Tail, checked
from foretoken.errors import ArtifactError
from foretoken.prompt.chance import PositionRandom
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session, Step

LONGEST_PROMPT = 1 << 15  # tokens read, from the end: bounds the work of begin()
SHARPNESS = 1.5  # greedy text follows a row's best token more often than the row says


class StandDrafter(Drafter):
    """What both forms share: the table and what it learns."""

    source = "Song et al. 2025, STAND, arXiv 2506.04708"
    needs = frozenset({"tokens", "logits"})
    nodes = 32

    class Options(types.Options):
        """The table, the tree's shape, and who shares what is learned."""

        scope: Scope = Field("tenant", description="who shares what is learned")
        shortest: int = Field(1, ge=1, le=16, description="tokens of the shortest key")
        longest: int = Field(4, ge=1, le=16, description="tokens of the longest key")
        width: int = Field(10, ge=1, le=64, description="tokens kept of a row")
        floor: float = Field(0.02, ge=0.0, le=1.0, description="least share of a new row in a mean")
        trust: float = Field(
            4.0, ge=0.0, description="rows that the shorter keys weigh; 0: the longest key alone"
        )
        prompt: float = Field(
            0.25, ge=0.0, le=1.0, description="probability of what the prompt says; 0: not read"
        )
        all_nodes: bool = Field(True, description="learn from rejected nodes too")
        max_rows: int = Field(200_000, ge=1, description="rows held; the longest unwritten goes")
        template: Path | None = Field(
            None, description="tree of `foretoken train stand-tree`; None: the bundled one"
        )

        @model_validator(mode="after")
        def _ordered(self) -> StandDrafter.Options:
            if self.shortest > self.longest:
                raise ValueError("shortest must not exceed longest")
            return self

    bundled = ""  # name of the form's own template

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: StandDrafter.Options = options
        self.template = self._template()
        self._eos = frozenset(context.eos)
        self._stores = Scopes(options.scope, partial(new_table, options), options.max_rows)

    def _template(self) -> tuple[stand_template.Node, ...]:
        path = self.options.template or stand_template.BUNDLED / f"{self.bundled}.json"
        return stand_template.read(path, drawn=self.bundled == "drawn")

    def begin(self, session: Session) -> None:
        """Find the table of the session's scope and read the prompt into it."""
        table = self._stores.open(session)
        session.memo[self.name] = table
        if self.options.prompt:
            table.read(session.tokens[-LONGEST_PROMPT:], self.options.prompt)

    def observe(self, session: Session, step: Step) -> None:
        """Take the target's rows into the means; of committed tokens last, so that these are the
        last to go."""
        table: StandTable = session.memo[self.name]
        tokens, probs = step.scores.top(self.options.width)
        committed = step.committed.rows
        others = range(len(tokens)) if self.options.all_nodes else ()
        tails = _tails(session, step, table.longest)
        for row in (*(row for row in others if row not in committed), *committed):
            if tokens[row]:
                table.learn(tails[row], tokens[row], probs[row])

    def end(self, session: Session) -> None:
        """Forget the session; idle tables together keep at most `max_rows` rows."""
        del session.memo[self.name]
        self._stores.close(session)

    def state(self) -> dict[str, Any]:
        """Rows by tenant, JSON-ready; nothing for scopes that end with their session."""
        return self._stores.state(self.context.tokenizer_hash)

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it is damaged or of another tokenizer."""
        if not state:
            return
        key, stores = state.get("tokenizer_hash"), state.get("stores")
        if not isinstance(key, str) or not isinstance(stores, dict):
            raise ArtifactError(f"{self.name}: the saved state is none")
        check_tokenizer(state, self.name, self.context.tokenizer_hash)
        found = {scope: checked(rows) for scope, rows in stores.items()}  # all, before any is used
        for scope, rows in found.items():
            self._stores.get(scope).load(rows)

    def _tail(self, session: Session) -> Tail:
        return tuple(session.tokens[-self.options.longest :])


class Stand(StandDrafter):
    """Fixed children."""

    name = "stand"
    summary = "the target's rows by n-gram, averaged; likeliest tree"
    bundled = "fixed"

    class Options(StandDrafter.Options):
        """As for both forms, and the tree's shape."""

        shape: Literal["best_first", "template"] = Field(
            "best_first", description="likeliest nodes, or the ranks of a template"
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.shape = options.shape

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """The likeliest continuations of the longest known key."""
        sprout = Sprout(
            session.memo[self.name], self._tail(session), session.request.sampling, budget,
            self._eos, SHARPNESS,
        )  # fmt: skip
        if self.shape == "template":
            sprout.fill(self.template)
        else:
            sprout.best_first()
        return sprout.tree()


class StandDrawn(StandDrafter):
    """Drawn children."""

    name = "stand-drawn"
    summary = "the target's rows by n-gram, averaged; children drawn without repeats"
    emits: Kind = "without_replacement"
    settles = False  # where a place of the template finds no token, later ones move up
    verifier = "recursive"
    bundled = "drawn"

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """Draws in the shape of the template. In greedy text nothing is drawn: as `stand`."""
        sampling, tail = session.request.sampling, self._tail(session)
        table: StandTable = session.memo[self.name]
        if sampling.greedy:
            sprout = Sprout(table, tail, sampling, budget, self._eos, SHARPNESS)
            sprout.best_first()
            return replace(sprout.tree(), kind=self.emits)
        nodes = min(budget.nodes, len(self.template))
        generator = PositionRandom(sampling.seed).generator(len(session.tokens))
        noise = uniform((nodes + 1, table.width), generator)
        drawn = DrawnSprout(table, tail, sampling, budget, self._eos, noise)
        drawn.fill(self.template)
        return drawn.drawn_tree(self.context.vocab)


def new_table(options: StandDrafter.Options) -> StandTable:
    """An empty table as the options want it."""
    lengths = range(options.shortest, options.longest + 1)
    return StandTable(lengths, options.width, options.floor, options.trust, options.max_rows)


def _tails(session: Session, step: Step, longest: int) -> list[Tail]:
    """[n+1] the last tokens of the text that the target's row follows; row 0 follows the root."""
    tails = [tuple(session.tokens[max(step.context - longest, 0) : step.context])]
    for parent, token in zip(step.tree.parents, step.tree.tokens, strict=True):
        tails.append((*tails[parent + 1], token)[-longest:])
    return tails
