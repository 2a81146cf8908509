"""Every registered name resolves to a class that keeps to its base and describes itself."""

import inspect
import subprocess
import sys

import pytest

from foretoken import registry, types
from foretoken.draft.base import Drafter
from foretoken.policy.base import Policy
from foretoken.tree import KINDS
from foretoken.verify.base import Verifier

BASES = {"drafter": Drafter, "policy": Policy, "verifier": Verifier}
ALL = [(role, name) for role in BASES for name in registry.names(role)]


@pytest.mark.parametrize(("role", "name"), ALL)
def test_class_describes_itself(role: registry.Role, name: str) -> None:
    cls = registry.find(role, name)
    assert issubclass(cls, BASES[role])
    assert not inspect.isabstract(cls)
    assert cls.name == name
    assert cls.summary
    assert "\n" not in cls.summary
    assert cls.source
    assert inspect.getmodule(cls).__doc__, "the file says what the method is"
    for base_method, function in inspect.getmembers(cls, inspect.isfunction):
        assert base_method.startswith("_") or inspect.getdoc(function), base_method


@pytest.mark.parametrize("name", registry.names("drafter"))
def test_drafter_declares(name: str) -> None:
    cls = registry.find("drafter", name)
    assert cls.emits in KINDS
    assert cls.nodes >= 0
    for need in cls.needs:
        assert need.split(":")[0] in {"tokens", "logits", "hidden", "layers", "prediction"}


@pytest.mark.parametrize("name", registry.names("verifier"))
def test_verifier_declares(name: str) -> None:
    cls = registry.find("verifier", name)
    assert cls.exact <= {"greedy", "sampling"}
    assert cls.accepts
    assert cls.accepts <= set(KINDS)


@pytest.mark.parametrize(("role", "name"), [a for a in ALL if a[0] != "verifier"])
def test_options_are_closed_and_have_defaults(role: registry.Role, name: str) -> None:
    cls = registry.find(role, name)
    assert issubclass(cls.Options, types.Options)
    assert cls.Options.model_config["extra"] == "forbid"
    assert cls.Options.model_config["frozen"]
    cls.Options()


@pytest.mark.parametrize("role", BASES)
def test_the_default_names_come_first_and_are_unique(role: registry.Role) -> None:
    names = registry.names(role)
    assert len(set(names)) == len(names)
    assert set(names) == set(registry.table(role))


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from foretoken import registry; "
        "[registry.names(r) for r in ('drafter', 'policy', 'verifier')]; "
        "sys.exit(sum(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
