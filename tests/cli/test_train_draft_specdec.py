"""foretoken train draft specdec-head: a head beside the drafter's weights, and a policy that uses
it; one document, one line per error, the same head after Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from foretoken.learn.recipes.specdec_head import FILE, folder_hash, load_head


def words(model: str, drafter: Path, answers: Path, *more: Any) -> list[Any]:
    return ["train", "draft", "specdec-head", "--model", model, "--drafter", drafter, "--data",
            answers, "--dtype", "float32", "--held-out", "0.3", "--seq", 96, "--batch", 2,
            "--micro", 2, "--steps", 6, "--depth", 1, *more]  # fmt: skip


def test_a_head_is_written_and_used(cli: Any, model: str, drafter: Path, answers: Path) -> None:
    ran = cli(*words(model, drafter, answers, "--temperature", "0.8", "--json"))
    assert ran.code == 0, ran.err
    made = json.loads(ran.out.splitlines()[-1])
    assert made["written"] == FILE
    assert made["parameters"] == 32 * 32 + 32 + 2 * 32 + 2
    assert set(made["held_out"]) == {"kl", "predicted", "accepted"}
    assert str(drafter.parent) not in json.dumps(made)
    _, facts = load_head(drafter)
    assert (facts.temperature, facts.weight, facts.hidden) == (0.8, 6.0, 32)
    assert facts.drafter == folder_hash(drafter)
    log = json.loads((drafter / "specdec_log.json").read_text())
    assert [entry["step"] for entry in log["curve"]] == [1, 2, 3, 4, 5, 6]
    call = ["generate", "--model", model, "What is 1 + 1?", "-n", 12, "--dtype", "float32"]
    small = ["--method", "lm-sampled", "--set", f"model={drafter}", "--policy", "specdec++"]
    plain = cli(*call, "--method", "plain", "--json")
    stopped = cli(*call, *small, "--json")
    assert stopped.code == 0, stopped.err
    texts = [json.loads(done.out.splitlines()[-1])["text"] for done in (plain, stopped)]
    assert texts[0] == texts[1]


def test_without_a_head_the_policy_says_what_to_do(cli: Any, model: str, drafter: Path) -> None:
    ran = cli("generate", "--model", model, "a", "-n", 4, "--dtype", "float32", "--method",
              "lm-sampled", "--set", f"model={drafter}", "--policy", "specdec++")  # fmt: skip
    assert ran.code == 2
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("foretoken: specdec++.head: None")
    assert "train draft specdec-head" in last


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--weight", "0"], "foretoken: weight: 0"),
        (["--mix", "1"], "foretoken: mix: 1"),
        (["--micro", "3"], "foretoken: micro: 3"),
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
    assert not (drafter / FILE).exists()


def test_ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on(
    cli: Any, process: Any, model: str, drafter: Path, answers: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "drafter"
    shutil.copytree(drafter, other)
    more = ("--steps", 20, "--checkpoint-every", 50)
    assert cli(*words(model, drafter, answers, *more)).code == 0
    begun = process(*words(model, other, answers, *more[:-1], 1))
    first = other.with_name("drafter.head.ckpt") / "checkpoint.pt"
    while not first.exists() and begun.poll() is None:
        time.sleep(0.02)
    os.kill(begun.pid, signal.SIGINT)
    _, err = begun.communicate(timeout=60)
    assert begun.returncode == 130, err.decode()
    assert "the same command goes on" in err.decode().strip().splitlines()[-1]
    assert not (other / FILE).exists()
    assert cli(*words(model, other, answers, *more)).code == 0
    assert (other / FILE).read_bytes() == (drafter / FILE).read_bytes()
