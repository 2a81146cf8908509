"""What every rule must do with rows that are awkward: zeros, ties, point masses, one token.

Every registered rule, every kind that it accepts, on small random worlds whose whole law is
enumerated. Weights are small whole numbers, so that zeros, ties and point masses are common.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from foretoken import registry
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from tests.exact.enumeration import Rows, distance, law, outcomes
from tests.exact.every_draft import SHAPES, Context, Table, drafts, height
from tests.exact.test_enumeration import EXACT, FOLLOWS, make

RULES = registry.names("verifier")
PAIRS = [(n, k) for n in RULES for k in KINDS if k in registry.find("verifier", n).accepts]
CLAIMS = [(n, k) for n, k in PAIRS if "sampling" in registry.find("verifier", n).exact]
WEIGHING = [(n, k) for n, k in CLAIMS if n != FOLLOWS and k in ("sampled", "without_replacement")]
# Every path of these shapes is equally deep, and one node alone has a choice of children.
SIZES = [
    (1, "chain2"), (1, "fan2"), (2, "chain2"), (3, "chain2"), (2, "1x2"), (2, "fan3"), (3, "fan2"),
    (4, "fan2"),
]  # fmt: skip


@dataclass
class World:
    """A target p, a draft law q for every context, and how much is drafted."""

    p: Table
    q: Table
    vocab: int
    shape: str

    @property
    def depth(self) -> int:
        return height(SHAPES[self.shape])

    def drafts(self, kind: Kind) -> Iterator[tuple[DraftTree, float]]:
        return drafts(self.q, kind, SHAPES[self.shape])

    def __repr__(self) -> str:
        rows = {c: (self.p[c].tolist(), self.q[c].tolist()) for c in self.q}
        return f"{self.shape}, (p, q) = {rows}"


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Rows of each context come from a pool of three, so that a failure shrinks to little."""
    vocab, shape = draw(st.sampled_from(SIZES))
    weights = st.lists(st.integers(0, 4), min_size=vocab, max_size=vocab).filter(any)
    pools = [draw(st.lists(weights, min_size=3, max_size=3)) for _ in range(2)]
    p, q = ({c: normalised(pool[(len(c) + sum(c)) % 3]) for c in contexts(vocab)} for pool in pools)
    return World(p, q, vocab, shape)


def contexts(vocab: int) -> list[Context]:
    every: list[Context] = [()]
    for _ in range(2):
        every += [(*c, t) for c in every for t in range(vocab) if (*c, t) not in every]
    return list(dict.fromkeys(every))


def normalised(weights: Sequence[float]) -> torch.Tensor:
    row = torch.tensor(weights, dtype=torch.float64)
    return row / row.sum()


def verdicts(rule: Any, world: World, kind: Kind) -> Iterator[tuple[DraftTree, Verdict, float]]:
    """Every draft with every verdict on it, and how often both come together."""
    for tree, weight in world.drafts(kind):
        rows = Rows(world.p, tree)
        for verdict, chance in outcomes(lambda coins: rule.judge(tree, rows, coins)):  # noqa: B023
            yield tree, verdict, weight * chance


@pytest.mark.parametrize(("name", "kind"), CLAIMS)
@settings(max_examples=25)
@given(world=worlds())
def test_the_law_is_the_targets(name: str, kind: Kind, world: World) -> None:
    found, _ = law(make(name), world.p, world.drafts(kind), world.depth)
    assert distance(world.p, found, world.depth + 1) <= EXACT


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@settings(max_examples=15)
@given(world=worlds())
def test_what_has_no_probability_is_never_written(name: str, kind: Kind, world: World) -> None:
    """Not even by a lossy rule, nor by rounding: not once."""
    for tree, verdict, _ in verdicts(make(name), world, kind):
        text = (*(tree.tokens[i] for i in verdict.path), verdict.bonus)
        assert all(world.p[text[:i]][token] > 0 for i, token in enumerate(text))


def renamed(tree: DraftTree, names: Sequence[int]) -> DraftTree:
    """Token t is called names[t]."""
    dist = tree.dist
    if dist is not None:
        dist = torch.empty_like(dist)
        dist[:, list(names)] = tree.dist
    return replace(tree, tokens=[names[t] for t in tree.tokens], dist=dist)


def renamed_table(table: Table, names: Sequence[int]) -> Table:
    out = {}
    for context, row in table.items():
        new = torch.empty_like(row)
        new[list(names)] = row
        out[tuple(names[t] for t in context)] = new
    return out


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@settings(max_examples=12)
@given(world=worlds(), data=st.data())
def test_names_of_tokens_do_not_matter(name: str, kind: Kind, world: World, data: Any) -> None:
    names = data.draw(st.permutations(range(world.vocab)))
    found, accepted = law(make(name), world.p, world.drafts(kind), world.depth)
    called = ((renamed(tree, names), weight) for tree, weight in world.drafts(kind))
    other, still = law(make(name), renamed_table(world.p, names), called, world.depth)
    assert still == pytest.approx(accepted, abs=1e-9)
    back = {tuple(names[t] for t in text): mass for text, mass in found.items()}
    assert sum(abs(back.get(t, 0) - other.get(t, 0)) for t in {*back, *other}) < 1e-9


@pytest.mark.parametrize(("name", "kind"), WEIGHING)
@settings(max_examples=12)
@given(world=worlds())
def test_a_perfect_drafter_is_always_right(name: str, kind: Kind, world: World) -> None:
    """q = p: of every draft a whole path stands."""
    world = replace(world, q=world.p)
    _, accepted = law(make(name), world.p, world.drafts(kind), world.depth)
    assert accepted == pytest.approx(world.depth, abs=1e-9)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@settings(max_examples=12)
@given(world=worlds())
def test_a_sure_target_has_its_way(name: str, kind: Kind, world: World) -> None:
    """p one-hot: its text is written, and the first-drawn path stands as far as it is that text;
    with a vocabulary of one, all of it."""
    sure = {c: torch.eye(world.vocab, dtype=torch.float64)[row.argmax()] for c, row in world.p.items()}  # fmt: skip
    world = replace(world, p=sure)
    for tree, verdict, weight in verdicts(make(name), world, kind):
        text = [tree.tokens[i] for i in verdict.path]
        assert sure[tuple(text)][verdict.bonus] == 1.0
        assert all(sure[tuple(text[:i])][token] == 1.0 for i, token in enumerate(text))
        right, at = 0, -1
        while tree.children[at + 1]:
            at = tree.children[at + 1][0]
            above = tuple(tree.tokens[i] for i in tree.path(at))
            if sure[above[:-1]][above[-1]] != 1.0:
                break
            right += 1
        assert len(text) >= right or weight < 1e-12
        assert world.vocab > 1 or len(text) == tree.depth


@pytest.mark.parametrize(("name", "kind"), CLAIMS)
@settings(max_examples=12)
@given(world=worlds())
def test_single_precision_is_enough(name: str, kind: Kind, world: World) -> None:
    p, q = ({c: row.float() for c, row in table.items()} for table in (world.p, world.q))
    rounded = replace(world, p=p, q=q)
    found, _ = law(make(name), p, rounded.drafts(kind), world.depth)
    assert distance(world.p, found, world.depth + 1) < 1e-6


def test_the_worlds_are_awkward() -> None:
    """Zeros, ties, point masses and vocabularies of one do come up."""
    seen = set()

    @settings(max_examples=25)
    @given(world=worlds())
    def look(world: World) -> None:
        assume(world.p)
        p, q = world.p[()].tolist(), world.q[()].tolist()
        seen.update(
            what for what, is_so in {
                "one token": world.vocab == 1, "zero": 0.0 in p and 0.0 in q,
                "tie": len(set(p)) < len(p), "sure": world.vocab > 1 and 1.0 in p,
                "sure draft": world.vocab > 1 and 1.0 in q,
            }.items() if is_so
        )  # fmt: skip

    look()
    assert len(seen) == 5, seen
