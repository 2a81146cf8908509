"""foretoken methods: one row per registered name, in every form."""

from __future__ import annotations

import json
from typing import ClassVar, get_args

from foretoken import registry
from foretoken.cli.methods import COLUMNS, guarantee, table


def names(everything):
    return {
        (role, name)
        for role in get_args(registry.Role)
        for name in registry.names(role)
        if everything or not getattr(registry.find(role, name), "testing", False)
    }


def test_json_has_every_method_and_hides_those_for_tests(cli):
    shown = json.loads(cli("methods", "--json").out.splitlines()[-1])["methods"]
    assert {(row["role"], row["name"]) for row in shown} == names(False)
    everything = json.loads(cli("methods", "--json", "--all").out)["methods"]
    assert {(row["role"], row["name"]) for row in everything} == names(True)
    assert len(everything) > len(shown)
    for row in everything:
        assert set(COLUMNS) | {"options"} == set(row)
        assert row["guarantee"]


def test_table_and_markdown_name_every_method(cli):
    plain, markdown = cli("methods").out, cli("methods", "--markdown").out
    for _, name in names(False):
        assert name in plain
        assert f"| {name} |" in markdown
    columns = len(COLUMNS) + 1
    assert {line.replace("\\|", "").count("|") for line in markdown.splitlines()} == {columns}


def test_one_method_shows_its_options(cli):
    ran = cli("methods", "aded")
    assert ran.code == 0
    for option in registry.find("drafter", "aded").Options.model_fields:
        assert option in ran.out


def test_guarantee_comes_from_the_verifiers_that_accept_the_draft():
    class Odd:
        emits: ClassVar[str] = "no such kind"

    assert guarantee("drafter", Odd) == ""
    assert guarantee("drafter", registry.find("drafter", "plain")).startswith("exact with walk")


def test_a_method_that_cannot_be_imported_is_listed_with_the_reason(monkeypatch):
    monkeypatch.setitem(registry._added["drafter"], "broken", "no.such.module:Class")
    row = next(row for row in table() if row["name"] == "broken")
    assert "no.such.module" in row["summary"]
    assert row["guarantee"] == ""
