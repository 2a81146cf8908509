"""The forms of the lm drafter, grown from made-up rows: no model is run.

The rows of a draft are a pure function of the path, as a model's are.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from foretoken import registry
from foretoken.draft.growth import Growth
from foretoken.draft.lm_greedy_k import LikeliestAndDrawn
from foretoken.draft.lm_iid_k import Sequences
from foretoken.draft.lm_rsd_c import Branching
from foretoken.draft.lm_rsd_s import StochasticBeam
from foretoken.draft.lm_sampled import Chain
from foretoken.draft.lm_top_k import BestFirst
from foretoken.types import Budget

V = 6
FORMS: dict[type[Growth], dict[str, Any]] = {
    Chain: {},
    Sequences: {"sequences": 3},
    Branching: {"branching": (3, 2)},
    StochasticBeam: {"width": 3},
    LikeliestAndDrawn: {"width": 3},
    BestFirst: {"width": 3},
}
NAMES = {
    "lm-sampled": Chain, "lm-iid-k": Sequences, "lm-rsd-c": Branching, "lm-rsd-s": StochasticBeam,
    "lm-greedy-k": LikeliestAndDrawn, "lm-top-k": BestFirst,
}  # fmt: skip
forms = pytest.mark.parametrize("form", FORMS)
budgets = st.builds(
    Budget, st.integers(0, 20), st.integers(0, 5), st.sampled_from([0.0, 0.0, 0.05, 0.3])
)


class Rows:
    """log q of any path: random, with `banned` of the tokens ruled out."""

    def __init__(self, seed: int, banned: int = 0, vocab: int = V, sharp: float = 1.5) -> None:
        self.seed, self.banned, self.vocab, self.sharp = seed, banned, vocab, sharp
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, path: tuple[int, ...]) -> torch.Tensor:
        if path not in self._known:
            dice = torch.Generator().manual_seed(hash((self.seed, *path)) % 2**31)
            logits = torch.randn(self.vocab, generator=dice) * self.sharp
            logits[torch.randperm(self.vocab, generator=dice)[: self.banned]] = -math.inf
            self._known[path] = logits.log_softmax(-1)
        return self._known[path]


def path_of(growth: Growth, node: int) -> tuple[int, ...]:
    out: tuple[int, ...] = ()
    while node >= 0:
        out, node = (growth.tokens[node], *out), growth.parents[node]
    return out


def grow(
    form: type[Growth], rows: Any, budget: Budget, seed: int = 0, greedy: bool = False,
    eos: Any = (), **options: Any,
) -> Growth:  # fmt: skip
    growth = form(
        budget, torch.Generator().manual_seed(seed), greedy, eos, **(options or FORMS[form])
    )
    while growth.frontier:
        assert growth.frontier == sorted(set(growth.frontier))
        growth.grow(torch.stack([rows(path_of(growth, node)) for node in growth.frontier]))
    return growth


# --- laws of all forms ---------------------------------------------------------------------------


@forms
@settings(max_examples=60)
@given(
    budget=budgets, seed=st.integers(0, 99), banned=st.integers(0, V - 1), greedy=st.booleans(),
    eos=st.sets(st.integers(0, V - 1), max_size=2),
)  # fmt: skip
def test_laws(
    form: type[Growth], budget: Budget, seed: int, banned: int, greedy: bool, eos: set[int]
) -> None:
    rows = Rows(seed, banned)
    growth = grow(form, rows, budget, seed, greedy, eos)
    tree = growth.tree()
    assert tree.kind == form.kind
    assert len(tree) <= budget.nodes
    assert tree.depth <= budget.depth
    if budget.nodes and budget.depth and not budget.min_prob:
        assert len(tree)
    for at in range(-1, len(tree)):
        below, path = tree.children[at + 1], tuple(tree.tokens[i] for i in tree.path(at))
        tokens = [tree.tokens[i] for i in below]
        assert len(set(tokens)) == len(tokens), "a token is drafted once"
        assert all(rows(path)[t] > -math.inf for t in tokens)
        ended = at >= 0 and (tree.tokens[at] in eos or growth_joint(tree, rows, at) < least(budget))
        assert not (ended and below)
    assert all(q > 0 for q in tree.q)
    drawn = not greedy and tree.kind != "point"
    assert (tree.dist is not None) == (drawn and len(tree) > 0)
    if not drawn:
        assert all(growth_joint(tree, rows, i) >= least(budget) for i in range(len(tree)))
    elif tree.kind != "mixed":
        for i in range(len(tree)):
            path = tuple(tree.tokens[j] for j in tree.path(tree.parents[i]))
            law = tree.dist[tree.dist_row[i]]
            assert torch.equal(law, rows(path).exp()), "the very row that was drawn from"
            assert tree.q[i] == law[tree.tokens[i]]


def growth_joint(tree: Any, rows: Rows, node: int) -> float:
    path = [tree.tokens[i] for i in tree.path(node)]
    return sum(float(rows(tuple(path[:i]))[t]) for i, t in enumerate(path)) + 1e-5


def least(budget: Budget) -> float:
    return math.log(budget.min_prob) if budget.min_prob else -math.inf


@forms
def test_same_seed_same_tree_and_nothing_else_is_read(form: type[Growth]) -> None:
    rows, budget = Rows(1), Budget(12, 4)
    first = grow(form, rows, budget, 7).tree()
    torch.manual_seed(123)  # the global stream must not matter
    again = grow(form, rows, budget, 7).tree()
    assert (first.tokens, first.parents) == (again.tokens, again.parents)
    others = {grow(form, rows, budget, seed).tree().tokens for seed in range(8)}
    assert (len(others) > 1) == (form.kind != "point")


@forms
def test_greedy_drafts_use_no_chance(form: type[Growth]) -> None:
    rows, budget = Rows(2), Budget(12, 4)
    growths = [grow(form, rows, budget, seed, greedy=True) for seed in range(4)]
    assert len({(g.tree().tokens, g.tree().parents) for g in growths}) == 1
    best, path = growths[0].tree(), ()
    for _ in range(best.depth):  # the likeliest chain is drafted, whatever the form
        path = (*path, int(rows(path).argmax()))
    chains = [tuple(best.tokens[i] for i in best.path(n)) for n in range(len(best))]
    assert path[:3] in chains
    fresh = torch.Generator().manual_seed(0)
    assert torch.equal(growths[0].generator.get_state(), fresh.get_state())


@forms
@pytest.mark.parametrize("greedy", [True, False])
def test_a_vocabulary_of_one_and_a_sure_row(form: type[Growth], greedy: bool) -> None:
    tree = grow(form, lambda _: torch.zeros(1), Budget(9, 3), 0, greedy).tree()
    assert tree.depth == 3
    assert set(tree.tokens) == {0}
    assert len(tree) == 3, "a row that is sure of one token gives one child"
    sure = torch.tensor([-math.inf, 0.0, -math.inf])
    tree = grow(form, lambda _: sure, Budget(9, 3), 0, greedy).tree()
    assert tree.tokens == (1, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_classes_hand_their_options_on(name: str) -> None:
    cls = registry.find("drafter", name)
    assert cls.name == name
    assert cls.emits == NAMES[name].kind
    assert cls.emits in registry.find("verifier", cls.verifier).accepts
    assert "sampling" in registry.find("verifier", cls.verifier).exact
    own = {
        "lm-iid-k": ("sequences", 2), "lm-rsd-c": ("branching", (2, 2)), "lm-rsd-s": ("width", 2),
        "lm-greedy-k": ("width", 2), "lm-top-k": ("width", 2),
    }.get(name)  # fmt: skip
    drafter = cls.__new__(cls)  # no model is loaded
    drafter.options = cls.Options(**dict([own] if own else []))
    session = SimpleNamespace(warper=SimpleNamespace(eos=frozenset({4})))
    growth = drafter.growth(session, Budget(8, 3), torch.Generator(), True)
    assert type(growth) is NAMES[name]
    assert (growth.greedy, growth.eos) == (True, {4})
    if own:
        assert getattr(growth, own[0]) == own[1]
        for wrong in (0, -1, "many", (0,), ()):
            with pytest.raises(ValidationError, match=own[0]):
                cls.Options(**{own[0]: wrong})
