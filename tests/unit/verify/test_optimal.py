"""optimal: exact, and the optimum at each node by every way of computing it."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from foretoken.errors import CapabilityError
from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.tree import DraftTree, Kind
from foretoken.verify import optimal, transport
from foretoken.verify.k_seq import KSeq
from foretoken.verify.mixed import Mixed
from foretoken.verify.optimal import LARGEST, Optimal
from foretoken.verify.recursive import Recursive
from foretoken.verify.transport import coupling, maximum_flow, plan, set_law
from foretoken.verify.walk import Walk
from tests.exact.enumeration import (
    SHAPES,
    Rows,
    distance,
    drafts,
    fused,
    law,
    model,
    sequences,
)  # fmt: skip
from tests.exact.every_draft import draws, every
from tests.unit.verify.test_siblings import EXACT, accepted, worst

KINDS: tuple[Kind, ...] = ("sampled", "without_replacement", "mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_is_the_targets(kind: Kind) -> None:
    assert worst(Optimal(), kind) <= EXACT


@pytest.mark.parametrize(("k", "depth", "vocab"), [(2, 2, 3), (2, 3, 2), (3, 2, 2)])
def test_sequences(k: int, depth: int, vocab: int) -> None:
    """Survivors are draws, as in k-seq, and never are fewer accepted at a single node."""
    q = model(vocab, depth, k)
    p = model(vocab, depth, k + 9, q, 0.4)
    trees = list(sequences(q, k, depth))
    found, mean = law(Optimal(), p, trees, depth)
    assert distance(p, found, depth + 1) <= EXACT
    assert mean >= accepted(KSeq(), p, trees, depth) - 1e-9


@pytest.mark.parametrize("levels", [((2, 1),), ((1, 2),), ((1, 1), (1, 1))])
def test_any_number_drawn_and_fixed(levels: tuple[tuple[int, int], ...]) -> None:
    """A drawn token may take a fixed one's place, so the rule cannot know what was to be fixed."""
    q, guess = model(3, len(levels), 1), model(3, len(levels), 3)
    p = model(3, len(levels), 2, q, 0.3)
    trees = list(every(fused(q, guess, levels), 0, "mixed"))
    assert distance(p, law(Optimal(), p, trees, len(levels))[0], len(levels) + 1) <= EXACT


def node(seed: int, vocab: int) -> tuple[Tensor, Tensor]:
    q = model(vocab, 0, seed)[()]
    return model(vocab, 0, seed + 70, {(): q}, 0.3)[()], q


def everywhere(row: Tensor) -> dict[tuple[int, ...], Tensor]:
    return {(): row, **{(x,): row for x in range(len(row))}}


def subset_formula(p: Tensor, sets: Sequence[tuple[frozenset[int], float]]) -> float:
    """1 + min over H of p(H) - P(all drafts in H): the dual, by trying every H."""
    tokens = range(len(p))
    return 1 + min(
        float(p[list(inside)].sum()) - sum(chance for s, chance in sets if s <= set(inside))
        for n in range(len(p) + 1) for inside in itertools.combinations(tokens, n)
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [2, 3])
def test_a_node_reaches_the_dual(kind: Kind, k: int) -> None:
    """And with it no rule accepts more at a node."""
    shape = SHAPES[f"fan{k}"]
    others = {"sampled": KSeq(), "without_replacement": Recursive(), "mixed": Mixed()}
    ahead = []
    for seed in range(6):
        p, q = node(seed, 4)
        trees = list(drafts(everywhere(q), kind, shape))
        sets = [(frozenset(tree.tokens), chance) for tree, chance in trees]
        found = accepted(Optimal(), everywhere(p), trees, 1)
        assert found == pytest.approx(subset_formula(p, sets), abs=1e-9)
        for rule in (others[kind], Walk()):
            ahead.append(found - accepted(rule, everywhere(p), trees, 1))
    assert min(ahead) >= -1e-9


@pytest.mark.parametrize("repeat", [True, False])
def test_laws_of_sets_by_enumeration(repeat: bool) -> None:
    q = model(4, 0, 3)[()]
    for k in (1, 2, 3, 4):
        expected: dict[int, float] = {}
        for drawn, chance in draws(q, k, repeat):
            mask = sum(1 << x for x in set(drawn))
            expected[mask] = expected.get(mask, 0.0) + chance
        assert set_law(q.tolist(), k, repeat) == pytest.approx(expected, abs=1e-14)


def test_laws_of_sets_where_q_runs_dry() -> None:
    """More draws than q has tokens: uniform over the rest; more than there are: nothing new."""
    assert set_law([1.0, 0.0, 0.0], 2, False) == pytest.approx({0b011: 0.5, 0b101: 0.5})
    assert set_law([0.5, 0.5], 3, False) == pytest.approx({0b11: 1.0})
    assert set_law([1.0, 0.0], 3, True) == pytest.approx({0b01: 1.0})


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-3])
def test_a_solvers_rounding_costs_acceptance_and_never_the_law(
    noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rough(p, sets):
        flow = maximum_flow(p, sets)
        return flow + noise * np.random.default_rng(1).normal(size=flow.shape) * (flow > 0)

    monkeypatch.setattr(transport, "maximum_flow", rough)
    for seed in range(8):
        p, q = node(seed, 5)
        sets = set_law(q.tolist(), 3, True)
        made = coupling(p.tolist(), sets)
        mean = sum(chance * made[drawn] for drawn, chance in sets.items())
        assert np.abs(mean - p.numpy()).max() <= 1e-15
        assert all(row.min() >= 0 and row.sum() == pytest.approx(1) for row in made.values())


def test_flows_keep_to_members_and_capacities() -> None:
    p, q = node(2, 6)
    sets = set_law(q.tolist(), 3, False)
    flow = maximum_flow(p.numpy(), sets)
    for row, drawn in zip(flow, sets, strict=True):
        assert all(row[x] == 0 for x in range(6) if not drawn >> x & 1)
    assert np.all(flow.sum(0) <= p.numpy() + 1e-9)
    assert np.all(flow.sum(1) <= np.array(list(sets.values())) + 1e-9)


def test_the_largest_vocabulary_works_with_many_draws() -> None:
    p, q = node(4, LARGEST)
    made = plan(tuple(p.tolist()), tuple(q.tolist()), 8, True)
    sets = set_law(q.tolist(), 8, True)
    mean = sum(chance * made[drawn] for drawn, chance in sets.items())
    assert len(sets) == 2**LARGEST - 1
    assert np.abs(mean - p.numpy()).max() <= 1e-14


def test_a_larger_vocabulary_is_refused_by_name() -> None:
    row = torch.full((LARGEST + 1,), 1 / (LARGEST + 1))
    tree = DraftTree([1], [-1], (), "sampled", row[None], [0])
    coins = Coins(PositionRandom(0), 1)
    with pytest.raises(
        CapabilityError, match=r"'optimal'.* 8 tokens, not 9; .*'k-seq'.*'traversal'"
    ):
        Optimal().judge(tree, Rows({(): row, (1,): row}, tree), coins)


def test_planted_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law of sets of another kind of draft; what the target lacks given out evenly."""
    real = optimal.plan
    monkeypatch.setattr(optimal, "plan", lambda p, q, k, repeat: real(p, q, k, not repeat))
    for kind in ("sampled", "without_replacement"):
        assert not worst_or_missing(kind) <= EXACT
    monkeypatch.undo()
    transport.plan.cache_clear()
    monkeypatch.setattr(
        transport, "_feasible", lambda flow, chances, p: flow * 0.9 + 0.1 * flow.mean()
    )
    assert worst(Optimal(), "sampled") > 0.01
    transport.plan.cache_clear()


def worst_or_missing(kind: Kind) -> float:
    """The distance; infinite where a set was drafted that cannot be."""
    try:
        return worst(Optimal(), kind)
    except KeyError:
        return np.inf
