"""build: impossible pairs are refused with both names, options are closed, outsiders are welcome."""

import re
from pathlib import Path
from typing import ClassVar

import pytest

import foretoken
from foretoken import registry
from foretoken.draft.base import Drafter
from foretoken.draft.plain import Plain
from foretoken.engine.build import build
from foretoken.engine.engine import Engine
from foretoken.errors import CapabilityError, ConfigError
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session
from foretoken.verify.walk import Walk
from tests import tiny


class Drawn(Plain):
    """Emits drawn drafts."""

    name = "drawn"
    emits: ClassVar[Kind] = "sampled"


class Seer(Plain):
    """Needs what no target here gives."""

    name = "seer"
    needs: ClassVar[frozenset[str]] = frozenset({"tokens", "hidden:out:3"})


class PointOnly(Walk):
    """Accepts fixed drafts alone."""

    name = "point-only"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"point"})


class GreedyOnly(Walk):
    """Claims less."""

    name = "greedy-only"
    exact: ClassVar[frozenset[str]] = frozenset({"greedy"})


class Lossy(Walk):
    """Claims nothing."""

    name = "loose"
    exact: ClassVar[frozenset[str]] = frozenset()


class Outside(Drafter):
    """A method of another package: the last token again."""

    name = "outside"
    summary = "says it twice"
    source = "-"
    nodes = 3

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        return DraftTree.chain([session.tokens[-1]] * min(budget.nodes, budget.depth))


def make(cls: type[Drafter]) -> Drafter:
    return cls(cls.Options(), tiny.context())


def test_a_kind_that_the_rule_would_bias() -> None:
    with pytest.raises(CapabilityError, match=r"'drawn' emits 'sampled'.*'point-only'.*point"):
        build(tiny.target("small"), tiny.context(), make(Drawn), "fixed", PointOnly())


def test_a_need_that_the_target_does_not_meet() -> None:
    with pytest.raises(CapabilityError, match=r"'seer' needs hidden:out:3.*gives logits, tokens"):
        build(tiny.target("small"), tiny.context(), make(Seer), "fixed")


@pytest.mark.parametrize(
    ("verifier", "guarantee"),
    [(Walk(), "exact"), (GreedyOnly(), "exact for greedy only"), (Lossy(), "lossy: .*'loose'")],
)
def test_the_guarantee_is_the_rules(verifier: Walk, guarantee: str) -> None:
    method = build(tiny.target("small"), tiny.context(), "plain", "fixed", verifier)
    assert re.match(guarantee, method.guarantee)


@pytest.mark.parametrize("name", registry.names("drafter"))
def test_unknown_options_are_named_with_the_known(name: str) -> None:
    known = list(registry.find("drafter", name).Options.model_fields) or ["it has no options"]
    with pytest.raises(
        ConfigError, match=f"{name}.no_such: 1 is not accepted; known options: "
    ) as caught:
        build(tiny.target("small"), tiny.context(), name, "fixed", "walk", {"no_such": 1})
    assert all(k in str(caught.value) for k in known)


@pytest.mark.parametrize("name", registry.names("policy"))
def test_unknown_policy_options(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name}.no_such")):
        build(tiny.target("small"), tiny.context(), "plain", name, "walk", None, {"no_such": 1})


def test_bad_values_are_named() -> None:
    with pytest.raises(ConfigError, match="fixed.nodes: -1 is not accepted; .*greater"):
        build(tiny.target("small"), tiny.context(), "plain", "fixed", "walk", None, {"nodes": -1})


def test_the_drafters_nodes_are_the_default() -> None:
    method = build(tiny.target("small"), tiny.context(), make(Outside), "fixed")
    assert method.policy.options.nodes == 3


def test_an_outside_method_runs_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_added", {role: {} for role in registry._added})
    registry.register("drafter", "outside", f"{__name__}:Outside")
    prompt = tiny.prompt(1, 8, 32)
    engine = Engine(tiny.target("small"), method="outside", policy="fixed")
    done = engine.run([tiny.request(prompt, 12)])[0]
    assert done.tokens == tiny.generate("small", [prompt], 12)[0]
    assert done.stats.drafted > 0


def test_the_engine_and_the_ways_in_name_no_method() -> None:
    """A new method is one file and one row: nothing else may know its name."""
    root = Path(foretoken.__file__).parent
    files = [*root.glob("engine/*.py"), *root.glob("cli/*.py"), *root.glob("config.py")]
    names = [n for role in ("drafter", "policy", "verifier") for n in registry.names(role)]
    for word in ("auto", "fixed"):  # they stand for dtypes, devices and forms of drafts, too
        names.remove(word)
    found = []
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            # the name of a command or of an option in an error is not looked up
            if "app.command(" in line or "ConfigError(" in line:
                continue
            found += [
                f"{path.relative_to(root)}:{number} {name}"
                for name in names if f'"{name}"' in line or f"'{name}'" in line
            ]  # fmt: skip
    assert found == []


def test_the_loop_fits_on_one_screen() -> None:
    path = Path(foretoken.__file__).parent / "engine" / "loop.py"
    assert len(path.read_text().splitlines()) <= 120
