"""The laws of `foretoken.policy.base`, over every registered policy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken import registry
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.policy.base import Policy
from foretoken.target.cost import CostCurve
from tests import tiny
from tests.unit.test_tree import trees

NAMES = registry.names("policy")
CURVE = CostCurve(rows=(1, 65), contexts=(64,), seconds=((1e-3, 5e-3),))
PROMPTS = [tiny.prompt(i, n, 32) for i, n in ((1, 12), (2, 3), (3, 20))]


def make(name: str, **values: object) -> Policy:
    cls = registry.find("policy", name)
    policy: Policy = cls(cls.Options(**values), CURVE if cls.needs_curve else None)
    return policy


def method(policy: Policy, drafter: str = "random") -> Method:
    target = tiny.target("small")
    made = tiny.drafter(drafter, vocab=target.vocab)
    return build(target, made.context, made, policy)


@pytest.fixture(scope="module")
def plain() -> list[list[int]]:
    return tiny.generate("small", PROMPTS, 24)


@pytest.mark.parametrize("name", NAMES)
def test_budgets_are_never_negative_and_text_stays(name: str, plain: list[list[int]]) -> None:
    policy, budgets = make(name), []
    engine = Engine(tiny.target("small"), method="plain")
    done = engine.run(
        [tiny.request(p, 24) for p in PROMPTS], method(policy),
        lambda s, _: budgets.append(policy.budget(s)),
    )  # fmt: skip
    assert [c.tokens for c in done] == plain
    assert budgets
    assert all(b.nodes >= 0 and b.depth >= 0 and 0.0 <= b.min_prob <= 1.0 for b in budgets)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "nodes" in registry.find("policy", n).Options.model_fields]
)
@pytest.mark.parametrize("nodes", [0, 5])
def test_nodes_is_obeyed_and_zero_is_plain_decoding(
    name: str, nodes: int, plain: list[list[int]]
) -> None:
    seen = []
    engine = Engine(tiny.target("small"), method="plain")
    done = engine.run(
        [tiny.request(p, 24) for p in PROMPTS], method(make(name, nodes=nodes)),
        lambda _, step: seen.append(len(step.tree)),
    )  # fmt: skip
    assert max(seen) <= nodes
    assert [c.tokens for c in done] == plain
    assert nodes or [c.stats.steps for c in done] == [24] * 3


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(tree=trees(), steps=st.integers(0, 4))
def test_cut_is_a_part_of_the_draft(name: str, tree, steps: int) -> None:
    policy = make(name)
    engine = Engine(tiny.target("small"), method="plain")
    session = engine.add(tiny.request(PROMPTS[0], 8), method(policy))
    for _ in range(steps):
        engine.step()
    kept = policy.cut(session, tree)
    whole = {tuple(tree.tokens[n] for n in tree.path(node)) for node in range(len(tree))}
    assert all(tuple(kept.tokens[n] for n in kept.path(node)) in whole for node in range(len(kept)))
    engine.cancel(session)
