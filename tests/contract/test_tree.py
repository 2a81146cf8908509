"""Every tree that any registered drafter makes is one that every part can read."""

import random

import pytest

from foretoken import registry
from foretoken.engine.engine import Engine
from foretoken.tree import KINDS, DraftTree
from foretoken.types import Sampling
from tests import tiny


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", registry.names("drafter"))
def test_trees_in_use_are_well_formed(name: str, temperature: float) -> None:
    target = tiny.target("small")
    prompts = [tiny.prompt(i, n, 32) for i, n in ((1, 11), (2, 1), (3, 24))]
    known = random.Random(1).choices(range(32), k=24)
    engine = Engine(target, method="plain")
    seen = 0
    for i, tokens in enumerate(prompts):
        request = tiny.request(tokens, 24, Sampling(temperature=temperature, seed=i))
        engine.add(request, tiny.method(target, name, known))
    while steps := engine.step():
        for _, step in steps:
            tree, seen = step.tree, seen + len(step.tree)
            assert tree.kind in KINDS
            assert all(0 <= token < target.vocab for token in tree.tokens)
            assert not tree.q or all(0.0 < q <= 1.0 + 1e-6 for q in tree.q)
            for children in tree.children:
                tokens = [tree.tokens[i] for i in children]
                assert len(set(tokens)) == len(tokens), "a sibling is drafted twice"
            if tree.kind != "point" and len(tree) and temperature > 0:  # greedy text draws nothing
                drawn_as_it_says(tree, target.vocab)
    cls = registry.find("drafter", name)
    assert seen or cls.nodes == 0, "a drafter that never drafts is not tested by this"


def drawn_as_it_says(tree: DraftTree, vocab: int) -> None:
    """Whatever was drawn names its row, and stands where the rules expect it."""
    assert tree.dist is not None
    assert tree.dist.shape[1] == vocab
    assert bool((tree.dist >= 0).all())
    assert tree.dist.sum(-1).tolist() == pytest.approx([1.0] * len(tree.dist), abs=1e-4)
    assert len(tree.dist_row) == len(tree)
    for children in tree.children:
        rows = [tree.dist_row[i] for i in children]
        drawn = [i for i, row in zip(children, rows, strict=True) if row >= 0]
        assert drawn == children[: len(drawn)], "fixed children stand behind drawn ones"
        assert tree.kind == "mixed" or drawn == children
        assert all(tree.dist[tree.dist_row[i], tree.tokens[i]] > 0 for i in drawn)
    draws = tree.draws
    assert set(draws.nodes) == set(range(len(tree))), "every node was drawn"
    assert tree.kind == "sampled" or len(draws.nodes) == len(tree)
    for parent, below in zip([-1, *draws.nodes], draws.children, strict=True):
        assert all(tree.parents[draws.nodes[draw]] == parent for draw in below)
