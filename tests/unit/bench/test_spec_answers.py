"""Spec-Bench's files, read and written: its own arithmetic gives our figures back."""

import json

import pytest

from foretoken.bench.contest import Plan, Watch
from foretoken.bench.own import Own
from foretoken.bench.prompts import encode
from foretoken.bench.run import measure
from foretoken.bench.spec import parse_methods
from foretoken.bench.spec_answers import Answers
from foretoken.engine.engine import Engine
from foretoken.prompt.samples import ASSETS
from foretoken.target.load import load

QUESTIONS = [
    {"question_id": 90, "category": "writing", "turns": ["def add(a, b):", "def sub(a, b):"]},
    {"question_id": 83, "category": "coding", "turns": ["import os\nfor name in"]},
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    loaded = load(str(ASSETS / "demo"), dtype="float32")
    engine = Engine(loaded.target, loaded.tokenizer, method="plain", policy="fixed")
    prompts = encode([(f"q:{i}", row) for i, row in enumerate(QUESTIONS)], loaded.tokenizer)
    contestants = [Own(engine, s) for s in parse_methods("plain,prompt-lookup:nodes=4", "fixed")]
    watch = Answers(Watch(), loaded.tokenizer, "demo")
    plan = Plan(max_new_tokens=24, repeats=2, cut_loops=False)
    measured = measure(engine, contestants, prompts, plan, watch)
    folder = tmp_path_factory.mktemp("answers")
    files = watch.write(folder, {"90": "writing", "83": "coding"})
    return measured, {
        f.stem: [json.loads(line) for line in f.read_text().splitlines()] for f in files
    }


def test_a_file_for_each_method_and_a_row_for_each_question(written):
    _, files = written
    assert list(files) == ["plain", "prompt-lookup-nodes-4"]
    for rows in files.values():
        assert [row["question_id"] for row in rows] == [83, 90]
        assert [row["category"] for row in rows] == ["coding", "writing"]
        assert [len(row["choices"][0]["turns"]) for row in rows] == [1, 2]
    one, other = files.values()
    assert [r["choices"][0]["turns"] for r in one] == [r["choices"][0]["turns"] for r in other]


def test_its_arithmetic_gives_our_figures(written):
    """Mean accepted length as speed.py has it; new tokens and seconds as measured."""
    measured, files = written
    for label, rows in zip(("plain", "prompt-lookup:nodes=4"), files.values(), strict=True):
        runs = [cell[label] for cell in measured.finished()[0]]
        choices = [row["choices"][0] for row in rows]
        assert sum(sum(c["new_tokens"]) for c in choices) == sum(run.count for run in runs)
        assert sum(sum(c["wall_time"]) for c in choices) == pytest.approx(
            sum(run.wall for run in runs)
        )
        lengths = [n for c in choices for n in c["accept_lengths"]]
        assert sum(lengths) == sum(run.count for run in runs)
        assert len(lengths) == sum(run.forwards for run in runs)
        assert [len(c["accept_lengths"]) for c in choices] == [
            sum(c["decoding_steps"]) for c in choices
        ]


def test_the_second_turn_comes_after_the_first_ones_answer():
    loaded = load(str(ASSETS / "demo"), dtype="float32")
    first, alone = encode([("q", row) for row in QUESTIONS], loaded.tokenizer)
    assert first.name == "spec-bench/90"
    assert alone.then is None
    answer = loaded.tokenizer.encode("  return a + b", add_special_tokens=False)
    second = first.then(answer)
    assert second.name == "spec-bench/90 turn 2"
    text = loaded.tokenizer.decode(second.tokens)
    asked = ["Question: def add(a, b):\nAnswer: return a + b", "Question: def sub(a, b):\nAnswer:"]
    assert text == "<|endoftext|>".join(asked)
