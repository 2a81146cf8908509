"""The laws of `foretoken.draft.base`, over every registered drafter, inside real decoding."""

import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken import registry
from foretoken.draft.base import Drafter
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.policy.fixed import Fixed
from foretoken.tree import DraftTree
from foretoken.types import Budget, Request, Session, Step
from tests import tiny

VOCAB, NEW = 32, 20
KNOWN = random.Random(5).choices(range(VOCAB), k=NEW)
NAMES = registry.names("drafter")
Trees = list[tuple[tuple[int, ...], tuple[int, ...]]]
Spy = Callable[[Session, Budget, DraftTree], None]


def request(seed: int, tenant: str = "", length: int = 14) -> Request:
    return replace(tiny.request(tiny.prompt(seed, length, VOCAB), NEW), tenant=tenant, id=str(seed))


def make(name: str, scope: str = "request") -> Method:
    return tiny.method(tiny.target("small"), name, KNOWN, nodes=10, scope=scope)


def watch(drafter: Drafter, spy: Spy) -> None:
    """Call `spy` after every propose."""
    original = drafter.propose

    def propose(session: Session, budget: Budget) -> DraftTree:
        tree = original(session, budget)
        spy(session, budget, tree)
        return tree

    drafter.propose = propose  # type: ignore[method-assign]


def trees(method: Method, *batches: list[Request]) -> dict[str, Trees]:
    """Request id -> the drafts proposed for it; batches run one after the other."""
    out: dict[str, Trees] = {}
    watch(
        method.drafter,
        lambda s, _, t: out.setdefault(s.request.id, []).append(
            (tuple(t.tokens), tuple(t.parents))
        ),
    )
    engine = Engine(tiny.target("small"), method="plain")
    for batch in batches:
        engine.run(batch, method)
    return out


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12)
@given(
    nodes=st.integers(0, 40), depth=st.integers(0, 8), min_prob=st.sampled_from([0.0, 0.05, 0.4]),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_within_budget_and_tokens_untouched(
    name: str, nodes: int, depth: int, min_prob: float, seed: int
) -> None:
    """Asked on the side, with any budget, after every step of a real session."""
    method = make(name)
    engine = Engine(tiny.target("small"), method="plain")
    session = engine.add(request(seed), method)
    budget = Budget(nodes, depth, min_prob)
    for _ in range(6):
        engine.step()
        if session.finish_reason is not None:
            return
        before = list(session.tokens)
        tree = method.drafter.propose(session, budget)
        assert session.tokens == before
        assert tree.kind == method.drafter.emits
        assert len(tree) <= nodes
        assert tree.depth <= depth
        if tree.q:
            assert all(joint >= min_prob - 1e-9 for joint in tree.joint)
    engine.cancel(session)


@pytest.mark.parametrize("name", NAMES)
def test_same_history_same_trees(name: str) -> None:
    batch = [request(1), request(2, length=5), request(3, length=1)]
    first, again = trees(make(name), batch), trees(make(name), batch)
    assert first == again


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_session_remains(name: str) -> None:
    """With the narrowest scope the drafter is as large after three sessions as after one."""
    method = make(name)
    engine = Engine(tiny.target("small"), method="plain")
    sizes, gone = [], []
    gc.freeze()  # what is older need not be searched
    for seed in range(3):
        session = engine.add(request(seed), method)
        gone.append(weakref.ref(session))
        while engine.step():
            pass
        del session
        gc.collect()
        sizes.append(reach(method.drafter))
    gc.unfreeze()
    assert [ref() for ref in gone] == [None] * 3
    assert len(set(sizes)) == 1, f"the drafter grew: {sizes}"


def reach(drafter: Drafter) -> int:
    """Objects that hang on the drafter's own attributes; numbers and strings as often as they are
    held, since which of them are one object is Python's affair."""
    seen: set[int] = {id(drafter.options), id(drafter.context)}
    stack: list[Any] = list(vars(drafter).values())
    atoms = 0
    while stack:
        thing = stack.pop()
        if thing is None or isinstance(thing, int | float | str | bytes):
            atoms += 1
            continue
        if id(thing) in seen or isinstance(thing, type | ModuleType | FunctionType):
            continue
        seen.add(id(thing))
        stack += gc.get_referents(thing)
    return len(seen) + atoms


class Failing(Exception):
    """Raised by a part on purpose."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "how", ["end", "cancel", "waiting", "begin", "propose", "score", "criteria", "observe"]
)
def test_begin_and_end_come_in_pairs(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny.fresh_target("small")
    method = make(name)
    method = build(
        target, method.drafter.context, method.drafter, "fixed", "walk", None, {"nodes": 4}
    )
    drafter, calls = method.drafter, []
    for verb in ("begin", "end"):
        original = getattr(drafter, verb)
        monkeypatch.setattr(
            drafter, verb,
            lambda s, verb=verb, original=original: (calls.append((verb, s.index)), original(s)),
        )  # fmt: skip

    def fail(*_: Any, **__: Any) -> Any:
        raise Failing

    engine = Engine(target, method="plain", max_sessions=2)
    if how in ("begin", "propose", "observe"):
        monkeypatch.setattr(drafter, how, fail)
    if how == "score":
        monkeypatch.setattr(target, "score", fail)
    limits = {"criteria": (fail,)} if how == "criteria" else {}
    sessions = [
        engine.add(tiny.request(tiny.prompt(i, 6, VOCAB), 8, **limits), method) for i in range(3)
    ]
    if how == "waiting":
        engine.cancel(sessions[2])
    try:
        engine.step()
        engine.step()
        if how == "cancel":
            engine.cancel(sessions[0])
            engine.cancel(sessions[0])
        while engine.step():
            pass
    except Failing:
        assert how not in ("end", "cancel", "waiting")
    for session in sessions:
        engine.cancel(session)
    begun = [i for verb, i in calls if verb == "begin"]
    ended = [i for verb, i in calls if verb == "end"]
    assert sorted(begun) == sorted(set(begun))
    assert sorted(begun) == sorted(ended)
    assert not engine.sessions
    assert not target.pool.handles, "the caches are given back"
    assert all(s.finish_reason is not None for s in sessions)


class Unseen(Fixed):
    """Asks every fifth step and lets the drafter see one more; it misses the others."""

    name = "unseen"

    def budget(self, session: Session) -> Budget:
        return [Budget(8), Budget(0), *[Budget(0, unseen=True)] * 3][len(session.tokens) % 5]


@pytest.mark.parametrize("name", NAMES)
def test_steps_that_were_missed_come_as_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is shown once, in order; the text stays what it is; drafts stay lawful."""
    made = make(name)
    method = build(
        tiny.target("small"), made.drafter.context, made.drafter, Unseen(Fixed.Options()), "walk"
    )
    original, shown = made.drafter.observe, dict[int, list[int]]()

    def observe(session: Session, step: Step) -> None:
        assert step.context == session.n_prompt + len(shown.setdefault(session.index, []))
        assert len(step.verdict.path) + 1 >= len(step.committed.tokens) == len(step.committed.rows)
        shown[session.index] += step.committed.tokens
        assert session.tokens[session.n_prompt :] == shown[session.index]
        original(session, step)

    monkeypatch.setattr(made.drafter, "observe", observe)
    prompts = [tiny.prompt(seed, n, VOCAB) for seed, n in ((1, 14), (2, 5), (3, 3))]
    engine = Engine(tiny.target("small"), method="plain")
    sessions = [engine.add(tiny.request(prompt, NEW), method) for prompt in prompts]
    while engine.step():
        pass
    assert [s.output for s in sessions] == tiny.generate("small", prompts, NEW)
    for session in sessions:  # what is not shown before the end is not shown at all
        assert session.output[: len(shown[session.index])] == shown[session.index]
        assert len(session.output) - len(shown[session.index]) < 5
