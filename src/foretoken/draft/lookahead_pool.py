"""The n-gram pool of lookahead, and the tree that guesses and window make together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

from foretoken.draft.rates import Rates
from foretoken.tree import DraftTree
from foretoken.types import Budget

Gram = tuple[int, ...]
# Classes of nodes, which are the drafter's evidence. Right below the root: the latest guess, pooled
# once (0), 2-3 times (1), more often (2), another guess (3); deeper, where the guess was right so
# far: the latest, pooled once (4), more often (5), another (6); the window (7).
OTHER, DEEPER, DEEPER_OTHER, WINDOW = 3, 4, 6, 7
START = (0.3, 0.5, 0.7, 0.12, 0.6, 0.8, 0.2, 0.05)  # how often they stood; rates are learned
OFTEN = 4
FULL = 0.98  # siblings claim at most this


class Guess(NamedTuple):
    """One node of the pool's trie below a token."""

    token: int
    kind: int
    below: list[Guess]


class Pool:
    """N-grams by first token, at most `per_token` each: the one unseen longest goes. Together at
    most `max_ngrams`: those of the first token unseen longest go."""

    def __init__(self, per_token: int, max_ngrams: int) -> None:
        self.per_token, self.max_ngrams = per_token, max_ngrams
        self.rates = Rates(START)
        self._grams: OrderedDict[int, OrderedDict[Gram, int]] = OrderedDict()
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def add(self, gram: Gram) -> None:
        """An n-gram was written, by the target or in the text; its first token is the key."""
        key, tail = gram[0], gram[1:]
        grams = self._grams.setdefault(key, OrderedDict())
        self._grams.move_to_end(key)
        times = grams.pop(tail, 0)
        grams[tail] = min(times + 1, OFTEN)
        self._held += not times
        if len(grams) > self.per_token:
            grams.popitem(last=False)
            self._held -= 1
        while self._held > self.max_ngrams:
            self._held -= len(self._grams.popitem(last=False)[1])

    def tails(self, token: int) -> list[tuple[Gram, int]]:
        """What is pooled after a token and how often, the latest first."""
        return list(reversed(self._grams.get(token, OrderedDict()).items()))

    def guesses(self, token: int) -> list[Guess]:
        """The trie of what is pooled after a token; siblings stand the latest first."""
        return _trie(self.tails(token))

    def judged(self, root: int, written: Sequence[int]) -> None:
        """`written` followed the root: learn how the guesses at each place did."""
        guesses = self.guesses(root)
        for token in written:
            for guess in guesses:
                self.rates.learn(guess.kind, guess.token == token)
            guesses = next((guess.below for guess in guesses if guess.token == token), [])

    def state(self) -> dict[str, Any]:
        """N-grams, the ones unseen longest first, and rates; JSON-ready."""
        grams = [
            [key, [[list(tail), times] for tail, times in tails.items()]]
            for key, tails in self._grams.items()
        ]
        return {"ngrams": grams, "rates": self.rates.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave, within this pool's bounds."""
        for key, tails in state["ngrams"]:
            for tail, times in tails:
                self.add((key, *tail))
                self._grams[key][tuple(tail)] = times
        self.rates.load(state["rates"])


def _trie(tails: Sequence[tuple[Gram, int]], deeper: bool = False) -> list[Guess]:
    groups: dict[int, list[tuple[Gram, int]]] = {}
    for tail, times in tails:
        if tail:
            groups.setdefault(tail[0], []).append((tail[1:], times))
    out = []
    for i, (token, below) in enumerate(groups.items()):
        times = sum(t for _, t in below)
        if deeper:
            kind = DEEPER_OTHER if i else DEEPER + (times > 1)
        else:
            kind = OTHER if i else (times > 1) + (times >= OFTEN)
        out.append(Guess(token, kind, _trie(below, deeper=True)))
    return out


class Growing:
    """The tree while it grows, within the budget; equal paths are one."""

    def __init__(self, rates: Rates, budget: Budget, eos: Collection[int]) -> None:
        self.rates, self.budget, self.eos = rates, budget, eos
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.q: list[float] = []
        self.evidence: list[int] = []
        self._joint: list[float] = []
        self._depth: list[int] = []
        self._index: dict[tuple[int, int], int] = {}
        self._left: dict[int, float] = {}  # what a node's children have not yet claimed

    def guess(self, guesses: Sequence[Guess], room: int) -> None:
        """Take up to `room` guesses, the likeliest first."""
        heap: list[tuple[float, int, int, float, Guess]] = []  # -joint, order, parent, q, guess
        serial = 0
        at, above, below = -1, 1.0, guesses
        while True:
            rates = [self.rates[guess.kind] for guess in below]
            total = max(1.0, sum(rates) / FULL)
            for guess, rate in zip(below, rates, strict=True):
                q = rate / total
                heappush(heap, (-above * q, serial, at, q, guess))
                serial += 1
            if not heap or len(self.tokens) >= room:
                return
            negative, _, parent, q, guess = heappop(heap)
            at, above, below = self._put(parent, guess.token, q, guess.kind), -negative, guess.below
            if at < 0 or guess.token in self.eos:
                below = []

    def add(self, path: Sequence[int], kind: int) -> None:
        """Take a path from the root, as far as the budget allows."""
        at = -1
        for token in path:
            node = self._index.get((at, token), -1)
            if node < 0:
                q = self.rates[kind] * self._left.get(at, 1.0)
                node = self._put(at, token, q, kind)
            if node < 0 or token in self.eos:
                return
            at = node

    def _put(self, parent: int, token: int, q: float, kind: int) -> int:
        """The new node, -1 if the budget does not allow it."""
        joint = q if parent < 0 else self._joint[parent] * q
        depth = 1 if parent < 0 else self._depth[parent] + 1
        node, budget = len(self.tokens), self.budget
        if node >= budget.nodes or depth > budget.depth or joint < budget.min_prob:
            return -1
        self.tokens.append(token)
        self.parents.append(parent)
        self.q.append(q)
        self.evidence.append(kind)
        self._joint.append(joint)
        self._depth.append(depth)
        self._index[parent, token] = node
        self._left[parent] = max(self._left.get(parent, 1.0) - q, 0.0)
        return node

    def result(self) -> DraftTree:
        """What was taken."""
        return DraftTree(self.tokens, self.parents, self.q, evidence=self.evidence)
