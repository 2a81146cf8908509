"""foretoken train draft pretrain, align: a folder, one JSON line, one line per error, Ctrl-C."""

import json
import signal

import pytest
import torch
from tests.cli.conftest import TEXTS
from transformers import AutoModelForCausalLM

from foretoken.cli.main import main
from foretoken.learn.checkpoint import load_checkpoint
from foretoken.learn.recipes.trainer import Trainer
from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash

SMALL = ["--layers", 1, "--hidden", 16, "--heads", 2, "--kv-heads", 1, "--ffn", 24]
SHORT = ["--batch", 4, "--micro", 2, "--seq", 32, "--warmup", 2, "--lr", 0.01]


@pytest.fixture(scope="module")
def answers(model, tmp_path_factory):
    """What the model wrote."""
    folder = tmp_path_factory.mktemp("written")
    prompts = folder / "prompts.jsonl"
    rows = [{"question": f"What is {n} + {n}?"} for n in range(30)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "draft", "data", "--model", model, "--prompts", str(prompts), "-n", "12"]
    words += ["--out", str(folder / "answers"), "--dtype", "float32", "--loops", "keep", "-t", "1"]
    assert main(words) == 0
    return folder / "answers"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    rows = [{"text": f"{TEXTS[n % 3]} {n}"} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pretrain(model, text, out, *more):
    return ["train", "draft", "pretrain", "--model", model, "--text", text, "--code", text,
            "--no-stdlib", "--out", out, "--held-out", 0.2, *SMALL, *SHORT, *more]  # fmt: skip


def align(model, answers, out, *more):
    return ["train", "draft", "align", "--model", model, "--data", answers, "--out", out,
            "--dtype", "float32", "--held-out", 0.2, "--eval-rows", 8, *SHORT, *more]  # fmt: skip


def test_pretrain_then_align(cli, model, answers, text, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    ran = cli(*pretrain(model, text, first, "--steps", 10, "--json"))
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out.splitlines()[-1])
    assert summary["steps"] == 10
    assert summary["held_out"].keys() == {"text", "code"}
    assert summary["held_out"]["text"] < summary["before"]["text"]
    assert str(tmp_path) not in summary["command"]
    assert "--layers 1" in summary["command"]

    more = ["--drafter", first, "--steps", 8, "--loss", "lk-hybrid", "--text", text, "--json"]
    ran = cli(*align(model, answers, second, *more))
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out.splitlines()[-1])
    assert summary["held_out"]["alpha"] > summary["before"]["alpha"]
    assert summary["begun_with"] == "first"
    assert str(tmp_path) not in json.dumps(summary)
    assert summary["corpus"]["text"]["sources"][0]["name"] == "text.jsonl"
    assert "--drafter first" in summary["command"]
    assert "--loss lk-hybrid" in summary["command"]
    assert "alpha" in ran.err
    log = json.loads((second / "training_log.json").read_text())
    assert [entry["step"] for entry in log["curve"]] == list(range(1, 9))

    drafter = AutoModelForCausalLM.from_pretrained(second)
    assert drafter.config.vocab_size == 300
    assert tokenizer_hash(load_tokenizer(second)) == tokenizer_hash(load_tokenizer(model))
    out = cli("generate", "--model", model, "--method", "lm", "--set", f"model={second}", "-n", 4,
              "--dtype", "float32", "Question:")  # fmt: skip
    assert out.code == 0, out.err


def test_text_alone_needs_no_weights_of_the_target(cli, model, answers, tmp_path):
    more = ["--loss", "ce-text", "--without-target", "--steps", 3, *SMALL, "--json"]
    ran = cli(*align(model, answers, tmp_path / "out", *more))
    assert ran.code == 0, ran.err
    assert json.loads(ran.out.splitlines()[-1])["held_out"].keys() == {"loss"}


def test_ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on(
    cli, model, answers, tmp_path, monkeypatch
):
    words = ["--steps", 6, "--on-policy", 0.5, "--on-policy-every", 2, *SMALL]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli(*align(model, answers, whole, *words)).code == 0
    step = Trainer._train_step

    def interrupted(run):
        if run.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(run)

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    ran = cli(*align(model, answers, parts, *words))
    assert ran.code == 130
    assert "step 3 of 6; the same command goes on" in " ".join(ran.err.split())
    assert load_checkpoint(tmp_path / "parts.ckpt" / "checkpoint.pt")["step"] == 3
    monkeypatch.undo()
    assert cli(*align(model, answers, parts, *words)).code == 0
    for a, b in zip(
        *(AutoModelForCausalLM.from_pretrained(f).parameters() for f in (whole, parts)), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--loss", "kld"], "loss: 'kld'"),
        (["--heads", 3], "heads: 3"),
        (["--micro", 3], "micro: 3"),
        (["--drafter", "nowhere"], "nowhere"),
        (["--data", "nowhere"], "nowhere: no answers here"),
        (["--without-target"], "loss: 'forward-kl'"),
        (["--device", "abacus"], "device: 'abacus'"),
        (["--optimiser", "sgd"], "optimiser: 'sgd'"),
    ],
)
def test_mistakes_of_align_are_one_line(cli, model, answers, tmp_path, more, said):
    ran = cli(*align(model, answers, tmp_path / "out", *more))
    assert ran.code == 2
    assert said in ran.err.strip().splitlines()[-1]
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--stage", "5:music=1"], "stage: 'music'"),
        (["--stage", "text"], "stage: 'text'"),
        (["--kv-heads", 3], "kv_heads: 3"),
        (["--text", "missing.jsonl"], "missing.jsonl"),
        (["--model", "nowhere"], "target: 'nowhere'"),
    ],
)
def test_mistakes_of_pretrain_are_one_line(cli, model, text, tmp_path, more, said):
    ran = cli(*pretrain(model, text, tmp_path / "out", *more))
    assert ran.code == 2
    assert said in ran.err.strip().splitlines()[-1]


def test_a_drafter_of_other_tokens_is_refused(cli, model, answers, text, tmp_path):
    from foretoken.learn.bpe import save_tokenizer, train_bpe

    other = tmp_path / "other"
    assert cli(*pretrain(model, text, other, "--steps", 1)).code == 0
    save_tokenizer(train_bpe(["quite another text"] * 3, 270, 64), other)
    ran = cli(*align(model, answers, tmp_path / "out", "--drafter", other, "--steps", 1))
    assert ran.code == 2
    assert "drafter" in ran.err.strip().splitlines()[-1]
