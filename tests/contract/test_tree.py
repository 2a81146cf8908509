"""Every tree that any registered drafter makes is one that every part can read."""

import random

import pytest

from foretoken import registry
from foretoken.engine.engine import Engine
from foretoken.tree import KINDS
from tests import tiny


@pytest.mark.parametrize("name", registry.names("drafter"))
def test_trees_in_use_are_well_formed(name: str) -> None:
    target = tiny.target("small")
    prompts = [tiny.prompt(i, n, 32) for i, n in ((1, 11), (2, 1), (3, 24))]
    known = random.Random(1).choices(range(32), k=24)
    engine = Engine(target, method="plain")
    seen = 0
    for tokens in prompts:
        engine.add(tiny.request(tokens, 24), tiny.method(target, name, known))
    while steps := engine.step():
        for _, step in steps:
            tree, seen = step.tree, seen + len(step.tree)
            assert tree.kind in KINDS
            assert all(0 <= token < target.vocab for token in tree.tokens)
            assert not tree.q or all(0.0 < q <= 1.0 + 1e-6 for q in tree.q)
            if tree.kind != "sampled":  # independent draws may repeat
                for children in tree.children:
                    tokens = [tree.tokens[i] for i in children]
                    assert len(set(tokens)) == len(tokens), "a sibling is drafted twice"
    cls = registry.find("drafter", name)
    assert seen or cls.nodes == 0, "a drafter that never drafts is not tested by this"
