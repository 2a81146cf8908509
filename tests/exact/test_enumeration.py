"""Every rule that claims exact sampling writes the target's law: by enumeration, to 1e-12.

For every registered rule, every kind of draft that it accepts, every shape up to depth 3, four
siblings or sequences and vocabularies of 2 to 5: all drafts, all coins. A rule is enrolled by
being registered. Planted faults show that this can fail, and how large such a fault is.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from foretoken import registry
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Verdict
from foretoken.verify.base import Verifier
from tests.exact.enumeration import SHAPES, distance, law, model
from tests.exact.every_draft import (
    LEAF,
    Child,
    Context,
    Expand,
    Shape,
    Table,
    drafts,
    every,
    fused,
    height,
    sequences,
)  # fmt: skip
from tests.exact.faulty import Block, OneCoin, Rejection, Walks

EXACT = 1e-12
# The largest cases, in trees; what is left out has the shape of a smaller one.
TREES, OF_SEQUENCES = 128, 256
RULES = registry.names("verifier")
FOLLOWS = "walk"  # the one rule that never weighs a draft, and so cannot be misled by it
Drafts = list[tuple[DraftTree, float]]


def make(name: str) -> Verifier:
    verifier: Verifier = registry.find("verifier", name)()
    return verifier


def claims(kind: Kind | None = None) -> list[str]:
    """The rules that claim exact sampling, of this kind of draft if one is given."""
    found = [(n, registry.find("verifier", n)) for n in RULES]
    return [n for n, r in found if "sampling" in r.exact and (kind is None or kind in r.accepts)]


def pair(vocab: int, depth: int, seed: int) -> tuple[Table, Table]:
    """(p, q): related, and where the seed is odd both with tokens of probability zero, as after
    top-p; not the same ones."""
    q = model(vocab, depth, seed)
    p = model(vocab, depth, seed + 100, q, 0.4)
    if seed % 2 and vocab > 2:
        for table in (p, q):
            for context, row in table.items():
                cut = row.clone()
                cut[row < 0.5 / vocab] = 0.0
                table[context] = cut / cut.sum()
    return p, q


def several(k: int, depth: int) -> str:
    return f"{k} sequences of {depth}"


SEQUENCES = {
    several(k, depth): (k, depth)
    for k in (2, 3, 4) for depth in (2, 3)
    if (k, depth) != (2, 2)  # is the shape 2x1
}  # fmt: skip


@cache
def case(kind: Kind, shape: str, vocab: int, seed: int) -> tuple[Table, Drafts, int] | None:
    """(p, every draft, its depth); None if they are too many."""
    k, depth = SEQUENCES.get(shape, (0, 0))
    depth = depth or height(SHAPES[shape])
    p, q = pair(vocab, depth, seed)
    if k * depth > 8:  # only so are four sequences of three within reach
        for row in (q[context] for context in q if len(context) == 1):
            row.copy_(row == row.max())
    made = sequences(q, k, depth) if k else drafts(q, kind, SHAPES[shape])
    found: Drafts = []
    for draft in made:
        if len(found) == (OF_SEQUENCES if k else TREES):
            return None
        found.append(draft)
    return p, found, depth


def cases(kind: Kind) -> Iterator[tuple[Table, Drafts, int]]:
    names = [*SHAPES, *SEQUENCES] if kind == "sampled" else [*SHAPES]
    for i, shape in enumerate(names):
        for vocab in (2, 3, 4, 5):
            made = case(kind, shape, vocab, i + vocab)
            if made is not None:
                yield made


def distances(verifier: Any, kind: Kind) -> Iterator[float]:
    for p, found, depth in cases(kind):
        yield distance(p, law(verifier, p, found, depth)[0], depth + 1)


def test_the_cases_are_what_they_claim() -> None:
    for kind in KINDS:
        made = list(cases(kind))
        assert len(made) > 25
        for p, found, depth in made:
            assert sum(weight for _, weight in found) == pytest.approx(1.0, abs=1e-12)
            assert max(tree.depth for tree, _ in found) <= depth <= 3
            assert all(tree.kind == kind for tree, _ in found)
            assert all(float(row.sum()) == pytest.approx(1.0) for row in p.values())
        vocabularies = {len(p[()]) for p, _, _ in made}
        assert vocabularies == {2, 3, 4, 5}
        widest = max(len(tree.draws.children[0]) for _, found, _ in made for tree, _ in found)
        assert widest == 4


@pytest.mark.parametrize(("name", "kind"), [(n, k) for k in KINDS for n in claims(k)])
def test_the_law_is_the_targets(name: str, kind: Kind) -> None:
    assert max(distances(make(name), kind)) <= EXACT


@pytest.mark.parametrize("levels", [((1, 2),), ((2, 1),), ((1, 1), (1, 1)), ((1, 2), (1, 0))])
@pytest.mark.parametrize("name", claims("mixed"))
def test_fused_drafts_keep_the_law(name: str, levels: tuple[tuple[int, int], ...]) -> None:
    """Drawn from the whole row, then fixed ones, whose place a drawn token takes."""
    full, width = 0, 1  # nodes if no drawn token equals a fixed one
    for drawn, fixed in levels:
        width *= drawn + fixed
        full += width
    for vocab in (2, 3, 4):
        p, q = pair(vocab, len(levels), vocab)
        guess = model(vocab, len(levels), 7)
        found = list(every(fused(q, guess, levels), 0, "mixed"))
        assert any(len(tree) < full for tree, _ in found)
        assert distance(p, law(make(name), p, found, len(levels))[0], len(levels) + 1) <= EXACT


@pytest.mark.parametrize("name", [n for n in RULES if n not in claims()])
def test_a_lossy_rule_is_lossy(name: str) -> None:
    """Whoever gives up the claim should gain something for it, and users must be told rightly."""
    for kind in registry.find("verifier", name).accepts:
        assert any(found > 0.01 for found in distances(make(name), kind)), kind


# --- planted faults -----------------------------------------------------------------------------

CHAIN: Shape = [[LEAF]]
FAN: Shape = [LEAF, LEAF, LEAF]
PLANTED = [
    (Rejection, "siblings by probability", "without_replacement", FAN),
    (Rejection, "q not renormalised", "without_replacement", FAN),
    (Rejection, "multiplicity dropped", "sampled", FAN),
    (Block, "first failure ends it", "sampled", CHAIN),
    (Block, "last test uncapped", "sampled", CHAIN),
    (Walks, "best leaf", "sampled", [LEAF, LEAF]),
    (Walks, "redraw", "point", [LEAF, LEAF]),
]


def total_variation(verifier: Any, kind: Kind, shape: Shape) -> float:
    """Mean over eight pairs."""
    found, depth = 0.0, height(shape)
    for seed in range(0, 16, 2):
        p, q = pair(3, depth, seed)
        got, _ = law(verifier, p, drafts(q, kind, shape), depth)
        found += distance(p, got, depth + 1) / 8
    return found


@pytest.mark.parametrize(("rule", "fault", "kind", "shape"), PLANTED)
def test_a_planted_fault_is_found(rule: Any, fault: str, kind: Kind, shape: Shape) -> None:
    assert total_variation(rule(), kind, shape) <= EXACT
    assert total_variation(rule(fault), kind, shape) > 0.005


class Reused:
    """Any rule, with one random number for all its tests."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def judge(self, tree: DraftTree, rows: Any, coins: Any) -> Verdict:
        return self.verifier.judge(tree, rows, OneCoin(coins))


@pytest.mark.parametrize(
    ("rule", "kind", "shape"),
    [(Rejection(), "sampled", CHAIN), (Rejection(), "without_replacement", FAN),
     (Block(), "sampled", CHAIN)],
)  # fmt: skip
def test_a_reused_random_number_is_found(rule: Verifier, kind: Kind, shape: Shape) -> None:
    assert total_variation(Reused(rule), kind, [LEAF]) <= EXACT, "one test, one number"
    assert total_variation(Reused(rule), kind, shape) > 0.005


# --- rule U0: what may decide how much is drafted ------------------------------------------------


def stopping(q: Table, when: str) -> Expand:
    """A chain that ends early. State: tokens still to draw."""

    def expand(left: int, context: Context) -> Iterator[tuple[list[Child], float]]:
        row = q[context]
        if not left or (when == "by the law, before drawing" and row.max() < 0.6):
            yield [], 1.0
            return
        for token, chance in enumerate(row.tolist()):
            stop = when != "by the law, before drawing" and chance < 0.35
            if stop and when == "by the value, dropping it":
                yield [], chance
            elif chance > 0:
                yield [(token, row, 0 if stop else left - 1)], chance

    return expand


def bias(verifier: Any, when: str) -> float:
    found = []
    for seed in range(10):
        p, q = pair(2 + seed % 2, 3, 2 * seed)
        trees = every(stopping(q, when), 3, "sampled")
        found.append(distance(p, law(verifier, p, trees, 3)[0], 4))
    assert max(found) <= EXACT or sum(found) / 10 > 1e-3, "right or clearly wrong"
    return sum(found) / 10


@pytest.mark.parametrize("name", claims("sampled"))
def test_a_drawn_token_may_end_the_draft_and_not_leave_it(name: str) -> None:
    """methods' rule U0: a drawn child that is dropped because of its value biases every rule that
    weighs draws; stopping before the draw, or after it with the token in, biases none."""
    for when in ("by the law, before drawing", "by the value, keeping it"):
        assert bias(make(name), when) <= EXACT
    if name == FOLLOWS:
        assert bias(make(name), "by the value, dropping it") <= EXACT
    else:
        assert bias(make(name), "by the value, dropping it") > 0.05
