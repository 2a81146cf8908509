"""foretoken methods: one row per registered name, in every form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from foretoken import registry
from foretoken.bench.pairs import lm_forms
from foretoken.cli import methods
from foretoken.cli.methods import COLUMNS, guarantee, table
from foretoken.draft.base import Drafter
from foretoken.tree import KINDS
from foretoken.verify.base import Verifier


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
        assert set(COLUMNS) | {"options", "verifier", "verifiers"} == set(row)
        assert row["guarantee"]
        assert len(row["guarantee"]) < 120


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


def rule(claim, *kinds):
    return type("Rule", (Verifier,), {"exact": frozenset(claim), "accepts": frozenset(kinds)})


def test_guarantee_comes_from_the_verifiers_that_accept_the_draft(monkeypatch):
    both = ("greedy", "sampling")
    rules = {
        "a": rule(both, "point", "mixed"), "b": rule(both, "point"), "c": rule(both, "point"),
        "d": rule(both, "point"), "e": rule(both, "point", "sampled"), "f": rule(both, "sampled"),
        "typical": rule(("greedy",), "point", "mixed"), "loose": rule((), "point"),
    }  # fmt: skip
    monkeypatch.setattr(methods, "_verifiers", lambda: rules)

    def drafter(emits, verifier):
        return guarantee("drafter", type("D", (Drafter,), {"emits": emits, "verifier": verifier}))

    assert drafter("no such kind", "a") == ""
    assert drafter("mixed", "a") == "exact (a); lossy: typical"
    assert drafter("sampled", "f") == "exact (f; or e)"
    # rules that accept little else come first
    assert drafter("point", "b") == "exact (b; or c, d, a, +1); lossy: loose; lossy: typical"
    assert drafter("mixed", "typical") == "lossy unless greedy (typical); exact: a"
    for kinds, shown in (
        (("point",), ["point"]),
        (("mixed", "point"), ["point", "mixed"]),
        (KINDS, "any"),
    ):
        assert methods._kinds("verifier", rule(both, *kinds)) == shown


def test_a_drafters_own_rule_is_told_and_accepts_its_drafts(cli):
    rows = json.loads(cli("methods", "--json", "--all").out)["methods"]
    for row in rows:
        if row["role"] == "drafter":
            own = registry.find("verifier", row["verifier"])
            assert row["drafts"] in own.accepts
            assert row["guarantee"].startswith(f"exact ({row['verifier']}")
            assert row["verifier"] in row["verifiers"]["exact"]
            assert not any("exact" in claim for claim in row["verifiers"] if "lossy" in claim)
            listed = {name for names in row["verifiers"].values() for name in names}
            accepting = {
                n for n in registry.names("verifier")
                if registry.find("verifier", n).fits(registry.find("drafter", row["name"]))
            }  # fmt: skip
            assert listed == accepting
        elif row["role"] == "verifier":
            lossy = "sampling" not in registry.find("verifier", row["name"]).exact
            assert row["guarantee"].startswith("lossy") == lossy


def test_a_method_that_cannot_be_imported_is_listed_with_the_reason(monkeypatch):
    monkeypatch.setitem(registry._added["drafter"], "broken", "no.such.module:Class")
    row = next(row for row in table() if row["name"] == "broken")
    assert "no.such.module" in row["summary"]
    assert row["guarantee"] == ""


def test_a_lossy_rule_says_so_and_a_forbidden_pair_is_refused_early(cli, model, monkeypatch):
    """Names are checked before the model is loaded: a wrong folder is not even looked at."""
    for name, where in (("first-child", "Greedy"), ("one-by-one", "OneByOne")):
        place = f"tests.unit.bench.stand_ins:{where}"
        monkeypatch.setitem(registry._added["verifier"], name, place)
    call = ["generate", "x = 1", "--method", "prompt-lookup", "-n", 4, "--temperature", 1]
    ran = cli(*call, "--model", model, "--verifier", "first-child", "--json")
    assert ran.code == 0, ran.err
    assert "lossy" in json.loads(ran.out.splitlines()[-1])["guarantee"]
    assert "lossy" in ran.err
    ran = cli(*call, "--model", model, "--verifier", "one-by-one")
    assert ran.code == 0, ran.err
    assert "exact" in ran.err
    assert "lossy" not in ran.err
    stand_in = registry.find("verifier", "one-by-one")
    monkeypatch.setattr(stand_in, "accepts", frozenset({"sampled"}))
    for rule, says in (("one-by-one", "'sampled'|sampled"), ("magic", "magic")):
        ran = cli(*call, "--model", "no/such/folder", "--verifier", rule)
        assert ran.code == 2
        assert re.search(says, ran.err)
        assert rule in ran.err
        assert "folder" not in ran.err
        assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [n for n in registry.names("verifier") if "sampling" not in registry.find("verifier", n).exact],
)
def test_every_lossy_rule_prints_that_it_is(cli, model, name):
    kinds = registry.find("verifier", name).accepts
    assert "point" in kinds, "extend this test: none of the small drafters emits such drafts"
    ran = cli(
        "generate", "x = 1", "--model", model, "--method", "prompt-lookup", "-n", 4,
        "--temperature", 1, "--verifier", name,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "lossy" in ran.err


def test_the_page_of_lm_names_every_form_and_rule():
    page = (Path(__file__).parents[2] / "docs" / "studies" / "lm.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    forms = {row[1].strip(" `"): (row[3].strip(), row[4].strip(" `")) for row in rows}
    assert set(forms) == {name for name in lm_forms() if name.startswith("lm")}
    for name, (emits, rule) in forms.items():
        cls = registry.find("drafter", name)
        assert (cls.emits, cls.verifier) == (emits, rule)
    for name in registry.names("verifier"):
        cls = registry.find("verifier", name)
        if "sampling" in cls.exact and cls.max_vocab is None:
            assert f"`{name}`" in page, name
