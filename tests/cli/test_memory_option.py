"""--memory: what was learned comes back in the next run, and a bad file ends it in one line."""

from __future__ import annotations

import json
import shutil
import signal
import time
from types import SimpleNamespace

import pytest

from foretoken.learn.memory import read

PROMPT = "for i in range(10):\n    print(i)\nfor i in range("


def call(cli, model, *arguments):
    return cli(
        "generate", "--model", model, "--dtype", "float32", "-n", 40, "--ignore-eos",
        "--method", "aded", "--policy", "fixed", "--json", PROMPT, *arguments,
    )  # fmt: skip


def document(ran):
    assert ran.code == 0, ran.err
    return json.loads(ran.out.splitlines()[-1])


def test_the_next_run_goes_on(cli, model, tmp_path):
    file = tmp_path / "memory"
    plain = document(call(cli, model))
    first = document(call(cli, model, "--memory", file))
    assert file.exists()
    second = document(call(cli, model, "--memory", file))
    assert plain["text"] == first["text"] == second["text"]
    steps = [d["statistics"]["steps"] for d in (plain, first, second)]
    assert steps[0] == steps[1] > steps[2]


def test_nothing_is_written_unless_asked(cli, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document(call(cli, model))
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_chat_remembers(cli, model, tmp_path, monkeypatch):
    file = tmp_path / "memory"
    lines = iter(["How many eggs?", "/quit"])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    ran = cli(
        "chat", "--model", model, "-n", 8, "--method", "aded", "--policy", "fixed", "--memory", file
    )
    assert ran.code == 0, ran.err
    assert read(file).entries[0].state["stores"]


@pytest.mark.parametrize("content", [None, b"", b"no memory"])
def test_a_bad_file_is_one_line_before_the_model_is_loaded(cli, tmp_path, content):
    file = tmp_path / "memory"
    file.mkdir() if content is None else file.write_bytes(content)
    ran = cli("generate", "--model", tmp_path / "no model here", "--memory", file, "x")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert str(file) in ran.err
    assert ran.out == ""


def test_a_file_of_another_tokenizer_is_named_and_kept(cli, model, tmp_path):
    from tests import tiny

    from foretoken.engine.engine import Engine

    file = tmp_path / "memory"
    Engine(tiny.target("small"), method="plain", policy="fixed").remember(file)
    before = file.read_bytes()
    ran = call(cli, model, "--memory", file)
    assert ran.code == 2
    assert "tokenizer" in ran.err
    assert str(file) in ran.err
    assert file.read_bytes() == before


def test_ctrl_c_saves(process, model, tmp_path):
    endless, file = tmp_path / "endless", tmp_path / "memory"
    shutil.copytree(model, endless)
    config = json.loads((endless / "config.json").read_text())
    (endless / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**6}))
    ran = process(
        "generate", "--model", endless, "--ignore-eos", "-n", 10**5, "--method", "aded", "--policy", "fixed",
        "--memory", file, PROMPT,
    )  # fmt: skip
    ran.stdout.read1()  # blocks until the first text is there
    time.sleep(0.2)
    ran.send_signal(signal.SIGINT)
    _, err = ran.communicate(timeout=120)
    assert ran.returncode == 130, err
    assert b"Traceback" not in err
    assert read(file).entries[0].state["stores"]


def test_the_help_says_what_the_file_holds(cli):
    for command in ("generate", "chat"):
        words = " ".join(cli(command, "--help").out.replace("│", " ").split())
        assert "--memory" in words
        assert "statistics of your texts" in words
