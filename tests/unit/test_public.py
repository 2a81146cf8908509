"""The public names: exact, sorted, resolvable, and cheap to import."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import foretoken

ROOT = Path(__file__).parents[2]


def test_all_is_exact_and_every_name_resolves():
    assert set(foretoken.__all__) == {*foretoken._WHERE, "__version__"}
    assert len(set(foretoken.__all__)) == len(foretoken.__all__)
    assert foretoken.__all__ == sorted(foretoken.__all__)
    for name in foretoken.__all__:
        assert getattr(foretoken, name) is not None
        assert name in dir(foretoken)


def test_what_type_checkers_see_is_what_is_there():
    source = (ROOT / "src" / "foretoken" / "__init__.py").read_text()
    block = source.split("if TYPE_CHECKING:")[1].split("__version__")[0]
    seen = {
        (name.strip(), line.split()[1].removeprefix("foretoken."))
        for line in block.splitlines()
        if line.strip().startswith("from foretoken.")
        for name in line.split(" import ")[1].split(",")
    }
    assert seen == set(foretoken._WHERE.items())


def test_public_objects_know_their_public_purpose():
    for name in set(foretoken.__all__) - {"__version__"}:
        assert getattr(foretoken, name).__doc__, name


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = foretoken.nonsense


def test_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert foretoken.__version__ == project["version"]


def test_import_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'numpy', 'pydantic'}"
    code = f"import sys, foretoken; foretoken.register; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src"
    )
    assert done.stdout.strip() == "[]"
