"""Every form of the lm drafter is exact, by enumeration of what it may draw.

The drafter itself is run with every draw followed all ways, then its rule with every coin. Budgets
that end within a level, texts that end and rows with ruled-out tokens come along. (Scores of RSD-S
are continuous: tests/exact/test_rsd_s.py.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from foretoken import registry
from foretoken.draft import gumbel
from foretoken.draft.growth import Growth
from foretoken.draft.lm_greedy_k import LikeliestAndDrawn
from foretoken.draft.lm_iid_k import Sequences
from foretoken.draft.lm_rsd_c import Branching
from foretoken.draft.lm_sampled import Chain
from foretoken.draft.lm_top_k import BestFirst
from foretoken.tree import DraftTree
from foretoken.types import Budget
from tests.exact.enumeration import Script, distance, law, model, outcomes

V = 3
CASES: dict[str, tuple[type[Growth], dict[str, Any], Budget]] = {
    "chain": (Chain, {}, Budget(3, 3)),
    "chain, improbable": (Chain, {}, Budget(3, 3, 0.2)),
    "iid-k": (Sequences, {"sequences": 2}, Budget(5, 2)),
    "iid-k, improbable": (Sequences, {"sequences": 2}, Budget(4, 2, 0.3)),
    "rsd-c": (Branching, {"branching": (2, 1)}, Budget(4, 2)),
    "rsd-c, cut": (Branching, {"branching": (2, 2)}, Budget(5, 2)),
    "rsd-c, dry": (Branching, {"branching": (3, 1)}, Budget(9, 2, 0.25)),
    "greedy-k": (LikeliestAndDrawn, {"width": 2}, Budget(6, 3)),
    "greedy-k, cut": (LikeliestAndDrawn, {"width": 3}, Budget(5, 2)),
    "greedy-k, improbable": (LikeliestAndDrawn, {"width": 3}, Budget(6, 2, 0.2)),
    "top-k": (BestFirst, {"width": 2}, Budget(4, 2)),
}  # fmt: skip
RULES = {
    "sampled": ("multi-round", "walk"),
    "without_replacement": ("recursive", "traversal"),
    "mixed": ("mixed", "traversal"),
    "point": ("walk", "traversal"),
}
OWN = {Chain: ("token", "block"), Sequences: ("k-seq", "traversal")}
PAIRS = [
    (case, rule) for case, (form, _, _) in CASES.items() for rule in OWN.get(form, RULES[form.kind])
]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Draws follow a script in place of numbers."""
    now: list[Script] = []

    def draw(urn: Any, rows: Any, u: Any) -> Any:
        mass = urn._mass.reshape(len(urn._mass), -1)[rows]
        return np.array([
            now[-1].token(torch.from_numpy(row), 0) if row.sum() > 0 else 0 for row in mass
        ])  # fmt: skip

    monkeypatch.setattr(gumbel.Urn, "draw", draw)
    return now.append


def every(
    case: str, q: dict, eos: tuple[int, ...], use: Callable[[Script], None]
) -> Iterator[tuple[DraftTree, float]]:
    form, options, budget = CASES[case]

    def grown(script: Script) -> Any:
        use(script)
        growth = form(budget, torch.Generator(), False, eos, **options)
        while growth.frontier:
            rows = [q[text(growth, node)] for node in growth.frontier]
            growth.grow(torch.stack(rows).log().float())
        return growth.tree()

    yield from outcomes(grown)


def text(growth: Growth, node: int) -> tuple[int, ...]:
    return () if node < 0 else (*text(growth, growth.parents[node]), growth.tokens[node])


@pytest.mark.parametrize(("case", "rule"), PAIRS)
@pytest.mark.parametrize("eos", [(), (1,)])
def test_exact(case: str, rule: str, eos: tuple[int, ...], scripted: Any) -> None:
    depth = CASES[case][2].depth
    p, q = model(V, depth, 5), model(V, depth - 1, 6)
    q[0,] = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64)  # a token that is ruled out
    drafts = list(every(case, q, eos, scripted))
    assert sum(weight for _, weight in drafts) == pytest.approx(1.0)
    found, accepted = law(registry.find("verifier", rule)(), p, drafts, depth)
    assert distance(p, found, depth + 1) < 1e-6, "rows are float32"
    assert accepted > 0.3


def test_a_drawn_node_dropped_for_its_own_sake_is_seen(scripted: Any) -> None:
    """The fault that the forms must not have: a draw that is improbable is not submitted."""
    p, q = model(V, 3, 5), model(V, 2, 6)
    kept = [
        (tree if tree.q[0] > 0.4 else DraftTree(), weight)
        for tree, weight in every("chain", q, (), scripted)
    ]
    found, _ = law(registry.find("verifier", "token")(), p, kept, 3)
    assert distance(p, found, 4) > 0.02
