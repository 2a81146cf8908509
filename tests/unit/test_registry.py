"""Names: outside methods are added, built-ins are not replaced, unknown ones list the known."""

from importlib.metadata import EntryPoint

import pytest

from foretoken import registry
from foretoken.errors import ConfigError


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_added", {role: {} for role in registry._added})


def test_register_and_find() -> None:
    registry.register("drafter", "mine", "foretoken.draft.plain:Plain")
    assert registry.find("drafter", "mine").name == "plain"
    assert registry.names("drafter")[-1] == "mine"


@pytest.mark.parametrize("role", ["drafter", "policy", "verifier"])
def test_built_ins_cannot_be_replaced(role: registry.Role) -> None:
    first = registry.names(role)[0]
    with pytest.raises(ConfigError, match="built in"):
        registry.register(role, first, "tests.tiny:Nothing")


def test_unknown_name_lists_the_known_ones_but_not_those_for_testing() -> None:
    with pytest.raises(ConfigError, match="method: 'nope' is not accepted; one of ") as caught:
        registry.find("drafter", "nope")
    for name in registry.names("drafter"):
        assert (name in str(caught.value)) is not registry.find("drafter", name).testing
    with pytest.raises(ConfigError, match="verifier: 'nope'"):
        registry.find("verifier", "nope")


def test_unknown_name_with_a_broken_neighbour() -> None:
    """A broken package must not hide the message about the user's own mistake."""
    registry.register("drafter", "broken", "no_such_module:Nothing")
    with pytest.raises(ConfigError, match="'nope' is not accepted"):
        registry.find("drafter", "nope")


@pytest.mark.parametrize(
    "where", ["no_such_module:Nothing", "foretoken.draft.plain:Nothing", "plain"]
)
def test_a_method_that_cannot_be_loaded_is_named(where: str) -> None:
    registry.register("drafter", "broken", where)
    with pytest.raises(ConfigError, match="'broken' is not accepted") as caught:
        registry.find("drafter", "broken")
    assert where in str(caught.value)


def test_entry_points_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "foretoken.draft.plain:Plain", "foretoken.drafters")
    shadow = EntryPoint("plain", "tests.tiny:Nothing", "foretoken.drafters")
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point, shadow] if "drafters" in group else []
    )
    registry._entry_points.cache_clear()
    try:
        assert "theirs" in registry.names("drafter")
        assert registry.find("drafter", "theirs").name == "plain"
        assert registry.find("drafter", "plain").__module__ == "foretoken.draft.plain"
    finally:
        registry._entry_points.cache_clear()
