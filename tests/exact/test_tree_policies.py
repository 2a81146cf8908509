"""Policies that decide how drafts branch, in the engine: greedy text stays, sampled text keeps its
law, pairs that would bias it are refused. (Every draw and coin: test_shaped.py.)"""

from __future__ import annotations

from typing import Any

import pytest

from foretoken import registry
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.errors import CapabilityError
from foretoken.policy.base import Policy
from foretoken.target.cost import CostCurve
from foretoken.types import Sampling
from tests import tiny
from tests.exact.test_distribution import ALARM, V, law, p_value, sample

FREE = CostCurve(rows=(1, 99), contexts=(64,), seconds=((1.0, 1.0),))  # so that trees are large
POLICIES = [n for n in registry.names("policy") if "shapes" in registry.find("policy", n).needs]
SHAPED = [d for d in registry.names("drafter") if "shapes" in registry.find("drafter", d).gives]
PAIRS = [
    (policy, drafter) for policy in POLICIES for drafter in SHAPED
    if registry.find("policy", policy).needs <= registry.find("drafter", drafter).gives
]  # fmt: skip
DRAWN = [(p, d) for p, d in PAIRS if registry.find("drafter", d).emits != "point"]
SAMPLES = 400


def made(name: str, **values: Any) -> Policy:
    cls = registry.find("policy", name)
    policy: Policy = cls(cls.Options(**values), FREE if cls.needs_curve else None)
    return policy


def method(
    target: Any, policy: str, drafter: str, verifier: str | None = None, **values: Any
) -> Method:
    drafts = tiny.drafter(drafter, (), "request", target.vocab)
    return build(target, drafts.context, drafts, made(policy, **values), verifier)


def test_who_is_meant() -> None:
    assert {"opt-tree", "eagle2-tree", "sequoia", "dyspec"} <= set(POLICIES)
    assert {registry.find("drafter", d).emits for d in SHAPED} == {
        "point", "without_replacement", "sampled"
    }  # fmt: skip


@pytest.mark.parametrize(("policy", "drafter"), PAIRS)
def test_greedy_text_stays_and_drafts_branch(policy: str, drafter: str) -> None:
    """Three prompts in one engine; a text that ends in the middle of a draft."""
    target = tiny.target("small")
    prompts = [tiny.prompt(i, n, 32) for i, n in ((1, 12), (2, 3), (3, 20))]
    steps = []
    done = Engine(target, method="plain").run(
        [tiny.request(p, 23) for p in prompts], method(target, policy, drafter, nodes=11),
        lambda _, step: steps.append(step.tree),
    )  # fmt: skip
    assert [c.tokens for c in done] == tiny.generate("small", prompts, 23)
    assert max(len(tree) for tree in steps) <= 11
    assert any(not tree.is_chain for tree in steps)


@pytest.mark.parametrize(("policy", "drafter"), DRAWN)
def test_sampled_text_keeps_its_law(policy: str, drafter: str) -> None:
    """Whatever has been learned meanwhile, by the drafter's own rule."""
    target = tiny.target("six")
    drawing = method(target, policy, drafter, nodes=5)
    assert p_value(sample(drawing, "temperature", SAMPLES), law("temperature")) > ALARM / len(DRAWN)


@pytest.mark.parametrize(("policy", "drafter"), DRAWN)
def test_alone_or_in_company_the_same_drafts(policy: str, drafter: str) -> None:
    """Text of a seed does not hang on the batch, with a policy that learned nothing yet."""
    target = tiny.target("small")
    asked = [
        tiny.request(tiny.prompt(i, 9, 32), 3, Sampling(temperature=1.0, seed=i)) for i in (1, 2)
    ]
    together = Engine(target, method="plain").run(asked, method(target, policy, drafter))
    for one, request in zip(together, asked, strict=True):
        (alone,) = Engine(target, method="plain").run([request], method(target, policy, drafter))
        assert alone.tokens == one.tokens


def test_shapes_that_choose_are_refused_where_siblings_are_weighed_as_a_set() -> None:
    target = tiny.target("six")
    for policy in POLICIES:
        turns = "turns" in registry.find("policy", policy).needs
        if turns:
            with pytest.raises(
                CapabilityError, match=f"policy '{policy}': .*'optimal' is exact only"
            ):
                method(target, policy, "lm-rsd-c", "optimal")
            with pytest.raises(CapabilityError, match=f"policy '{policy}': .*'lm-iid-k'.* turns"):
                method(target, policy, "lm-iid-k")
        else:
            assert method(target, policy, "lm-rsd-c", "optimal")
            assert method(target, policy, "lm-iid-k")


def test_a_beam_of_draws_is_refused_there_too() -> None:
    """RSD-S: how many siblings survive hangs on what was drawn (test_rsd_s.py shows the bias)."""
    target = tiny.target("six")
    drafter = tiny.drafter("lm-rsd-s", vocab=V)
    with pytest.raises(CapabilityError, match="'lm-rsd-s' draws, and verifier 'optimal'"):
        build(target, drafter.context, drafter, "fixed", "optimal")


@pytest.mark.parametrize("drafter", ["lm-sampled", "lm-greedy-k", "prompt-lookup"])
def test_drafters_that_cannot_branch_so_are_refused_by_name(drafter: str) -> None:
    with pytest.raises(CapabilityError, match=f"policy 'sequoia': drafter '{drafter}' .*shapes"):
        method(tiny.target("six"), "sequoia", drafter)


def test_without_a_shape_a_form_is_what_it_was() -> None:
    """`fixed` and `cost-model` ask for none."""
    target = tiny.target("small")
    for name in SHAPED:
        budgets = []
        made_ = tiny.drafter(name, vocab=32)
        plain = build(target, made_.context, made_, "fixed", None, None, {"nodes": 6})
        Engine(target, method="plain").run(
            [tiny.request([1, 2], 4)],
            plain,
            lambda _, step: budgets.append(step.budget.shape),  # noqa: B023
        )
        assert set(budgets) == {None}
