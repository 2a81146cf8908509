"""Prompt files of every kind, and what is said of bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foretoken.bench.prompts import read_prompts
from foretoken.errors import ConfigError
from tests.letters import tokenizer

BENCHMARKS = Path(__file__).parents[3] / "benchmarks" / "prompts"


def write(folder: Path, name: str, *rows: object) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def decoded(tokens: list[int]) -> str:
    return str(tokenizer().decode(tokens))


def test_a_text_file_is_one_prompt(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("def f():\n    pass\n", encoding="utf-8")
    (prompt,) = read_prompts([path], tokenizer())
    assert decoded(prompt.tokens) == "def f():\n    pass\n"
    assert prompt.reference is None


def test_kinds_and_references(tmp_path: Path) -> None:
    path = write(
        tmp_path, "p.jsonl",
        {"prompt": "def f(", "canonical_solution": "x):"},
        {"question": "Why?", "answer": "So."},
        {"turns": ["First", "Second"]},
    )  # fmt: skip
    code, question, turns = read_prompts([path], tokenizer())
    assert decoded(code.tokens) == "def f("
    assert decoded(code.reference or []) == "x):"
    assert decoded(question.tokens) == "u>Why?\na>"
    # what the template writes after the prompt: the answer, and here the next turn's opening
    assert decoded(question.reference or []) == "So.\na>"
    assert decoded(turns.tokens) == "u>First\na>"
    assert turns.reference is None
    assert [p.name for p in (code, turns)] == ["p.jsonl:1", "p.jsonl:3"]


def test_files_are_read_in_turn_and_limited(tmp_path: Path) -> None:
    a = write(tmp_path, "a.jsonl", {"prompt": "a1"}, {"prompt": "a2"}, {"prompt": "a3"})
    b = write(tmp_path, "b.jsonl", {"prompt": "b1"})
    texts = [p.text for p in read_prompts([a, b], tokenizer())]
    assert texts == ["a1", "b1", "a2", "a3"]
    assert [p.text for p in read_prompts([a, b], tokenizer(), 3)] == texts[:3]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jsonl", None, "No such file"),
        ("empty.jsonl", "", "at least one prompt"),
        ("empty.txt", " \n", "at least one prompt"),
        ("odd.csv", "a,b", ".txt file"),
        ("bad.jsonl", '{"prompt": "a"}\n{"prompt"', "line 2"),
        ("other.jsonl", '{"text": "a"}', "prompt, question, turns"),
        ("list.jsonl", "[1]", "line 1"),
        ("turns.jsonl", '{"turns": [1]}', "line 1"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=name) as caught:
        read_prompts([path], tokenizer())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_utf8_and_bad_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_prompts([path], tokenizer())
    with pytest.raises(ConfigError, match="limit"):
        read_prompts([path], tokenizer(), 0)


def test_the_shipped_prompts_have_references_and_licences() -> None:
    files = sorted(BENCHMARKS.glob("*.jsonl"))
    prompts = read_prompts(files, tokenizer())
    assert len(prompts) == 300
    assert all(p.reference for p in prompts)
    assert {p.suffix for p in BENCHMARKS.glob("LICENSE.*")} == {".humaneval", ".gsm8k"}
    assert sum(p.stat().st_size for p in BENCHMARKS.iterdir()) < 5_000_000
