"""foretoken train draft data: one JSON line, one line per error, the same folder after Ctrl-C."""

import json
import os
import signal
import time

import pytest

from foretoken.learn.recipes.answers import read_answers
from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"question": f"What is {n} + {n}?"} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(model, prompts, out, *more):
    return ["train", "draft", "data", "--model", model, "--prompts", prompts, "--out", out,
            "--dtype", "float32", "-n", "8", "--shard", "2", "--loops", "keep", *more]  # fmt: skip


def test_it_writes_answers_and_a_summary(cli, model, prompts, tmp_path):
    out = tmp_path / "answers"
    ran = cli(*words(model, prompts, out, "-t", "0", "-t", "0.9", "--samples", "2", "--json"))
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out.splitlines()[-1])
    assert summary["counts"]["rows"] == 18
    assert summary["shards"] == 3
    assert str(tmp_path) not in summary["command"]
    assert "--temperature 0.0 --temperature 0.9 --samples 2" in summary["command"]
    found = read_answers(out, tokenizer_hash(load_tokenizer(model)), 300)
    assert len(found.rows) == 18
    assert "18 rows" in ran.err
    again = cli(*words(model, prompts, out, "-t", "0", "-t", "0.9", "--samples", "2", "--json"))
    assert json.loads(again.out.splitlines()[-1])["tokens_now"] == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--loops", "maybe"], "foretoken: loops: 'maybe'"),
        (["-t", "-1"], "foretoken: temperature"),
        (["--samples", "0"], "foretoken: samples: 0"),
        (["--batch", "0"], "foretoken: batch: 0"),
        (["--limit", "0"], "foretoken: limit: 0"),
        (["--method", "nonsense"], "nonsense"),
        (["--prompts", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_mistakes_are_one_line(cli, model, prompts, tmp_path, more, said):
    ran = cli(*words(model, prompts, tmp_path / "answers", *more))
    assert ran.code == 2
    assert said in ran.err.strip().splitlines()[-1]
    assert not (tmp_path / "answers").exists()


def test_ctrl_c_keeps_finished_files_and_the_same_command_goes_on(
    cli, process, model, prompts, tmp_path
):
    whole, halves = tmp_path / "whole" / "answers", tmp_path / "halves" / "answers"
    options = ["-n", "80", "--batch", "1", "-t", "1", "--shard", "1"]
    assert cli(*words(model, prompts, whole, *options)).code == 0
    begun = process(*words(model, prompts, halves, *options))
    first = halves / "data" / "train-00000-of-00006.parquet"
    while not first.exists() and begun.poll() is None:
        time.sleep(0.02)
    os.kill(begun.pid, signal.SIGINT)
    _, err = begun.communicate(timeout=60)
    last = err.decode().strip().splitlines()[-1]
    assert begun.returncode == 130
    assert "of 6 shards; the same command goes on" in last
    assert cli(*words(model, prompts, halves, *options)).code == 0
    for path in whole.rglob("*.parquet"):
        assert path.read_bytes() == (halves / "data" / path.name).read_bytes()
    assert (whole / "manifest.json").read_text() == (halves / "manifest.json").read_text()
