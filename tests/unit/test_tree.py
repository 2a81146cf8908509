"""DraftTree against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretoken.tree import EMPTY, DraftTree


@st.composite
def trees(draw: st.DrawFn, with_q: bool | None = None, unique: bool = True) -> DraftTree:
    """Trees of kind "point"; with `unique`, siblings differ, as tries do."""
    n = draw(st.integers(0, 12))
    tokens: list[int] = []
    parents: list[int] = []
    q: list[float] = []
    has_q = draw(st.booleans()) if with_q is None else with_q
    seen = set()
    for _ in range(n):
        parent, token = draw(st.integers(-1, len(tokens) - 1)), draw(st.integers(0, 5))
        if unique and (parent, token) in seen:
            continue
        seen.add((parent, token))
        tokens.append(token)
        parents.append(parent)
        q.append(draw(st.floats(0.01, 1.0)))
    return DraftTree(tokens, parents, q if has_q else ())


def ancestors(tree: DraftTree, node: int) -> set[int]:
    out = set()
    while node >= 0:
        out.add(node)
        node = tree.parents[node]
    return out


def token_paths(tree: DraftTree) -> set[tuple[int, ...]]:
    return {tuple(tree.tokens[i] for i in tree.path(node)) for node in range(len(tree))}


@given(trees(unique=False))
def test_mask_is_the_ancestor_relation(tree: DraftTree) -> None:
    mask = tree.mask()
    assert mask.shape == (len(tree) + 1, len(tree) + 1)
    assert mask[:, 0].all(), "everyone sees the root"
    assert not mask[0, 1:].any(), "the root sees no draft"
    for i in range(len(tree)):
        assert set(np.flatnonzero(mask[i + 1, 1:])) == ancestors(tree, i)


@given(trees(unique=False))
def test_depths_paths_children_agree(tree: DraftTree) -> None:
    for i in range(len(tree)):
        path = tree.path(i)
        assert set(path) == ancestors(tree, i)
        assert path[-1] == i
        assert path == sorted(path)
        assert len(path) == tree.depths[i]
        assert i in tree.children[tree.parents[i] + 1]
    assert sum(map(len, tree.children)) == len(tree)
    assert all(c == sorted(c) for c in tree.children), "drawn order"
    assert tree.depth == max((len(tree.path(i)) for i in range(len(tree))), default=0)
    assert tree.path(-1) == []


@given(trees(with_q=True, unique=False))
def test_joint_is_the_product_along_the_path(tree: DraftTree) -> None:
    expected = [np.prod([tree.q[j] for j in tree.path(i)]) for i in range(len(tree))]
    np.testing.assert_allclose(tree.joint, expected)


@given(trees(), st.sets(st.integers(0, 12)))
def test_prune_keeps_what_hangs_on_kept_nodes(tree: DraftTree, keep: set[int]) -> None:
    pruned = tree.prune(keep)
    stays = [i for i in range(len(tree)) if ancestors(tree, i) <= keep]
    assert len(pruned) == len(stays)
    for new, old in enumerate(stays):
        assert [pruned.tokens[i] for i in pruned.path(new)] == [
            tree.tokens[i] for i in tree.path(old)
        ]
        if tree.q:
            assert pruned.q[new] == tree.q[old]
    assert bool(pruned.q) == bool(tree.q and stays)


@given(trees(), st.integers(0, 14))
def test_first_is_a_prefix(tree: DraftTree, n: int) -> None:
    first = tree.first(n)
    assert list(first.tokens) == list(tree.tokens[:n])
    assert list(first.parents) == list(tree.parents[:n])


@given(trees(), trees())
def test_merge_is_the_trie_of_both(a: DraftTree, b: DraftTree) -> None:
    both = a.merge(b)
    assert token_paths(both) == token_paths(a) | token_paths(b)
    assert len(both) == len(token_paths(both)), "no path is drafted twice"
    assert list(both.tokens[: len(a)]) == list(a.tokens), "the first tree's nodes keep their place"
    if a.q and b.q:
        for node in range(len(both)):
            path = [both.tokens[i] for i in both.path(node)]
            qs = [t.q[i] for t in (a, b) for i in range(len(t))
                  if [t.tokens[j] for j in t.path(i)] == path]  # fmt: skip
            assert both.q[node] == max(qs)


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=6))
def test_from_paths_is_the_trie(paths: list[list[int]]) -> None:
    tree = DraftTree.from_paths(paths)
    prefixes = {tuple(p[:n]) for p in paths for n in range(1, len(p) + 1)}
    assert token_paths(tree) == prefixes
    assert len(tree) == len(prefixes)


@given(st.lists(st.integers(0, 9), max_size=8))
def test_chain(tokens: list[int]) -> None:
    tree = DraftTree.chain(tokens)
    assert tree.is_chain
    assert tree.depths == list(range(1, len(tokens) + 1))
    assert [tree.tokens[i] for i in tree.path(len(tokens) - 1)] == tokens


def test_is_chain() -> None:
    assert EMPTY.is_chain
    assert not DraftTree([1, 2], [-1, -1]).is_chain


@pytest.mark.parametrize(
    ("tokens", "parents", "q"),
    [
        ([1], [0], ()),
        ([1], [-2], ()),
        ([1, 2], [-1], ()),
        ([1, 2], [-1, 0], [0.5]),
        ([1, 2], [1, -1], ()),
    ],
)
def test_impossible_trees_are_refused(
    tokens: list[int], parents: list[int], q: tuple[float]
) -> None:
    with pytest.raises(ValueError, match=r"ragged|parent"):
        DraftTree(tokens, parents, q)


@pytest.mark.parametrize("kind", ["sampled", "without_replacement"])
def test_drawn_trees_are_not_cut(kind) -> None:
    drawn = DraftTree([1, 2], [-1, -1], [0.5, 0.5], kind)
    with pytest.raises(ValueError, match="bias"):
        drawn.prune([0])
    with pytest.raises(ValueError, match="law"):
        drawn.merge(EMPTY)
    assert drawn.first(5) is drawn
