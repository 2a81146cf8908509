"""Who learns from whom, how much is kept, and what may be saved: every drafter, every scope."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest

from foretoken import registry
from foretoken.draft.base import Drafter
from foretoken.draft.scopes import Scopes
from foretoken.engine.build import Method, build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError
from foretoken.types import Request
from tests import tiny
from tests.contract.test_drafter import KNOWN, VOCAB, Trees, make, trees

NAMES = registry.names("drafter")
LIMIT = 40


def request(seed: int, tenant: str = "", length: int = 14, new: int = 10) -> Request:
    asked = tiny.request(tiny.prompt(seed, length, VOCAB), new)
    return replace(asked, tenant=tenant, id=str(seed))


def scopes_of(name: str) -> tuple[str, ...]:
    """The scopes that a drafter offers; one without a memory keeps to the request."""
    field = registry.find("drafter", name).Options.model_fields.get("scope")
    return get_args(field.annotation) if field is not None else ("request",)


ALL = [(name, scope) for name in NAMES for scope in scopes_of(name)]
PRIVATE = [pair for pair in ALL if pair[1] != "process"]
LASTING = [pair for pair in ALL if pair[1] in ("tenant", "process")]


def leaks(name: str, scope: str, tenant: str) -> bool:
    """Whether requests of `tenant`, before or beside it, change the drafts of one by "me".

    One of them has the same prompt: there a leak shows most.
    """
    mine = replace(request(1, "me"), id="mine")
    others = [replace(request(seed, tenant), id=f"other {seed}") for seed in (1, 2)]
    alone = trees(make(name, scope), [mine]).get("mine")
    after = trees(make(name, scope), others, [mine]).get("mine")
    beside = trees(make(name, scope), [*others, mine]).get("mine")
    return not (after == beside == alone)


@pytest.mark.parametrize(("name", "scope"), PRIVATE)
def test_another_tenant_changes_nothing(name: str, scope: str) -> None:
    """The drafts are those of a fresh engine."""
    assert not leaks(name, scope, "you")


@pytest.mark.parametrize(("name", "scope"), [p for p in PRIVATE if p[1] != "tenant"])
def test_another_request_of_the_tenant_changes_nothing(name: str, scope: str) -> None:
    assert not leaks(name, scope, "me")


@pytest.mark.parametrize("name", [name for name, scope in ALL if scope == "process"])
def test_the_widest_scope_is_never_the_default(name: str) -> None:
    assert registry.find("drafter", name).Options.model_fields["scope"].default != "process"


def test_a_leak_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test can fail: with one store for all tenants, whoever learns gives it away."""
    learners = [name for name, scope in PRIVATE if scope == "tenant"]
    assert leaks("aded", "tenant", "me")
    monkeypatch.setattr(Scopes, "key", lambda self, session: "")
    assert any(leaks(name, "tenant", "you") for name in learners)


@pytest.mark.parametrize(("name", "scope"), LASTING)
def test_state_goes_through_json_into_a_fresh_drafter(name: str, scope: str) -> None:
    """Its next drafts are those of the one that learned, for every tenant."""
    learned, twin = make(name, scope), make(name, scope)
    trees(learned, [request(1, "a"), request(2, "b")], [request(3, "a")])
    state = json.loads(json.dumps(learned.drafter.state()))
    assert state, "what outlives its request can be saved"
    twin.drafter.load(state)
    asked = [[replace(request(7, tenant), id=f"new {tenant}")] for tenant in ("a", "b", "c")]
    assert trees(twin, *asked) == news(trees(learned, *asked))


def news(found: dict[str, Trees]) -> dict[str, Trees]:
    return {name: drafts for name, drafts in found.items() if name.startswith("new")}


@pytest.mark.parametrize(("name", "scope"), ALL)
def test_what_ends_with_its_request_is_not_saved(name: str, scope: str) -> None:
    """The state is what a drafter gives that nobody has used; and it can be taken up."""
    if scope in ("tenant", "process"):
        method, requests = make(name, scope), []
    else:
        method, requests = make(name, scope), [request(1), request(2)]
    trees(method, requests)
    assert saved_tokens(method.drafter.state()) == saved_tokens(make(name, scope).drafter.state())
    make(name, scope).drafter.load(method.drafter.state())
    make(name, scope).drafter.load({})


def saved_tokens(state: Any) -> list[Any]:
    """What stands under "stores" anywhere in a state, empty ones left out."""
    if isinstance(state, dict):
        own = [state["stores"]] if state.get("stores") else []
        return own + [found for value in state.values() for found in saved_tokens(value)]
    return []


@pytest.mark.parametrize(("name", "scope"), LASTING)
def test_state_of_another_tokenizer_is_refused(name: str, scope: str) -> None:
    learned = make(name, scope)
    trees(learned, [request(1)])
    cls = registry.find("drafter", name)
    other: Drafter = cls(learned.drafter.options, replace(tiny.context(VOCAB), tokenizer_hash="x"))
    with pytest.raises(ArtifactError, match="tokenizer") as error:
        other.load(json.loads(json.dumps(learned.drafter.state())))
    assert "\n" not in str(error.value)


def bounded(name: str, scope: str) -> Method:
    """A method whose stores hold little: all options named max_... that count in hundreds."""
    cls = registry.find("drafter", name)
    given = {**tiny.drafter_options(cls, KNOWN, VOCAB), **tiny.scoped(cls, scope)}
    for option, field in cls.Options.model_fields.items():
        if option.startswith("max_") and isinstance(field.default, int) and field.default > 99:
            given[option] = LIMIT
    made = cls(options(cls.Options, given, name), tiny.context(VOCAB))
    return build(tiny.target("small"), made.context, made, "fixed", "walk", None, {"nodes": 6})


def stores(drafter: Drafter) -> Iterator[Scopes[Any]]:
    yield from (value for value in vars(drafter).values() if isinstance(value, Scopes))


@pytest.mark.parametrize(
    ("name", "scope"), [p for p in ALL if "scope" in registry.find("drafter", p[0]).Options.model_fields]
)  # fmt: skip
def test_stores_stay_within_their_bounds(name: str, scope: str) -> None:
    """While they are open each one does, and together when all are closed."""
    method = bounded(name, scope)
    engine, fullest = Engine(tiny.target("small"), method="plain"), 0
    wired = LIMIT in method.drafter.options.model_dump().values()

    def look(*_: Any) -> None:
        nonlocal fullest
        for scopes in stores(method.drafter):
            assert not wired or scopes.limit <= LIMIT, "an option named max_... sets the limit"
            fullest = max([fullest, *(len(store) for _, store in scopes)])
            assert fullest <= scopes.limit

    for seed in range(8):
        tenants = (f"tenant {seed % 3}", f"tenant {seed}")
        # the second one goes on when the first has ended, so that open stores are seen
        batch = [request(seed, tenants[0], 40, 3), request(-seed, tenants[1], 40, 4)]
        engine.run(batch, method, look)
        for scopes in stores(method.drafter):
            assert sum(len(store) for _, store in scopes) <= scopes.limit
    # a store that takes up finished requests alone holds nothing while one of them is open
    assert fullest > LIMIT // 4 or scope in ("request", "session"), "the traffic fills it"
