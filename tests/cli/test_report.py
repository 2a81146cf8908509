"""foretoken report: from the bench's file to a page and pictures; the bench's other outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Ran

Cli = Callable[..., Ran]


@pytest.fixture
def saved(cli: Cli, model: str, tmp_path: Path) -> Path:
    questions = tmp_path / "questions.jsonl"
    rows = [{"question_id": n, "category": "math", "turns": [f"{n} + {n}?", "And twice that?"]}
            for n in (101, 7)]  # fmt: skip
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run.json"
    ran = cli(
        "bench", "--model", model, "--prompts", questions, "--methods", "plain,prompt-lookup",
        "-n", 12, "--repeats", 1, "--no-cut-loops", "--dtype", "float32", "--save", path,
        "--answers", tmp_path / "answers",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return path


def test_a_page_and_pictures(cli: Cli, saved: Path, tmp_path: Path) -> None:
    page, png = tmp_path / "page.html", tmp_path / "png"
    ran = cli("report", saved, "-o", page, "--png", png, "--title", "mine")
    assert ran.code == 0, ran.err
    assert "<title>mine</title>" in page.read_text()
    made = sorted(path.name for path in png.iterdir())
    assert made == ["cost_split.png", "speed_up.png", "tokens_against_cost.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in png.iterdir())


def test_answers_in_spec_benchs_format(saved: Path) -> None:
    for method in ("plain", "prompt-lookup"):
        lines = (saved.parent / "answers" / f"{method}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["question_id"] for row in rows] == [7, 101]
        assert {row["category"] for row in rows} == {"math"}
        assert all(len(row["choices"][0]["turns"]) == 2 for row in rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--page"),
        (("-o", "page.pdf"), "page.pdf"),
        (("--png", "none/png"), "none/png"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, saved: Path, words: tuple[str, ...], says: str) -> None:
    ran = cli("report", saved, *words)
    assert ran.code == 2
    assert says in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_other_files_are_refused(cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("[]")
    ran = cli("report", other, "-o", tmp_path / "page.html")
    assert ran.code == 2
    assert "not a document" in ran.err
    assert not (tmp_path / "page.html").exists()


def test_environments_are_listed_and_unknown_ones_refused(cli: Cli) -> None:
    ran = cli("bench", "setup", "--list", "--json")
    assert ran.code == 0
    rows = json.loads(ran.out)
    assert rows[0]["peer"] == "hf"
    assert {row["here"] for row in rows[1:]} == {"no"}
    ran = cli("bench", "setup", "nobody")
    assert ran.code == 2
    assert "openvino" in ran.err
    ran = cli("bench", "setup")
    assert ran.code == 2


def test_answers_need_single_texts(cli: Cli, model: str, tmp_path: Path) -> None:
    ran = cli("bench", "--model", model, "--kernels", "--answers", tmp_path / "a")
    assert ran.code == 2
    assert "--kernels" in ran.err
