"""How many tokens of a draft a rule is expected to accept: every branch of its coins is followed.

The figure of a draft is thus an expectation and no sample. `Shadow` takes it for several rules on
the drafts of a text that is being written.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from foretoken.bench.interval import Mean
from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree
from foretoken.types import Verdict
from foretoken.verify.base import Verifier
from foretoken.verify.walk import Walk

LOST = 1e-6  # chance of the branches that may be left out of an expectation
MOST = 5000  # runs of a rule on one draft at most


class Branches:
    """Stands in for `Coins`: takes the branches it is told, then the likeliest, and notes the rest.

    A token makes a difference to the path only if it was drafted for its position: all the others
    are one branch.
    """

    def __init__(self, tree: DraftTree, length: int, told: Sequence[int] = ()) -> None:
        self.told, self.taken, self.weight = list(told), list[int](), 1.0
        self.others: list[tuple[float, list[int]]] = []  # (chance, branches to be told)
        self._drafted: dict[int, list[int]] = {}
        for token, depth in sorted(set(zip(tree.tokens, tree.depths, strict=True))):
            self._drafted.setdefault(length + depth - 1, []).append(token)

    def accept(self, chance: float) -> bool:
        """See `Coins`."""
        chance = min(max(float(chance), 0.0), 1.0)
        return self._branch([chance, 1.0 - chance]) == 0

    def token(self, probs: Tensor, position: int) -> int:
        """See `Coins`."""
        mass = probs.detach().double()
        mass = mass / mass.sum()
        tokens = self._drafted.get(position, [])
        chances: list[float] = mass[tokens].tolist()
        rest = mass.clone()
        rest[tokens] = 0.0
        choice = self._branch([*chances, float(rest.sum())])
        return tokens[choice] if choice < len(tokens) else int(rest.argmax())

    def _branch(self, chances: Sequence[float]) -> int:
        at = len(self.taken)
        if at < len(self.told):
            choice = self.told[at]
        else:
            choice = max(range(len(chances)), key=chances.__getitem__)
            self.others += [
                (self.weight * chance, [*self.taken, i])
                for i, chance in enumerate(chances)
                if chance > 0.0 and i != choice
            ]
        self.taken.append(choice)
        self.weight *= chances[choice]
        return choice


def expected_accepted(rule: Verifier, tree: DraftTree, rows: TargetRows) -> tuple[float, float]:
    """(mean number of accepted tokens of one draft, chance of the branches left out).

    The heaviest branches come first; it ends when those that are open weigh less than LOST.
    """
    total, left, runs = 0.0, 1.0, 0
    heap: list[tuple[float, list[int]]] = [(-1.0, [])]
    while heap and left > LOST and runs < MOST:
        _, told = heapq.heappop(heap)
        coins: Any = Branches(tree, rows.length, told)
        verdict = rule.judge(tree, rows, coins)
        total += coins.weight * len(verdict.path)
        left -= coins.weight
        runs += 1
        for chance, branches in coins.others:
            heapq.heappush(heap, (-chance, branches))
    return total, max(left, 0.0) if heap else 0.0


class Shadow(Walk):
    """`walk`, with other rules looking at the same drafts. `seen[prompt][draft][rule]` is the
    expectation."""

    def __init__(self, rules: Mapping[str, Verifier]) -> None:
        self.rules = dict(rules)
        self.seen: list[list[dict[str, float]]] = []
        self.lost = 0.0
        self.on_draft: Callable[[], None] = lambda: None

    def decide(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        """See the base class."""
        found: dict[str, float] = {}
        for name, rule in self.rules.items():
            found[name], lost = expected_accepted(rule, tree, rows)
            self.lost = max(self.lost, lost)
        self.seen[-1].append(found)
        self.on_draft()
        return super().decide(tree, rows, coins)

    def mean(self, rule: str) -> Mean | None:
        """Accepted tokens per draft."""
        return self._over_prompts(lambda found: found[rule])

    def ahead(self, first: str, second: str) -> Mean | None:
        """First rule minus second, on the same drafts."""
        return self._over_prompts(lambda found: found[first] - found[second])

    def share_below(self, first: str, second: str, slack: float) -> float:
        """Share of the drafts on which the first rule expects less than the second."""
        drafts = [found for prompt in self.seen for found in prompt]
        below = sum(found[first] < found[second] - slack for found in drafts)
        return below / len(drafts) if drafts else 0.0

    def _over_prompts(self, value: Callable[[dict[str, float]], float]) -> Mean | None:
        seen = [prompt for prompt in self.seen if prompt]
        return Mean.of([sum(map(value, prompt)) for prompt in seen], [len(p) for p in seen])
