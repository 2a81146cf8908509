"""suffix-store: what finished requests, and this one, wrote after the same words, by counts.

Source: SuffixDecoding, Oliaro et al., arXiv 2411.04975 (methods/modelfree-extras.md, C). Two
counted suffix trees: one of the session's own text, one of the answers finished before, with what
claims of counts proved to be worth (`suffix_finished`). Every length of match, from the longest
down, has a candidate: the likeliest tree (or path) of at most factor * match + offset tokens below
it. The best score wins, the longer match among equals, the session's own text before the store.
Answers go in when they end and out as a whole, the oldest first.

Differences from the paper:
- Shares of counts claim too much: after one earlier place, the share is always 1. How much of it
  comes true is learned, by source, length of match and number of places; q is the share times that,
  and the score is the sum of joint q. In forced runs over solutions of GSM8K, texts of a language
  model, Python modules and edits this gave more tokens per step with fewer nodes.
- Defaults, by the same runs: trees instead of paths, 2 tokens per matched one and 2 more instead
  of 1, and nodes down to a joint q of 0.05 (the paper's 0.1 was of shares).
- The end of the prompt goes into the store in front of the answer, so that a repeated request is
  drafted from its first token; a draft may be longer than the trees are deep; candidates that
  cannot win are not made.

Exact: the draft is fixed. The time of a draft shows what was written: with scope "process",
tenants could find out about each other's answers. Cost and memory: `foretoken bench --drafting`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.scopes import Scope, Scopes
from foretoken.draft.suffix_finished import Finished, evidence
from foretoken.draft.suffix_growth import Place, Room, follow, hope, spread, top
from foretoken.draft.suffix_tree import SuffixTree
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session, Step


class SuffixStore(Drafter):
    """One chain or tree per step out of the session's text or the store's."""

    name = "suffix-store"
    summary = "counted suffix trees of this text and of finished requests"
    source = "Oliaro et al. 2025, SuffixDecoding, arXiv 2411.04975"
    nodes = 16
    light = True

    class Options(types.Options):
        """Shape and size of a draft, and bounds of what is kept."""

        scope: Scope = Field("tenant", description="who shares finished answers")
        mode: Literal["path", "tree"] = Field("tree", description="shape of a draft")
        score: Literal["learned", "counts"] = Field(
            "learned",
            description="tokens a candidate expects: by experience, or shares as they are",
        )
        factor: float = Field(2.0, ge=0.0, description="drafted tokens per matched one, at most")
        offset: float = Field(2.0, description="added to that")
        min_token_prob: float = Field(
            0.05, gt=0.0, le=1.0, description="joint probability below which nothing is drafted"
        )
        depth: int = Field(64, ge=2, le=1024, description="tokens of the longest counted string")
        max_tokens: int = Field(
            200_000, ge=16, description="tokens of finished answers kept; the oldest answers go"
        )
        max_context: int = Field(
            65_536, ge=16, description="tokens of a session's text remembered; then the last half"
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: SuffixStore.Options = options
        self._eos = frozenset(context.eos)
        self._grow = follow if options.mode == "path" else spread
        self._stores = Scopes(options.scope, self._new_store, options.max_tokens)

    def begin(self, session: Session) -> None:
        """Find the store of the session's scope and take up the prompt."""
        memory = session.memo[self.name] = _Memory(self._stores.open(session), self.options.depth)
        memory.extend(session.tokens[-self.options.max_context :], self.options.max_context)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """The candidate that expects most."""
        if budget.nodes < 1 or budget.depth < 1:
            return EMPTY
        memory: _Memory = session.memo[self.name]
        tail = session.tokens[-self.options.depth :]
        best, score, kinds = None, 0.0, (0, 0)
        for source, longest in enumerate(memory.longest(tail, len(session.tokens))):
            places = 0
            for match in range(longest, 0, -1):
                room = self._room(match, budget)
                if room.nodes <= score:
                    break  # nor can shorter matches do better: they draft no more
                place = memory.place(source, match, tail)
                if place.times == places:
                    continue  # the longer match had the same places
                places = place.times
                worth = memory.finished.worth(source, match, places)
                if hope(worth, room.nodes) > score:
                    guess = self._grow(place, room, worth)
                    if guess.score > score:
                        best, score, kinds = guess, guess.score, (source, match)
        if best is None:
            return EMPTY
        source, match = kinds
        classes = [evidence(source, match + depth) for depth in best.depths]
        return DraftTree(best.tokens, best.parents, best.q, evidence=classes)

    def observe(self, session: Session, step: Step) -> None:
        """Did the longest matches foretell the first token? Then take up what was committed."""
        memory: _Memory = session.memo[self.name]
        fresh = session.tokens[step.context :]
        if fresh:
            before = session.tokens[max(step.context - self.options.depth, 0) : step.context]
            memory.judge(before, step.context, fresh[0])
        memory.extend(fresh, self.options.max_context)

    def end(self, session: Session) -> None:
        """The answer goes into the store, behind the end of its prompt."""
        memory: _Memory = session.memo.pop(self.name)
        if self._stores.lasting and len(session.tokens) > session.n_prompt:
            memory.finished.add(session.tokens[max(session.n_prompt - self.options.depth, 0) :])
        self._stores.close(session)

    def state(self) -> dict[str, Any]:
        """Finished answers and their worth by tenant, JSON-ready; nothing for scopes that end."""
        return self._stores.state(self.context.tokenizer_hash)

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it was written with another tokenizer."""
        if self._stores.lasting:
            self._stores.load(state, self.name, self.context.tokenizer_hash)

    def _new_store(self) -> Finished:
        return Finished(self.options.depth, self.options.max_tokens)

    def _room(self, match: int, budget: Budget) -> Room:
        options = self.options
        nodes = min(int(options.factor * match + options.offset), budget.nodes)
        least = max(options.min_token_prob, budget.min_prob)
        return Room(nodes, budget.depth, least, self._eos)


class _Memory:
    """One session: the tree of its text, and how far the store matches it."""

    def __init__(self, finished: Finished, depth: int) -> None:
        self.finished, self.own = finished, SuffixTree(depth)
        # tokens of the text, state of the store, the longest match there and its node
        self._seen = (0, -1, 0, 0)

    def extend(self, tokens: list[int], limit: int) -> None:
        """The text goes on; the older half goes when it is too long, and is then found no more."""
        if len(self.own) + len(tokens) > limit:
            tokens = (self.own.growing + tokens)[-(limit // 2) :]
            self.own = SuffixTree(self.own.depth)
        append = self.own.append
        for token in tokens:
            append(token)

    def longest(self, tail: list[int], length: int) -> tuple[int, int]:
        """Tokens of the longest match in the own text and in the store. length: of the text."""
        seen, changes, match, node = self._seen
        if (seen, changes) != (length, self.finished.changes):
            match, node = self.finished.tree.longest(tail, match + max(length - seen, 0))
            self._seen = (length, self.finished.changes, match, node)
        return len(self.own.active), match

    def place(self, source: int, match: int, tail: list[int]) -> Place:
        """Where a match of this length ends, for the tail that `longest` saw last."""
        if not source:
            return Place(self.own, self.own.active[-match], match, 1)
        tree, (_, _, longest, node) = self.finished.tree, self._seen
        return Place(
            tree, node if match == longest else tree.find(tail, len(tail) - match), match, 0
        )

    def judge(self, tail: list[int], length: int, token: int) -> None:
        """Learn from the token that followed the longest matches."""
        for source, match in enumerate(self.longest(tail, length)):
            if match:
                place = self.place(source, match, tail)
                foretold = top(place)
                if foretold is not None:
                    right = foretold[1] == token
                    self.finished.judge(source, match, place.times, foretold[0], right)
