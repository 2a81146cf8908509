"""A rule's exact law, by running the rule itself: every coin is followed both ways.

`outcomes` runs a verifier again and again with scripted chance until every branch was taken, and
so gives each verdict its exact probability. `law` does that for every draft that a drafter might
have drawn and adds the target's own continuation: the joint law of depth + 1 tokens, which must
be the target's. All in float64, so that what is exact is exact to about 1e-15.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.tree import DraftTree, Kind
from foretoken.types import Verdict

Context = tuple[int, ...]
Table = dict[Context, Tensor]  # context -> [V] float64 probabilities of the next token
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
    verifier: Any, p: Table, drafts: Iterator[tuple[DraftTree, float]], depth: int
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


# --- drafts: every tree that a drafter of a kind may draw, with its probability -----------------

# A shape says how many children each node has: (2, 1) is a root with two, each of which has one.
# It is a tuple per level of branching numbers, or nested lists for uneven trees: [] is a leaf.
Shape = list[Any]
LEAF: Shape = []
SHAPES: dict[str, Shape] = {
    "chain1": [LEAF],
    "chain2": [[LEAF]],
    "chain3": [[[LEAF]]],
    "fan2": [LEAF, LEAF],
    "fan3": [LEAF, LEAF, LEAF],
    "2x1": [[LEAF], [LEAF]],
    "1x2": [[LEAF, LEAF]],
    "2x2": [[LEAF, LEAF], [LEAF, LEAF]],
    "uneven": [[LEAF, LEAF], LEAF],
}


def height(shape: Shape) -> int:
    return 1 + max(map(height, shape)) if shape else 0


def drafts(q: Table, kind: Kind, shape: Shape) -> Iterator[tuple[DraftTree, float]]:
    """Every draft of this shape: a node is one draw, siblings stand in drawn order.

    "mixed" is Optimal MDSD's greedy drafting: the last branch of the shape is drawn from q without
    the likeliest tokens, which fill the other branches, and stands first.
    """
    for children, weight in _grown(q, kind, shape, ()):
        yield _assembled(children, kind, q), weight


def _children(q: Tensor, kind: Kind, n: int) -> Iterator[tuple[list[tuple[int, Tensor | None]], float]]:
    vocab = len(q)
    if kind == "point":
        order = q.argsort(descending=True, stable=True).tolist()
        yield [(t, None) for t in order[:n]], 1.0
        return
    if kind == "mixed":
        order = q.argsort(descending=True, stable=True).tolist()
        fixed, rest = order[: n - 1], q.clone()
        rest[fixed] = 0.0
        if rest.sum() <= 0:
            return
        rest = rest / rest.sum()
        for x in range(vocab):
            if rest[x] > 0:
                yield [(x, rest), *((t, None) for t in fixed)], float(rest[x])
        return
    repeat = kind == "sampled"
    tuples = itertools.product(range(vocab), repeat=n) if repeat else itertools.permutations(range(vocab), n)
    for drawn in tuples:
        weight, left = 1.0, q.clone()
        for x in drawn:
            weight *= float(left[x] / left.sum()) if left[x] > 0 else 0.0
            if not repeat:
                left[x] = 0.0
            if weight == 0.0:
                break
        if weight > 0.0:
            yield [(x, q) for x in drawn], weight


def _grown(q: Table, kind: Kind, shape: Shape, context: Context) -> Iterator[tuple[list[Any], float]]:
    if not shape:
        yield [], 1.0
        return
    # the drawn child of a mixed node takes the shape's last branch
    branches = [shape[-1], *shape[:-1]] if kind == "mixed" else shape
    for children, weight in _children(q[context], kind, len(shape)):
        below = [
            list(_grown(q, kind, branch, (*context, token)))
            for (token, _), branch in zip(children, branches, strict=True)
        ]
        for combination in itertools.product(*below):
            total = weight
            nodes = []
            for (token, row), (grandchildren, w) in zip(children, combination, strict=True):
                total *= w
                nodes.append((token, row, grandchildren))
            yield nodes, total


def _assembled(children: list[Any], kind: Kind, q: Table) -> DraftTree:
    """Level by level; equal independent draws share a node."""
    tokens: list[int] = []
    parents: list[int] = []
    rows: list[Tensor] = []
    row_of: list[int] = []
    qs: list[float] = []
    draw_nodes: list[int] = []
    draw_parents: list[int] = []
    index: dict[tuple[int, int], int] = {}
    level = [(child, -1, -1) for child in children]  # (child, parent node, parent draw)
    while level:
        below = []
        for (token, row, grandchildren), parent, draw in level:
            node = index.get((parent, token)) if kind == "sampled" else None
            if node is None:
                node = index[parent, token] = len(tokens)
                tokens.append(token)
                parents.append(parent)
                qs.append(1.0 if row is None else float(row[token]))
                row_of.append(-1 if row is None else len(rows))
                if row is not None:
                    rows.append(row)
            mine = len(draw_nodes)
            draw_nodes.append(node)
            draw_parents.append(draw)
            below += [(grandchild, node, mine) for grandchild in grandchildren]
        level = below
    repeats = kind == "sampled" and len(draw_nodes) > len(tokens)
    return DraftTree(
        tokens, parents, qs, kind, torch.stack(rows) if rows else None,
        row_of if rows else [], (),
        draw_nodes if repeats else (), draw_parents if repeats else (),
    )  # fmt: skip


def sequences(q: Table, k: int, depth: int) -> Iterator[tuple[DraftTree, float]]:
    """K independent sequences of `depth` tokens (SpecTr): chains side by side, merged where equal."""
    chain: Shape = LEAF
    for _ in range(depth - 1):
        chain = [chain]
    yield from drafts(q, "sampled", [chain] * k)
