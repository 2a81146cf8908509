"""foretoken train draft vocab-trim: a table for people, a file beside the weights, one document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from foretoken.draft.trim import read_trim
from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash


def words(model: str, drafter: Path, answers: Path, *more: Any) -> list[Any]:
    return ["train", "draft", "vocab-trim", "--model", model, "--drafter", drafter, "--data",
            answers, "--dtype", "float32", "--held-out", "0.4", *more]  # fmt: skip


def test_the_best_size_is_written_and_used(
    cli: Any, model: str, drafter: Path, answers: Path
) -> None:
    ran = cli(*words(model, drafter, answers, "--sizes", "30,60,290", "--json"))
    assert ran.code == 0, ran.err
    made = json.loads(ran.out.splitlines()[-1])
    assert [size["k"] for size in made["sizes"]] == [30, 60, 290, 300]
    assert all(0 <= size["alpha"] <= size["mass"] + 1e-6 for size in made["sizes"])
    top = max(size["mbsu"] for size in made["sizes"])
    assert next(size for size in made["sizes"] if size["k"] == made["best"])["mbsu"] == top
    assert made["sizes"][-1]["coverage"] == made["sizes"][-1]["mass"] == 1.0
    assert "MBSU" in ran.err
    assert "best" in ran.err
    trim = read_trim(drafter)
    assert trim is not None
    assert made["best"] < 300, "hardly anything is accepted, so that the cheapest is best"
    assert (trim.k, trim.key) == (made["best"], made["key"])
    tokenizer = load_tokenizer(model)
    assert trim.tokenizer_hash == tokenizer_hash(tokenizer)
    assert tokenizer.eos_token_id in trim.keep
    text = "What is 1 + 1?"
    lines = [
        cli("generate", "--model", model, text, "-n", "12", "--method", method, "--dtype",
            "float32", *(("--set", f"model={drafter}") if method != "plain" else ()), "--json")
        for method in ("plain", "vocabtrim", "lm-top-k")
    ]  # fmt: skip
    assert all(line.code == 0 for line in lines), lines
    assert len({json.loads(line.out.splitlines()[-1])["text"] for line in lines}) == 1


def test_all_tokens_may_be_best(cli: Any, model: str, answers: Path, tmp_path: Path) -> None:
    """Where the drafter is the target, everything is accepted that is not dropped."""
    shutil.copytree(model, tmp_path / "twin")
    more = ("--sizes", "30,40", "--always", "digits", "--json")
    ran = cli(*words(model, tmp_path / "twin", answers, *more))
    assert ran.code == 0, ran.err
    made = json.loads(ran.out.splitlines()[-1])
    assert (made["best"], made["written"]) == (300, None)
    assert made["sizes"][-1]["alpha"] == pytest.approx(1.0, abs=1e-4)
    assert read_trim(tmp_path / "twin") is None
    assert "nothing is written" in ran.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sizes", "many"], "foretoken: sizes: 'many'"),
        (["--sizes", "0"], "foretoken: sizes: '0'"),
        (["--sizes", "300"], "foretoken: sizes: '300'"),
        (["--always", "letters"], "foretoken: always: 'letters'"),
        (["--held-out", "0"], "foretoken: held-out: 0.0"),
        (["--drafter", "missing"], "foretoken: drafter: 'missing'"),
        (["--data", "missing"], "missing"),
    ],
)
def test_mistakes_are_one_line(
    cli: Any, model: str, drafter: Path, answers: Path, more: list[str], said: str
) -> None:
    ran = cli(*words(model, drafter, answers, *more))
    assert ran.code == 2
    assert said in ran.err.strip().splitlines()[-1]
    assert read_trim(drafter) is None
