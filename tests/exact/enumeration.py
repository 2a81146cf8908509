"""A rule's exact law, by running the rule itself: every coin is followed both ways.

`outcomes` runs a verifier again and again with scripted chance until every branch was taken, and
so gives each verdict its exact probability. `law` does that for every draft that a drafter might
have drawn and adds the target's own continuation: the joint law of depth + 1 tokens, which must
be the target's. All in float64, so that what is exact is exact to about 1e-15.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.tree import DraftTree
from foretoken.types import Verdict
from tests.exact.every_draft import SHAPES, Context, Table, drafts, fused, height, sequences

__all__ = ["SHAPES", "drafts", "fused", "height", "sequences"]  # what goes with `law`

TINY = 1e-300  # branches that cannot be taken


class Script:
    """Stands in for `Coins`: takes the branches it is told, then the first ones, and notes all."""

    def __init__(self, told: Sequence[int]) -> None:
        self.told, self.taken, self.open, self.weight = list(told), [], [], 1.0

    def _branch(self, chances: Sequence[float]) -> int:
        at = len(self.taken)
        choice = self.told[at] if at < len(self.told) else next(self._possible(chances, 0))
        self.taken.append(choice)
        self.open.append(next(self._possible(chances, choice + 1), None))
        self.weight *= float(chances[choice])
        return choice

    @staticmethod
    def _possible(chances: Sequence[float], start: int) -> Iterator[int]:
        return (i for i in range(start, len(chances)) if chances[i] > TINY)

    def accept(self, chance: float) -> bool:
        chance = min(max(float(chance), 0.0), 1.0)
        return self._branch([chance, 1.0 - chance]) == 0

    def token(self, probs: Tensor, position: int) -> int:
        mass = probs.double()
        return self._branch((mass / mass.sum()).tolist())


class Rows:
    """Stands in for `TargetRows`: exact probabilities by context."""

    greedy = False

    def __init__(self, table: Table, tree: DraftTree, length: int = 0) -> None:
        self.table, self.tree, self.length = table, tree, length

    def probs(self, node: int) -> Tensor:
        return self.table[tuple(self.tree.tokens[i] for i in self.tree.path(node))]

    def position(self, node: int) -> int:
        return self.length + (self.tree.depths[node] if node >= 0 else 0)

    def token(self, node: int, coins: Script) -> int:
        return coins.token(self.probs(node), self.position(node))

    def ends(self, token: int) -> bool:
        return False


def outcomes(judge: Callable[[Any], Verdict]) -> Iterator[tuple[Verdict, float]]:
    """Every verdict of a rule with its probability; judge is called with a Script."""
    told: list[int] | None = []
    while told is not None:
        script = Script(told)
        yield judge(script), script.weight
        told = None
        for at in reversed(range(len(script.taken))):
            if script.open[at] is not None:
                told = [*script.taken[:at], script.open[at]]
                break


def law(
    verifier: Any, p: Table, drafts: Iterable[tuple[DraftTree, float]], depth: int
) -> tuple[dict[Context, float], float]:
    """(joint law of depth + 1 tokens after one step and plain decoding, expected accepted)."""
    out: dict[Context, float] = {}
    accepted = 0.0
    for tree, weight in drafts:
        rows = Rows(p, tree)
        for verdict, chance in outcomes(lambda coins: verifier.judge(tree, rows, coins)):  # noqa: B023
            written = (*(tree.tokens[i] for i in verdict.path), verdict.bonus)
            accepted += weight * chance * len(verdict.path)
            for text, mass in continued(p, written, depth + 1):
                out[text] = out.get(text, 0.0) + weight * chance * mass
    return out, accepted


def continued(p: Table, text: Context, length: int) -> Iterator[tuple[Context, float]]:
    """What plain decoding makes of a text, up to `length` tokens."""
    if len(text) >= length:
        yield text[:length], 1.0
        return
    for token, mass in enumerate(p[text].tolist()):
        if mass > 0:
            for longer, rest in continued(p, (*text, token), length):
                yield longer, mass * rest


def distance(p: Table, found: dict[Context, float], length: int) -> float:
    """Total variation between a joint law and the target's own."""
    truth = dict(continued(p, (), length))
    return sum(abs(truth.get(t, 0.0) - found.get(t, 0.0)) for t in {*truth, *found}) / 2


def model(
    vocab: int, depth: int, seed: int, near: Table | None = None, mix: float = 0.0,
    concentration: float = 1.0,
) -> Table:  # fmt: skip
    """Random rows for every context up to `depth` tokens; `mix` pulls them towards `near`."""
    torch.manual_seed(seed)
    draw = torch.distributions.Dirichlet(torch.full((vocab,), concentration).double()).sample
    table: Table = {}
    for n in range(depth + 1):
        for context in itertools.product(range(vocab), repeat=n):
            row = draw()
            table[context] = row if near is None else (1 - mix) * row + mix * near[context]
    return table
