"""Documents are outputs: tables equal what their command prints, links lead somewhere, code runs."""

import re
import sys
from pathlib import Path

import pytest

from foretoken import registry
from foretoken.cli.methods import as_markdown, table
from tests import tiny

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_table_of_methods_is_what_the_command_prints():
    text = (ROOT / "README.md").read_text()
    start, end = "<!-- methods: foretoken methods --markdown -->\n", "<!-- /methods -->"
    shown = text[text.index(start) + len(start) : text.index(end)]
    assert shown.strip() == as_markdown(table()).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:src|docs|tests|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_example_of_contributing_runs(tmp_path, monkeypatch):
    """The drafter printed there is added as it stands, and the engine's text stays the target's."""
    code = re.search(r"```python\n(# my_package/stutter.py\n.*?)```", read("CONTRIBUTING.md"), re.S)
    assert code
    (tmp_path / "stutter_example.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path)
    registry.register("drafter", "stutter", "stutter_example:Stutter")
    try:
        request = tiny.request(tiny.prompt(3, 9), 24)
        target = tiny.target("llama")
        plain = tiny.decode(target, request).tokens
        assert tiny.decode(target, request, "stutter").tokens == plain
    finally:
        registry._added["drafter"].pop("stutter")
        sys.modules.pop("stutter_example", None)


def read(name):
    return (ROOT / name).read_text()
