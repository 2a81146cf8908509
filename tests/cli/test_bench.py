"""`foretoken bench` as people and scripts call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foretoken import registry
from foretoken.bench.drafting import DraftTimes
from foretoken.bench.memory import MemoryReport
from foretoken.bench.pairs import PairTable
from foretoken.bench.parity import ParityReport
from foretoken.bench.report import Report
from foretoken.bench.rules import RuleTimes
from foretoken.bench.same_trees import SameTrees

Cli = Callable[..., Any]
STAND_INS = "tests.unit.bench.stand_ins"
SABOTAGE = "tests.unit.bench.sabotage:Flip"


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    rows = [
        {"prompt": "def add(a, b):\n", "canonical_solution": "    return a + b  # add a and b\n"},
        {"question": "How many eggs are 3 eggs and 4 eggs?", "answer": "3 + 4 = 7 eggs"},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def few(model: str, prompts: str) -> list[str]:
    return ["bench", "--model", model, "--prompts", prompts, "-n", "12", "--dtype", "float32"]


def test_a_comparison_with_peers(cli: Cli, model: str, prompts: str, tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    ran = cli(
        *few(model, prompts), "--methods", "plain,aded:nodes=8,prompt-lookup", "--peers",
        "hf,hf-prompt-lookup", "--repeats", 1, "--no-cut-loops", "--json", "--save", saved,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = Report.model_validate_json(ran.out.strip().splitlines()[-1])
    assert Report.model_validate_json(saved.read_text()) == report
    methods = ["plain", "aded:nodes=8", "prompt-lookup", "hf", "hf-prompt-lookup"]
    assert [r.method for r in report.results] == methods
    assert all(r.identical for r in report.results)
    assert report.model == Path(model).name
    assert report.memory is not None
    assert report.memory.kv_mb > 0
    assert "identical" in ran.err
    assert "tokens/s" in ran.err


def test_widened_the_text_stays(cli: Cli, model: str, prompts: str) -> None:
    ran = cli(
        *few(model, prompts), "--methods", "plain,prompt-lookup", "--peers", "hf", "--widen", 2,
        "--repeats", 1, "--no-cut-loops", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = Report.model_validate_json(ran.out.strip().splitlines()[-1])
    assert report.widen == 2
    assert report.parameters > 100_000
    assert "widened x2" in ran.err


def test_forced(cli: Cli, model: str, prompts: str) -> None:
    ran = cli(
        *few(model, prompts), "--methods", "aded", "--repeats", 1, "--forced", prompts, "--json"
    )
    assert ran.code == 0, ran.err
    report = Report.model_validate_json(ran.out.strip().splitlines()[-1])
    assert report.mode == "forced"
    assert [r.method for r in report.results] == ["plain", "aded"]
    assert report.of("plain").steps == report.of("plain").new_tokens


def test_a_wrong_text_ends_with_1_and_shows_no_speed(
    cli: Cli, model: str, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._added["verifier"], "flip", SABOTAGE)
    ran = cli(
        *few(model, prompts), "--methods", "plain,prompt-lookup:verifier=flip", "--repeats", 1,
        "--no-cut-loops", "--json",
    )  # fmt: skip
    assert ran.code == 1
    assert "tokens/s" not in ran.err
    assert "x plain" not in ran.err
    assert "logit gap" in ran.err
    assert "no speed is reported" in ran.err
    report = Report.model_validate_json(ran.out.strip().splitlines()[-1])
    assert report.failed
    assert all(r.tokens_per_s is None for r in report.results)


def test_parity(cli: Cli, model: str, prompts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = [*few(model, prompts), "--parity", "--batch", 2, "--mixed", "--json"]
    ran = cli(*call)
    assert ran.code == 0, ran.err
    report = ParityReport.model_validate_json(ran.out.strip().splitlines()[-1])
    assert len(report.results) == 6
    assert sum(r.differing_tokens for r in report.results) == 0
    monkeypatch.setitem(registry._added["verifier"], "flip", SABOTAGE)
    ran = cli(*call, "--methods", "aded:verifier=flip")
    assert ran.code == 1
    assert "logit gap" in ran.err


def test_memory_and_kernels(cli: Cli, model: str, prompts: str) -> None:
    ran = cli(*few(model, prompts), "--memory", 40, "--methods", "plain", "--json")
    assert ran.code == 0, ran.err
    report = MemoryReport.model_validate_json(ran.out.strip().splitlines()[-1])
    assert report.results[0].points[-1].tokens == 40
    ran = cli("bench", "--model", model, "--kernels", "--dtype", "float32", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out.strip().splitlines()[-1])["results"][0]["ratio"] > 0


def test_rules_are_timed_without_a_model(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretoken.bench.rules.CACHE_BYTES", 1 << 10)
    monkeypatch.setattr("foretoken.bench.rules.DRAFTS", 2)
    ran = cli(
        "bench", "--rules", "--model", "no/such/folder", "--vocab", 60, "--nodes", 8, "--json"
    )
    assert ran.code == 0, ran.err
    report = RuleTimes.model_validate_json(ran.out.strip().splitlines()[-1])
    assert (report.vocab, report.nodes) == (60, 8)
    assert {r.rule for r in report.results} == set(registry.names("verifier"))
    assert all(r.median_ms or r.refused for r in report.results)
    assert "worst" in ran.err


def test_drafting_is_timed_without_a_model(cli: Cli, prompts: str) -> None:
    ran = cli(
        "bench", "--drafting", 300, "--prompts", prompts, "--methods", "suffix,suffix-store",
        "--nodes", 8, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = DraftTimes.model_validate_json(ran.out.strip().splitlines()[-1])
    assert [r.method for r in report.results] == ["suffix", "suffix-store"]
    assert report.nodes == 8
    assert 0 < report.tokens <= 300
    assert all(r.tokens == report.tokens and r.us_per_token for r in report.results)
    assert "suffix-store" in ran.err
    assert "us/draft" in ran.err


def test_pairs(cli: Cli, model: str, prompts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._added["verifier"], "first-child", f"{STAND_INS}:Greedy")
    few_pairs = [
        *few(model, prompts), "--pairs", "--methods", "prompt-lookup,random", "--verifiers",
        "walk,first-child", "--lossy", "--nodes", 4, "--json",
    ]  # fmt: skip
    ran = cli(*few_pairs, "--repeats", 1, "--no-cut-loops")
    assert ran.code == 0, ran.err
    table = PairTable.model_validate_json(ran.out.strip().splitlines()[-1])
    drafters = [(p.drafter, p.rule) for p in table.pairs]
    rules = ("walk", "first-child")
    assert drafters[0] == ("plain", "")
    assert drafters[1:] == [(d, r) for d in ("prompt-lookup", "random") for r in rules]
    assert table.comparison.sampling == {"temperature": 1.0}
    assert "lossy, the text has another distribution: first-child" in ran.err
    assert "best exact pair by tokens per second" in ran.err
    ran = cli(*few_pairs, "--same-trees")
    assert ran.code == 0, ran.err
    report = SameTrees.model_validate_json(ran.out.strip().splitlines()[-1])
    assert report.prompts == 2
    assert {r.rule for r in report.results} == set(rules)


def test_greedy_pairs_have_one_rule(cli: Cli, model: str, prompts: str) -> None:
    ran = cli(
        *few(model, prompts), "--pairs", "--methods", "prompt-lookup", "-t", 0, "--repeats", 1,
        "--no-cut-loops", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    table = PairTable.model_validate_json(ran.out.strip().splitlines()[-1])
    assert [p.rule for p in table.pairs] == ["", "walk"]
    assert "walk stands for them" in " ".join(ran.err.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--methods", "magic"], "magic"),
        (["--methods", "aded:colour=1"], "aded.colour"),
        (["--methods", "aded:nodes=x"], "nodes"),
        (["--peers", "tgi"], "hf-prompt-lookup"),
        (["--peers", "hf", "--forced", "x.jsonl"], "--forced"),
        (["--prompts", "missing.jsonl"], "missing.jsonl"),
        (["--prompts", ""], "at least one file"),
        (["--limit", "0"], "limit"),
        (["--repeats", "0"], "repeats"),
        (["--temperature", "-1"], "temperature"),
        (["--exact", "sure"], "bitwise"),
        (["--parity", "--kernels"], "kernels"),
        (["--memory", "0"], "memory"),
        (["--mixed"], "--parity"),
        (["--parity", "--forced", "x.jsonl"], "forced"),
        (["--forced", "x.jsonl"], "--forced names"),
        (["--save", "nowhere/x.json"], "save"),
        (["--parity", "--peers", "hf"], "--parity"),
        (["--policy", "odd"], "odd"),
        (["--pairs", "--rules"], "rules"),
        (["--pairs", "--methods", "plain"], "methods"),
        (["--pairs", "--methods", "random", "--verifiers", "magic"], "magic"),
        (["--pairs", "--methods", "random", "--peers", "hf"], "--pairs"),
        (["--pairs", "--methods", "random", "--policy", "odd"], "budgets are equal"),
        (["--pairs", "--methods", "random", "--same-trees", "-t", "0"], "temperature"),
        (["--pairs", "--methods", "random", "--forced", "x.jsonl"], "forced"),
        (["--same-trees"], "--pairs"),
        (["--lossy"], "--pairs"),
        (["--verifiers", "walk"], "--pairs"),
        (["--vocab", "100"], "--rules"),
        (["--rules", "--vocab", "0"], "vocab"),
        (["--rules", "--nodes", "0"], "nodes"),
        (["--drafting", "1"], "drafting"),
        (["--drafting", "9", "--rules"], "drafting"),
        (["--drafting", "9", "--policy", "odd"], "budgets are equal"),
        (["--drafting", "9", "--methods", "magic"], "magic"),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli, model: str, prompts: str, arguments: list[str], says: str
) -> None:
    ran = cli(*few(model, prompts), *arguments)
    assert ran.code == 2, ran.err
    lines = [line for line in ran.err.strip().splitlines() if line.strip()]
    assert len(lines) == 1, ran.err
    assert says in lines[0]
    assert ran.out == ""


def test_prompts_without_a_reference_cannot_be_forced(cli: Cli, model: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("def add(a, b):\n", encoding="utf-8")
    ran = cli(*few(model, str(path)), "--forced", path)
    assert ran.code == 2
    assert "reference text" in ran.err
