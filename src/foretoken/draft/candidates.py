"""The trie of what several drafters propose: every node once, with what each source says of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from foretoken.learn.calibration import Mixer, Reliability, consistent, recent, stretch
from foretoken.tree import DraftTree
from foretoken.types import Budget, Step

Claim = tuple[int, float, int]  # source, its q, its evidence

LEAST_WEIGHT = 0.1  # a node less likely than this teaches nothing about contexts that occur


class Judge:
    """Turns claims into probabilities, and learns from the target's rows what claims are worth.

    names: the sources. It holds counts, nothing of anyone's text.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.reliability = [Reliability() for _ in names]
        self.mixer = Mixer()

    def __len__(self) -> int:
        """Bins held."""
        return sum(map(len, self.reliability))

    def state(self) -> dict[str, object]:
        """What was learned, JSON-ready, by the names of the sources."""
        bins = dict(zip(self.names, (r.state() for r in self.reliability), strict=True))
        return {"sources": list(self.names), "bins": bins, "mixer": self.mixer.state()}

    def load(self, state: Mapping[str, object]) -> None:
        """Take up what `state` gave; mixing weights belong to one list of sources."""
        bins = state["bins"]
        assert isinstance(bins, dict)
        for name, reliability in zip(self.names, self.reliability, strict=True):
            if name in bins:
                reliability.load(bins[name])
        if state["sources"] == list(self.names):
            self.mixer.load(state["mixer"])  # type: ignore[arg-type]


class Candidates:
    """One step's trie for one session. luck: accepted tokens of the session's last step."""

    def __init__(self, luck: int) -> None:
        self.luck = recent(luck)
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.claims: list[list[Claim]] = []
        self.children: list[list[int]] = [[]]  # [n+1], entry 0 is the root
        self.p: list[float] = []  # after `weigh`: the target goes from parent to node
        self.joint: list[float] = []  # the same from the root
        self._index: dict[tuple[int, int], int] = {}
        self._odds: list[list[float]] = []  # after `weigh`: log-odds of the claims
        self._weights: list[list[float]] = []  # the mixer's, by which they were joined
        self._mixed: list[float] = []  # before siblings were made consistent

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, source: int, tree: DraftTree) -> list[int]:
        """Take a draft in; the trie's node of each of its nodes."""
        new = [-1] * len(tree)
        q, evidence = tree.q, tree.evidence
        for i, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True)):
            above = new[parent] if parent >= 0 else -1
            key = (above, token)
            node = self._index.get(key)
            if node is None:
                node = self._index[key] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(above)
                self.depths.append(1 if above < 0 else self.depths[above] + 1)
                self.claims.append([])
                self.children[above + 1].append(node)
                self.children.append([])
            claim = (source, q[i] if q else 0.5, evidence[i] if evidence else 0)
            self.claims[node].append(claim)
            new[i] = node
        return new

    def weigh(self, judge: Judge) -> None:
        """Fill `p` and `joint`: parents come before children, siblings are weighed together."""
        n = len(self.tokens)
        self.p, self.joint = [0.0] * n, [0.0] * n
        self._odds, self._weights, self._mixed = [[]] * n, [[]] * n, [0.0] * n
        for parent in range(-1, n):
            siblings = self.children[parent + 1]
            if not siblings:
                continue
            above = self.joint[parent] if parent >= 0 else 1.0
            self._weigh(judge, siblings, self.depths[siblings[0]])
            fair = consistent([self._mixed[node] for node in siblings])
            for node, p in zip(siblings, fair, strict=True):
                self.p[node], self.joint[node] = p, above * p

    def _weigh(self, judge: Judge, siblings: Sequence[int], depth: int) -> None:
        luck, reliability = self.luck, judge.reliability
        said, best, second = [], 0.0, 0.0
        for node in siblings:
            chances = [reliability[s].estimate(q, e, depth, luck) for s, q, e in self.claims[node]]
            top = max(chances)
            best, second = (top, best) if top > best else (best, max(second, top))
            said.append((node, chances, top))
        for node, chances, top in said:
            mask = 0
            for source, _, _ in self.claims[node]:
                mask |= 1 << source
            weights = judge.mixer.weights(mask, len(chances), second if top == best else best)
            odds = [stretch(p) for p in chances]
            self._odds[node], self._weights[node] = odds, weights
            self._mixed[node] = judge.mixer.mix(weights, odds)

    def best(self, budget: Budget, eos: Collection[int] = ()) -> list[int]:
        """The likeliest nodes within the budget, likeliest first, parents before children."""
        least, deepest = budget.min_prob, budget.depth
        order = sorted(range(len(self.tokens)), key=lambda node: -self.joint[node])
        kept: list[int] = []
        inside = [False] * len(self.tokens)
        for node in order:
            if len(kept) == budget.nodes or self.joint[node] < least:
                break
            above = self.parents[node]
            if self.depths[node] > deepest or (above >= 0 and not inside[above]):
                continue
            if above >= 0 and self.tokens[above] in eos:
                continue
            inside[node] = True
            kept.append(node)
        return kept

    def sources(self, node: int, names: Sequence[str]) -> str:
        """Who proposes a node, joined by "+"."""
        claims = self.claims[node]
        if len(claims) == 1:
            return names[claims[0][0]]
        return "+".join(dict.fromkeys(names[source] for source, _, _ in claims))

    def learn(
        self, judge: Judge, step: Step, rows: Callable[[], Sequence[Mapping[int, float]]]
    ) -> None:
        """Label every candidate below a scored node, drafted or not.

        Where the node stood, the label is what the text did. Below a rejected node it is what the
        target would have done, from `rows()` ([n+1] token -> probability; {} for a row that is not
        known), weighted by how likely the node was: contexts that do not occur teach little.
        """
        at = self._located(step.tree)
        spelled = [*(step.tree.tokens[node] for node in step.verdict.path), step.verdict.bonus]
        taken = dict(zip((0, *(node + 1 for node in step.verdict.path)), spelled, strict=True))
        for row, node in enumerate(at):
            if node is None or not self.children[node + 1]:
                continue
            if row in taken:
                self._learn(judge, node, {taken[row]: 1.0}, 1.0, mixed=True)
            elif self.joint[node] >= LEAST_WEIGHT and (chances := rows()[row]):
                self._learn(judge, node, chances, self.joint[node], mixed=False)

    def _learn(
        self, judge: Judge, node: int, chances: Mapping[int, float], weight: float, mixed: bool
    ) -> None:
        siblings = self.children[node + 1]
        for child in siblings:
            label, depth = chances.get(self.tokens[child], 0.0), self.depths[child]
            claims = self.claims[child]
            for source, q, evidence in claims:
                judge.reliability[source].learn(q, evidence, depth, self.luck, label, weight)
            if mixed and (len(claims) > 1 or len(siblings) > 1):
                judge.mixer.learn(
                    self._weights[child], self._odds[child], self._mixed[child], label
                )

    def _located(self, tree: DraftTree) -> list[int | None]:
        """[n+1]: the trie's node of the root (-1) and of each scored node; None if it is not in."""
        at: list[int | None] = [-1]
        for parent, token in zip(tree.parents, tree.tokens, strict=True):
            above = at[parent + 1]
            at.append(None if above is None else self._index.get((above, token)))
        return at
