"""`foretoken bound` as people and scripts call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.bound.test_optimum import language

from foretoken.bound.report import BoundReport
from foretoken.cli.bound import OutOptions

Cli = Callable[..., Any]


@pytest.fixture
def laws(tmp_path: Path) -> list[Any]:
    """--p and --q of four positions."""
    rng = np.random.default_rng(1)
    pairs = [language(rng, 80) for _ in range(4)]
    np.save(tmp_path / "p.npy", np.array([p for p, _ in pairs]))
    (tmp_path / "q.json").write_text(json.dumps([q.tolist() for _, q in pairs]))
    return ["--p", tmp_path / "p.npy", "--q", tmp_path / "q.json"]


@pytest.fixture(scope="module")
def drafter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a smaller random Llama of the same vocabulary, without a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("drafter")
    torch.manual_seed(8)
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        initializer_range=0.2, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def last(ran: Any) -> BoundReport:
    return BoundReport.model_validate_json(ran.out.strip().splitlines()[-1])


def test_given_laws(cli: Cli, laws: list[Any], tmp_path: Path) -> None:
    saved, drawn = tmp_path / "out.json", tmp_path / "out.svg"
    ran = cli("bound", *laws, "--drafts", "1-3,6", "--json", "--save", saved, "--plot", drawn)
    assert ran.code == 0, ran.err
    report = last(ran)
    assert BoundReport.model_validate_json(saved.read_text()) == report
    assert (report.model, report.drafter, report.vocab) == ("p.npy", "q.json", 80)
    (panel,) = report.panels
    assert (panel.temperature, panel.positions) == (None, 4)
    assert [row.drafts for row in panel.rows] == report.drafts == [1, 2, 3, 6]
    assert drawn.read_text().startswith("<?xml")
    for word in ("optimum", "k-seq", "given laws", "mixed - best other rule"):
        assert word in ran.err
    assert max(len(line) for line in ran.err.splitlines()) <= 80


def test_two_models(cli: Cli, model: str, drafter: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"def f{i}(a):"}) + "\n" for i in range(3)))
    arguments = [
        "bound", "--model", model, "--drafter", drafter, "--prompts", prompts, "--positions", 7,
        "-n", 6, "--temperature", "0.3,1", "--drafts", "2", "--dtype", "float32", "--json",
    ]  # fmt: skip
    ran = cli(*arguments)
    assert ran.code == 0, ran.err
    report = last(ran)
    assert [panel.temperature for panel in report.panels] == [0.3, 1.0]
    assert (report.dtype, report.prompts) == ("float32", ["prompts.jsonl"])
    for panel in report.panels:
        assert (panel.positions, panel.groups) == (7, 3)
        for rule in panel.rows[0].rules:
            assert rule.gap.mean >= -1e-9 - 5 * rule.standard_error
    assert last(cli(*arguments)) == report


def test_the_drafter_may_lie_in_the_models_folder(
    cli: Cli, model: str, drafter: str, tmp_path: Path
) -> None:
    import shutil

    whole = tmp_path / "whole"
    shutil.copytree(model, whole)
    few = ["bound", "-m", whole, "--limit", 1, "--positions", 1, "-n", 1, "-t", "1", "-k", "1"]
    assert "drafter: None" in cli(*few).err
    shutil.copytree(drafter, whole / "drafter")
    ran = cli(*few, "--json")
    assert ran.code == 0, ran.err
    assert last(ran).drafter == "drafter"


def test_a_model_that_drafts_for_itself_is_always_right(cli: Cli, model: str) -> None:
    ran = cli(
        "bound", "-m", model, "-d", model, "--limit", 1, "--positions", 2, "-n", 2, "-t", "1",
        "-k", "1,2", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    for row in last(ran).panels[0].rows:
        assert all(rule.rate.mean > 0.999 for rule in row.rules if rule.rule != "walk")


def test_interrupted_it_gives_what_is_finished(
    cli: Cli, laws: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foretoken.bound import report

    real, calls = report.figures, []

    def figures(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(report, "figures", figures)
    drawn = tmp_path / "x.png"
    ran = cli("bound", *laws, "--drafts", "2", "--json", "--plot", drawn)
    assert ran.code == 130
    found = last(ran)
    assert found.interrupted
    assert found.panels[0].positions == 2
    assert drawn.exists()
    ran = cli("bound", *laws, "--drafts", "2", "--json", "--plot", tmp_path / "y.png")
    assert ran.code == 130
    assert last(ran).panels == []
    assert not (tmp_path / "y.png").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--drafts", "0"], "drafts: '0'"),
        (["--drafts", "5-2"], "drafts: '5-2'"),
        (["--drafts", "1-65"], "drafts: '1-65'"),
        (["--drafts", "few"], "drafts: 'few'"),
        (["--temperature", "-1"], "temperature: -1.0"),
        (["--temperature", "0.5,0"], "temperature: 0.0"),
        (["--temperature", "nan"], "temperature: nan"),
        (["--temperature", "warm"], "temperature: 'warm'"),
        (["--positions", "0"], "positions: 0"),
        (["--limit", "0"], "limit: 0"),
        (["--max-new-tokens", "0"], "max_new_tokens: 0"),
        (["--seed", "-1"], "seed: -1"),
        (["--prompts", "/no/such.jsonl"], "readable file"),
        (["--plot", "x.pdf"], "plot: 'x.pdf'"),
        (["--save", "/no/such/folder/x.json"], "save: "),
        (["--drafter", "/no/such/model"], "drafter: '/no/such/model'"),
        (["--p", "only.npy"], "q: None"),
        (["--q", "only.npy"], "p: None"),
    ],
)
def test_bad_fields_are_one_line_and_exit_2(
    cli: Cli, model: str, arguments: list[str], named: str
) -> None:
    target = [] if {"--p", "--q"} & set(arguments) else ["--model", model]
    ran = cli("bound", *target, *arguments)
    assert ran.code == 2
    assert len(ran.err.strip().splitlines()) == 1, ran.err
    assert named in ran.err
    assert ran.out == ""


def test_laws_that_do_not_fit(cli: Cli, laws: list[Any], tmp_path: Path) -> None:
    def says(name: str, law: Any, *more: Any) -> str:
        (tmp_path / name).write_text(json.dumps(law))
        ran = cli("bound", "--p", tmp_path / "p.npy", "--q", tmp_path / name, *more)
        assert ran.code == 2
        (line,) = ran.err.strip().splitlines()
        return str(line)

    np.save(tmp_path / "p.npy", np.array([0.5, 0.5]))
    assert "as many tokens as p has: 2" in says("a.json", [0.2, 0.3, 0.5])
    assert "sums to 0.9" in says("b.json", [0.5, 0.4])
    assert "model: 'x'" in says("c.json", [0.5, 0.5], "--model", "x")
    assert "temperature: '1'" in says("d.json", [0.5, 0.5], "--temperature", "1")


def test_another_vocabulary_is_refused_with_both_names(
    cli: Cli, model: str, tmp_path: Path
) -> None:
    from tests import tiny
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(tiny.SPECIAL["small"]()).save_pretrained(tmp_path / "small")
    ran = cli("bound", "-m", model, "-d", tmp_path / "small")
    assert ran.code == 2
    assert "(32 tokens)" in ran.err
    assert "(300 tokens)" in ran.err


def test_numbers_of_drafts() -> None:
    assert OutOptions(drafts="1-3,2,8").counts() == [1, 2, 3, 8]
