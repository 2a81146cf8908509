"""aded: a tri-gram table stands in for the target, the likeliest tree of it is the draft, and every
check is written back into the table, so that drafts improve while they are used.

Source: Liu et al., AAAI 2025, arXiv 2407.12021; our notes on aded. mode "reference" is section 3B,
the authors' Monte-Carlo search and +0.04 updates, with the reward fault of their code repaired (see
`aded_mcts`). mode "best_first" (section 3C, the default) takes the nodes of largest joint
probability, which is the optimal tree if the table is right, and blends the target's own
probabilities into the rows, those of rejected nodes too. Exact in both: the draft is fixed.

What is learned is shared by `scope`. "tenant", the default, is the narrowest in which one answer
helps the next: statistics never cross tenants, and requests that name no tenant are one tenant, so
a server must name them. "request" and "session" are the same here, one request being decoded;
"process" shares everything.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from foretoken import types
from foretoken.draft import aded_mcts
from foretoken.draft.aded_store import Store
from foretoken.draft.base import Context, Drafter
from foretoken.draft.best_first import best_first
from foretoken.draft.ngram_index import NgramIndex, copied
from foretoken.draft.scopes import Scope, Scopes
from foretoken.draft.trigram_table import TrigramTable
from foretoken.errors import ArtifactError
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session, Step

ASSET = "aded.table"  # beside the model, taken up if no table is named
COUNT_GAIN, COUNT_CAP = 0.2, 3.0  # update "count": as strong as the reference's, brief 3C
LONGEST_PROMPT = 1 << 15  # tokens counted, from the end: bounds the work of begin()


class Aded(Drafter):
    """Tri-gram trees that learn; rows back off to the last token alone, then to a copy."""

    name = "aded"
    summary = "tri-gram table, likeliest tree, learns from every check"
    source = "Liu et al. 2025, arXiv 2407.12021"
    needs = frozenset({"tokens", "logits"})
    nodes = 32

    class Options(types.Options):
        """See the module; `reference_*` are the constants of mode "reference"."""

        mode: Literal["best_first", "reference"] = "best_first"
        table: Path | None = Field(None, description="None: the model's own, else start empty")
        scope: Scope = Field("tenant", description="who shares what is learned")
        update: Literal["distribution", "count", "both", "off"] = Field(
            "distribution", description='mode "reference" knows its own update and "off"'
        )
        eta: float = Field(0.3, ge=0.0, le=1.0, description="share of the target's row in a blend")
        top_m: int = Field(8, ge=1, le=64, description="entries of the target's row")
        all_nodes: bool = Field(True, description="learn from rejected nodes too")
        prompt: bool = Field(True, description="count the prompt's tri-grams")
        prompt_trust: float = Field(2.0, gt=0.0, description="what a prompt's counts weigh against")
        bonus: float = Field(0.0, ge=0.0, description="beta of the optimism for untried tri-grams")
        decay: float = Field(1.0, gt=0.0, le=1.0, description="of a row's weights, at each write")
        trust: float = Field(8.0, ge=0.0, description="pseudo-count of the back-off in a base row")
        max_rows: int = Field(200_000, ge=1, description="learned rows; the longest unwritten goes")
        max_successors: int = Field(16, ge=1, le=64, description="of a learned row")
        reference_c1: float = Field(32.0, ge=0.0)
        reference_c2: float = Field(8.0, gt=0.0)
        reference_iterations: int = Field(150, ge=1)
        reference_length: int = Field(4, ge=2, description="states of a path, root included")
        reference_keep: int = Field(24, ge=1, description="paths")
        reference_gain: float = Field(0.04, ge=0.0, description="per step in the window")
        reference_cap: float = Field(3.0, gt=0.0)
        reference_window: int = Field(16, ge=3, description="tokens of context updated per step")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Aded.Options = options
        self.base = self._open_base()
        self._reference = options.mode == "reference"
        if self.base is not None:
            self.base.trust = 0.0 if self._reference else options.trust
        self._how = aded_mcts.Constants(
            options.reference_c1,
            options.reference_c2,
            options.reference_iterations,
            options.reference_length,
            options.reference_keep,
        )
        self._eos = frozenset(context.eos)
        self._stores = Scopes(options.scope, self._new_store, options.max_rows)

    def begin(self, session: Session) -> None:
        """Find the store of the session's scope and count the prompt."""
        store = self._stores.open(session)
        session.memo[self.name] = (store, NgramIndex(3))
        if self._reference:
            self._bump_window(store, session)
        elif self.options.prompt:
            store.count(session.tokens[-LONGEST_PROMPT:], self.options.prompt_trust)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """The likeliest tree below the last pair; a copied chain where no row is known."""
        store, index = session.memo[self.name]
        tokens = session.tokens
        a, b = (tokens[-2] if len(tokens) > 1 else -1), tokens[-1]
        if budget.nodes < 1 or budget.depth < 1:
            return EMPTY
        if self._reference:
            dice = random.Random(len(tokens))
            paths = aded_mcts.search(lambda a, b: store.weights((a, b)), a, b, dice, self._how)
            return aded_mcts.to_tree(paths, budget)
        read = partial(store.optimistic, self.options.bonus) if self.options.bonus else store.row
        tree = best_first(read, a, b, budget, self._eos)
        return tree if len(tree) else copied(index, tokens, budget, self.context.eos)

    def observe(self, session: Session, step: Step) -> None:
        """Blend the target's rows in; count what was committed."""
        store: Store = session.memo[self.name][0]
        update = self.options.update
        if update == "off":
            return
        if self._reference:
            self._bump_window(store, session)
            return
        if update in ("distribution", "both"):
            self._learn_rows(store, session, step)
        if update in ("count", "both"):
            tokens = session.tokens
            for i in range(max(2, step.context), len(tokens)):
                store.bump((tokens[i - 2], tokens[i - 1]), tokens[i], COUNT_GAIN, COUNT_CAP)
        if self.options.bonus and not step.budget.unseen:
            self._judged(store, session, step)

    def end(self, session: Session) -> None:
        """Forget the session; idle stores together keep at most `max_rows` rows."""
        del session.memo[self.name]
        self._stores.close(session)

    def state(self) -> dict[str, Any]:
        """Learned rows by tenant, JSON-ready; nothing for scopes that end with their session."""
        return self._stores.state(self.context.tokenizer_hash)

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it was learned with another tokenizer."""
        self._stores.load(state, self.name, self.context.tokenizer_hash)

    def _open_base(self) -> TrigramTable | None:
        path = self.options.table
        if path is None and self.context.assets is not None:
            path = self.context.assets / ASSET
            path = path if path.exists() else None
        if path is None:
            return None
        table = TrigramTable.open(path, self.context.tokenizer_hash, verify=True)
        if table.vocab > self.context.vocab:
            raise ArtifactError(
                f"{path}: made for {table.vocab} tokens, the model has {self.context.vocab}"
            )
        return table

    def _new_store(self) -> Store:
        options = self.options
        return Store(self.base, options.max_rows, options.max_successors, options.decay)

    def _learn_rows(self, store: Store, session: Session, step: Step) -> None:
        """Row (token before, token) learns the target's row after it; committed ones come last, so
        that they win where a pair occurs twice, and teach the back-off rows too."""
        tokens, probs = step.scores.top(self.options.top_m)
        eta, committed = self.options.eta, step.committed.rows
        if self.options.all_nodes:
            for row in range(1, len(step.tree) + 1):
                if row not in committed and tokens[row]:  # [] in a replay: nobody knows the row
                    store.learn(_pair(session, step, row), (tokens[row], probs[row]), eta)
        for row in committed:
            if not tokens[row]:
                continue
            a, b = _pair(session, step, row)
            if a >= 0:
                store.learn((a, b), (tokens[row], probs[row]), eta)
            store.learn((-1, b), (tokens[row], probs[row]), eta)

    def _judged(self, store: Store, session: Session, step: Step) -> None:
        """Count the tri-grams whose context stood, for the bonus."""
        for node in (-1, *step.verdict.path):
            a, b = _pair(session, step, node + 1)
            for child in step.tree.children[node + 1]:
                store.judged(a, b, step.tree.tokens[child])

    def _bump_window(self, store: Store, session: Session) -> None:
        """The reference's update: +0.04 for each of the last 14 tri-grams, at every step."""
        gain, cap = self.options.reference_gain, self.options.reference_cap
        window = session.tokens[-self.options.reference_window :]
        for a, b, c in zip(window, window[1:], window[2:], strict=False):
            store.bump((a, b), c, gain, cap)


def _pair(session: Session, step: Step, row: int) -> tuple[int, int]:
    """The last two tokens that the target's row follows; row 0 follows the root."""
    context = step.context
    if row == 0:
        return (session.tokens[context - 2] if context > 1 else -1), session.tokens[context - 1]
    tree = step.tree
    parent = tree.parents[row - 1]
    return (session.tokens[context - 1] if parent < 0 else tree.tokens[parent]), tree.tokens[
        row - 1
    ]
