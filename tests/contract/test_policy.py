"""The laws of `foretoken.policy.base`, over every registered policy."""

import json
import re
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken import registry
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.errors import CapabilityError
from foretoken.policy.base import Policy
from foretoken.policy.guard import Bounded
from foretoken.target.cost import CostCurve
from foretoken.types import Level, Session
from tests import tiny
from tests.unit.test_tree import trees

NAMES = registry.names("policy")
CURVE = CostCurve(rows=(1, 65), contexts=(64,), seconds=((1e-3, 5e-3),))
PROMPTS = [tiny.prompt(i, n, 32) for i, n in ((1, 12), (2, 3), (3, 20))]
NEEDS = {name: registry.find("policy", name).needs for name in NAMES}


def giver(needs: Collection[str]) -> str:
    """A drafter that gives this and is asked between its levels: one that draws, if there is."""
    known = {name: registry.find("drafter", name) for name in registry.names("drafter")}
    able = [name for name, cls in known.items() if cls.gives >= {"levels", *needs}]
    return next((name for name in able if known[name].emits == "sampled"), able[0])


# every policy with a drafter that gives what it asks for; where it asks for nothing, with one of
# fixed nodes that says nothing between levels, too
GIVERS = {name: giver(NEEDS[name]) for name in NAMES}
PAIRS = [(n, d) for n in NAMES for d in (GIVERS[n], *(() if NEEDS[n] else ("random",)))]
STOPS = [name for name in NAMES if registry.find("policy", name).stops]
STOPPED = [
    (policy, drafter)
    for policy in STOPS
    for drafter in registry.names("drafter")
    for cls in [registry.find("drafter", drafter)]
    if cls.nodes and not cls.testing and (cls.gives >= NEEDS[policy])
]


def make(name: str, **values: object) -> Policy:
    cls = registry.find("policy", name)
    chosen = cls.Options(**{**tiny.policy_options(cls), **values})
    policy: Policy = cls(chosen, CURVE if cls.wants_curve(chosen) else None)
    return policy


def method(policy: Policy, drafter: str | None = None) -> Method:
    target = tiny.target("small")
    made = tiny.drafter(drafter or GIVERS[policy.name], vocab=target.vocab)
    return build(target, made.context, made, policy)


@pytest.fixture(scope="module")
def plain() -> list[list[int]]:
    return tiny.generate("small", PROMPTS, 24)


@pytest.mark.parametrize(("name", "drafter"), PAIRS)
def test_budgets_are_never_negative_and_text_stays(
    name: str, drafter: str, plain: list[list[int]]
) -> None:
    policy, budgets = make(name), []
    engine = Engine(tiny.target("small"), method="plain")
    done = engine.run(
        [tiny.request(p, 24) for p in PROMPTS], method(policy, drafter),
        lambda s, _: budgets.append(policy.budget(s)),
    )  # fmt: skip
    assert [c.tokens for c in done] == plain
    assert budgets
    assert all(b.nodes >= 0 and b.depth >= 0 and 0.0 <= b.min_prob <= 1.0 for b in budgets)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if issubclass(registry.find("policy", n).Options, Bounded)]
)
def test_a_bound_on_what_is_lost_leaves_the_text(name: str, plain: list[list[int]]) -> None:
    policy = make(name, slack=0.0)
    assert policy.guard is not None
    engine = Engine(tiny.target("small"), method="plain")
    done = engine.run([tiny.request(p, 24) for p in PROMPTS], method(policy))
    assert [c.tokens for c in done] == plain


@pytest.mark.parametrize(
    ("name", "drafter"),
    [p for p in PAIRS if "nodes" in registry.find("policy", p[0]).Options.model_fields],
)
@pytest.mark.parametrize("nodes", [0, 5])
def test_nodes_is_obeyed_and_zero_is_plain_decoding(
    name: str, drafter: str, nodes: int, plain: list[list[int]]
) -> None:
    seen = []
    engine = Engine(tiny.target("small"), method="plain")
    done = engine.run(
        [tiny.request(p, 24) for p in PROMPTS], method(make(name, nodes=nodes), drafter),
        lambda _, step: seen.append(len(step.tree)),
    )  # fmt: skip
    assert max(seen) <= nodes
    assert [c.tokens for c in done] == plain
    assert nodes or [c.stats.steps for c in done] == [24] * 3


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
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


@pytest.mark.parametrize("name", [name for name in NAMES if NEEDS[name]])
def test_what_a_drafter_does_not_give_is_refused_with_both_names(name: str) -> None:
    needs = ", ".join(sorted(NEEDS[name]))
    expected = f"policy '{re.escape(name)}': drafter 'random' does not give .*{needs}"
    with pytest.raises(CapabilityError, match=expected):
        method(make(name), "random")


@pytest.mark.parametrize(("name", "drafter"), STOPPED)
def test_a_level_after_which_it_stops_is_the_last(
    name: str, drafter: str, plain: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever drafts, whether it asks between its levels or the loop does afterwards."""
    policy, ended = make(name), {}
    answer, open_ = policy.go_on, policy.budgets

    def begin(sessions):
        for session in sessions:
            ended.pop(session, None)
        return open_(sessions)

    def asked(session: Session, level: Level) -> bool:
        assert session not in ended, "asked again after it said no"
        assert len(level.q) == len(level.joint) > 0
        more = answer(session, level)
        if not more:
            ended[session] = level.depth
        return more

    def check(session: Session, step) -> None:
        assert step.tree.depth <= ended.get(session, step.tree.depth)

    monkeypatch.setattr(policy, "budgets", begin)
    monkeypatch.setattr(policy, "go_on", asked)
    engine = Engine(tiny.target("small"), method="plain")
    done = engine.run([tiny.request(PROMPTS[0], 12)], method(policy, drafter), check)
    assert [c.tokens for c in done] == [plain[0][:12]]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_learned_can_be_written_and_taken_up(name: str) -> None:
    policy, twin = make(name), make(name)
    engine = Engine(tiny.target("small"), method="plain")
    engine.run([tiny.request(PROMPTS[0], 24)], method(policy))
    state = json.loads(json.dumps(policy.state()))
    if state:
        twin.load(state)
    assert json.loads(json.dumps(twin.state())) == state
