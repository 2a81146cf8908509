"""predicted: the request says what the answer will probably be; draft that, and find the way back
after every edit.

Source: own design (the feature is known from OpenAI's "predicted outputs"; nothing of how it works
there is public). A pointer walks through `Request.prediction`. After a mismatch several branches
are drafted at once: what follows near places that end as the text ends, what would follow an
insertion, and what would follow a replacement (`alignment`). Nodes are taken likeliest first: q is
learned per session, by how many tokens agreed before. A branch is at most `first` tokens long; that
doubles while all of a step's text agreed, and halves when it did not. A text that leaves the
prediction for good costs little: rates of the guesses fall, and below `least` nothing is drafted,
while the rates are still learned from the text alone, so that drafting comes back by itself.

The prediction may be cut into other tokens than the model would cut it: the alignment sees an edit
of a token or two. At its end the end-of-text token is drafted. Without a prediction: no draft.
Exact: the draft is fixed. Learns from committed tokens only, hence from cut or merged trees, too.
Cost: O(1) for a token on the track, some 10 us for a token off it; O(nodes log nodes) for a draft.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop, heappush
from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.draft.alignment import START_RATES, Alignment, Candidate, kind_of
from foretoken.draft.base import Context, Drafter
from foretoken.draft.rates import Rates
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session, Step

CERTAIN = 0.99  # siblings together claim at most this
MOST = 1024  # tokens of a branch
Branch = tuple[Candidate, float]  # and its joint probability


class Predicted(Drafter):
    """Branches of the prediction below the last token; nothing without one."""

    name = "predicted"
    summary = "the request's own prediction of its output, re-aligned after every edit"
    source = "own"
    needs = frozenset({"tokens", "prediction"})
    nodes = 32
    light = True

    class Options(types.Options):
        """How far to trust a prediction."""

        first: int = Field(32, ge=1, le=1024, description="tokens of a branch; doubles while right")
        branches: int = Field(6, ge=1, le=32, description="ways back after an edit, at most")
        least: float = Field(
            0.02, ge=0.0, le=1.0, description="probability below which a branch is not begun"
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Predicted.Options = options

    def begin(self, session: Session) -> None:
        """Index the prediction; the end of the text is expected after it."""
        expected = list(session.request.prediction or ())
        eos = self.context.eos
        if expected and eos and expected[-1] not in eos:
            expected.append(eos[0])
        session.memo[self.name] = _Memory(expected, self.options.first)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """The likeliest continuations, likeliest node first; candidates that say the same share
        their nodes."""
        memory: _Memory = session.memo[self.name]
        tree = _Growth(memory, budget, self.context.eos)
        if budget.nodes > 0:
            tree.grow(self._heads(memory))
        return tree.result()

    def _heads(self, memory: _Memory) -> list[Branch]:
        """Where to go on, and how probably; together at most CERTAIN."""
        best = memory.alignment.candidates[: self.options.branches]
        chances = [(head, memory.rates[head.kind]) for head in best]
        chances = [(head, p) for head, p in chances if p >= self.options.least]
        total = max(1.0, sum(p for _, p in chances) / CERTAIN)
        return [(head, p / total) for head, p in chances]

    def observe(self, session: Session, step: Step) -> None:  # noqa: ARG002
        """Follow what was written since; every candidate learns whether it was right."""
        memory: _Memory = session.memo[self.name]
        if not memory.alignment.expected:
            return
        right = True
        for token in session.tokens[session.n_prompt + memory.seen :]:
            right = memory.follow(token) and right
            memory.seen += 1
        doubled = min(2 * memory.length, MOST)
        memory.length = doubled if right else max(memory.length // 2, self.options.first)

    def end(self, session: Session) -> None:
        """Forget the prediction."""
        session.memo.pop(self.name, None)


class _Memory:
    """One session: where its text is in the prediction, and how often guesses stood."""

    def __init__(self, expected: list[int], first: int) -> None:
        self.alignment = Alignment(expected)
        self.rates = Rates(START_RATES)
        self.length = first  # of a branch
        self.seen = 0  # tokens of the output that the alignment knows

    def follow(self, token: int) -> bool:
        """Learn from a token that was written; whether the best candidate had said it."""
        alignment = self.alignment
        said = [(c.kind, alignment.expected[c.at] == token) for c in alignment.candidates]
        for kind, stood in said:
            self.rates.learn(kind, stood)
        alignment.advance(token)
        return bool(said) and said[0][1]


class _Growth:
    """The tree, taken node by node from the likeliest down."""

    def __init__(self, memory: _Memory, budget: Budget, eos: Collection[int]) -> None:
        self.expected, self.rates = memory.alignment.expected, memory.rates
        self.budget, self.eos = budget, eos
        self.depth = min(budget.depth, memory.length)
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.q: list[float] = []
        self.evidence: list[int] = []
        # (-joint, order of arrival, parent, joint of the parent, depth, branches through the node)
        self._heap: list[tuple[float, int, int, float, int, list[Branch]]] = []
        self._serial = 0

    def grow(self, heads: list[Branch]) -> None:
        """Best first, until the budget is used up."""
        self._push(heads, -1, 1.0, 1)
        while self._heap and len(self.tokens) < self.budget.nodes:
            negative, _, parent, above, depth, branches = heappop(self._heap)
            if -negative < self.budget.min_prob:
                break
            node, (strongest, _) = len(self.tokens), branches[0]
            self.tokens.append(self.expected[strongest.at])
            self.parents.append(parent)
            self.q.append(-negative / above)
            self.evidence.append(strongest.kind)
            if self.tokens[node] not in self.eos:
                self._push([self._next(*b) for b in branches], node, -negative, depth + 1)

    def _next(self, head: Candidate, joint: float) -> Branch:
        """The branch after its token stood."""
        matched = head.matched + 1
        kind = kind_of(matched)
        return Candidate(head.at + 1, matched, kind), joint * self.rates[kind]

    def _push(self, branches: list[Branch], parent: int, above: float, depth: int) -> None:
        if depth > self.depth:
            return
        groups: dict[int, list[Branch]] = {}
        for branch in branches:
            if branch[0].at < len(self.expected):
                groups.setdefault(self.expected[branch[0].at], []).append(branch)
        for group in groups.values():
            group.sort(key=lambda branch: -branch[1])
            joint = sum(p for _, p in group)
            heappush(self._heap, (-joint, self._serial, parent, above, depth, group))
            self._serial += 1

    def result(self) -> DraftTree:
        """What was taken."""
        return DraftTree(self.tokens, self.parents, self.q, evidence=self.evidence)
