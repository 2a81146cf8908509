"""Drafts that branch as a policy asks are exact: every draw and every coin, by enumeration.

For every kind and every rule that accepts it: the drafter is run with all draws followed, then
the rule with all coins. Shapes that are settled draft exactly the trees of `every_draft`; those
that look at what was drawn must keep every rule's law but of rules that weigh siblings as a set,
and these `build` refuses. Planted faults show that a bias would be seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from foretoken import registry
from foretoken.draft import gumbel
from foretoken.draft.growth import Growth
from foretoken.draft.shaped import InTurn, shaped
from foretoken.draft.shapes import Shape
from foretoken.policy.dyspec import Arrival
from foretoken.policy.eagle2_tree import Beam
from foretoken.policy.opt_tree import LikeliestPaths
from foretoken.policy.rank_trees import RankTree
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget
from tests.exact.enumeration import SHAPES, Script, distance, law, model, outcomes
from tests.exact.every_draft import Table, drafts, height

V = 3
ROUNDING = 1e-6  # rows are float32
Drafts = list[tuple[DraftTree, float]]
DRAWN: tuple[Kind, ...] = ("sampled", "without_replacement")
KINDS: tuple[Kind, ...] = ("point", *DRAWN)

CHOOSING: dict[str, tuple[Shape, Budget]] = {
    "opt-tree": (LikeliestPaths(0.3), Budget(4, 3)),
    "eagle2-tree": (Beam(2), Budget(4, 3)),
    "eagle2-tree, narrow": (Beam(1), Budget(3, 2)),
    "dyspec": (Arrival(), Budget(4, 2)),
    "dyspec, small": (Arrival(), Budget(3, 3)),
    "dyspec, threshold": (Arrival(0.3), Budget(9, 2)),
    "dyspec, improbable": (Arrival(), Budget(4, 3, 0.2)),
}


def rules(kind: Kind, turns: bool) -> list[str]:
    """The exact rules of a kind, as `build` has it."""
    found = [(name, registry.find("verifier", name)) for name in registry.names("verifier")]
    return [
        name for name, rule in found
        if kind in rule.accepts and "sampling" in rule.exact
        and not (turns and rule.needs_settled and kind != "point")
    ]  # fmt: skip


def ranks(shape: list[Any], above: tuple[int, ...] = ()) -> dict[tuple[int, ...], float]:
    """The nodes of a shape of `every_draft`, all worth the same."""
    out: dict[tuple[int, ...], float] = {}
    for rank, below in enumerate(shape):
        out |= {(*above, rank): 1.0, **ranks(below, (*above, rank))}
    return out


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Draws follow a script in place of numbers. A sure row asks for no branch."""
    now: list[Script] = []

    def draw(urn: Any, rows: Any, u: Any) -> Any:
        mass = urn._mass.reshape(len(urn._mass), -1)[rows]
        return np.array([
            now[-1].token(torch.from_numpy(row), 0) if row.sum() > 0 else 0 for row in mass
        ], dtype=np.int64)  # fmt: skip

    monkeypatch.setattr(gumbel.Urn, "draw", draw)
    return now.append


def text(growth: Growth, node: int) -> tuple[int, ...]:
    return () if node < 0 else (*text(growth, growth.parents[node]), growth.tokens[node])


def every(
    made: Callable[[], Growth], q: Table, use: Callable[[Script], None]
) -> Iterator[tuple[DraftTree, float]]:
    def grown(script: Script) -> Any:
        use(script)
        growth = made()
        while growth.frontier:
            rows = [q[text(growth, node)] for node in growth.frontier]
            growth.grow(torch.stack(rows).log().float())
        return growth.tree()

    yield from outcomes(grown)


def grown(kind: Kind, shape: Shape, budget: Budget, eos: tuple[int, ...] = ()) -> Growth:
    asked = Budget(budget.nodes, budget.depth, budget.min_prob, shape=shape)
    return shaped(kind, asked, torch.Generator(), False, eos)


def merged(found: Any) -> Drafts:
    """Equal trees together: rules look at nothing else."""
    trees: dict[Any, DraftTree] = {}
    weights: Counter[Any] = Counter()
    for tree, weight in found:
        key = (*map(tuple, (tree.tokens, tree.parents, tree.draw_nodes, tree.draw_parents)),)
        trees.setdefault(key, tree)
        weights[key] += weight
    return [(trees[key], weight) for key, weight in weights.items()]


def pair(depth: int, zero: bool = True) -> tuple[Table, Table]:
    p, q = model(V, depth, 5), model(V, depth, 6)
    if zero and (0,) in q:
        q[0,] = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64)  # a token that is ruled out
    return p, q


# --- settled shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [n for n in SHAPES if n != "fan4"])
def test_a_settled_shape_is_drafted_as_it_is(name: str, kind: Kind, scripted: Any) -> None:
    """The drafter's trees with their probabilities, against those of the drafts' definition."""
    shape = SHAPES[name]
    q = {c: row.float().double() for c, row in pair(height(shape), zero=False)[1].items()}
    budget = Budget(99, 9)
    found = merged(every(lambda: grown(kind, RankTree(ranks(shape)), budget), q, scripted))
    expected = {key(tree): weight for tree, weight in merged(drafts(q, kind, shape))}
    got = {key(tree): weight for tree, weight in found}
    assert got.keys() == expected.keys()
    assert all(got[k] == pytest.approx(expected[k], abs=1e-6) for k in expected)


def key(tree: DraftTree) -> Any:
    """What is drafted, whatever order the nodes of a level stand in: draws as nested tuples."""
    draws = tree.draws

    def below(draw: int) -> Any:
        return tuple((tree.tokens[draws.nodes[d]], below(d)) for d in draws.children[draw + 1])

    return below(-1)


@pytest.mark.parametrize(
    ("kind", "rule"), [(kind, rule) for kind in KINDS for rule in rules(kind, turns=False)]
)
@pytest.mark.parametrize("name", ["fan3", "2x1", "uneven"])
@pytest.mark.parametrize("eos", [(), (1,)])
def test_a_settled_shape_is_exact(
    name: str, kind: Kind, rule: str, eos: tuple[int, ...], scripted: Any
) -> None:
    """With room for all of it and cut to less than the shape asks for."""
    shape, depth = RankTree(ranks(SHAPES[name])), height(SHAPES[name])
    p, q = pair(depth)
    for nodes in (len(shape), len(shape) - 1):
        budget = Budget(nodes, depth)
        found = merged(every(lambda: grown(kind, shape, budget, eos), q, scripted))  # noqa: B023
        assert sum(weight for _, weight in found) == pytest.approx(1.0)
        written, accepted = law(registry.find("verifier", rule)(), p, found, depth)
        assert distance(p, written, depth + 1) < ROUNDING
        assert accepted > 0.2


# --- shapes that look at what was drawn ----------------------------------------------------------


CACHE: dict[Any, Drafts] = {}


def choosing(case: str, kind: Kind, eos: tuple[int, ...], scripted: Any) -> tuple[Table, Drafts]:
    shape, budget = CHOOSING[case]
    p, q = pair(budget.depth)
    if (case, kind, eos) not in CACHE:
        CACHE[case, kind, eos] = merged(every(lambda: grown(kind, shape, budget, eos), q, scripted))
    return p, CACHE[case, kind, eos]


@pytest.mark.parametrize(
    ("kind", "rule"),
    [(kind, rule) for kind in ("point", "without_replacement") for rule in rules(kind, turns=True)],
)  # fmt: skip
@pytest.mark.parametrize("case", CHOOSING)
@pytest.mark.parametrize("eos", [(), (1,)])
def test_a_choosing_shape_is_exact(
    case: str, kind: Kind, rule: str, eos: tuple[int, ...], scripted: Any
) -> None:
    p, found = choosing(case, kind, eos, scripted)
    depth = CHOOSING[case][1].depth
    assert sum(weight for _, weight in found) == pytest.approx(1.0)
    assert max(len(tree) for tree, _ in found) <= CHOOSING[case][1].nodes
    written, accepted = law(registry.find("verifier", rule)(), p, found, depth)
    assert distance(p, written, depth + 1) < ROUNDING
    assert accepted > 0.2


def test_the_drawn_trees_do_differ_in_shape(scripted: Any) -> None:
    """Else the tests above would show little."""
    for case in ("dyspec", "opt-tree", "eagle2-tree", "dyspec, small", "dyspec, threshold"):
        _, found = choosing(case, "without_replacement", (), scripted)
        assert len({tuple(tree.parents) for tree, _ in found}) > 2, case


def test_a_rule_that_weighs_sets_would_be_biased_by_a_choosing_shape(scripted: Any) -> None:
    """Which is why `build` refuses the pair."""
    p, found = choosing("dyspec", "without_replacement", (), scripted)
    written, _ = law(registry.find("verifier", "optimal")(), p, found, 2)
    assert distance(p, written, 3) > 1e-3


class ByOwnToken(InTurn):
    """The fault: what is left out at the end hangs on the drawn tokens' own probability."""

    def _select(self, start: int) -> None:
        for node in range(start, len(self.tokens)):
            parent = self.parents[node]
            own = np.exp(self.joint[node])
            self._worths[node] = min(own, self._worths[parent]) if parent >= 0 else own
        super()._select(start)


@pytest.mark.parametrize("rule", ["recursive", "traversal", "token"])
def test_a_drawn_node_left_out_for_its_own_sake_is_seen(rule: str, scripted: Any) -> None:
    shape, budget = CHOOSING["dyspec, small"]
    p, q = pair(budget.depth)
    found = merged(every(
        lambda: ByOwnToken("without_replacement", shape, budget, torch.Generator(), False), q,
        scripted,
    ))  # fmt: skip
    written, _ = law(registry.find("verifier", rule)(), p, found, budget.depth)
    assert distance(p, written, budget.depth + 1) > 5e-3
