"""foretoken train draft cut and sketch: folders that load, documents, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from foretoken.draft.sketched import domains, load_small
from foretoken.target.narrow import read_widths, widths_of

CPU = torch.device("cpu")
SMALL = ["--dtype", "float32", "--seq", "32", "--batch", "4", "--micro", "4", "--steps", "4",
         "--held-out", "0.4", "--warmup", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def answers(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from foretoken.cli.main import main

    folder = tmp_path_factory.mktemp("data")
    prompts = folder / "prompts.jsonl"
    rows = [{"question": f"What is {n} + {n}?"} for n in range(16)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "draft", "data", "--model", model, "--prompts", str(prompts), "-t", "1",
             "--out", str(folder / "answers"), "-n", "16", "--dtype", "float32", "--loops", "keep"]  # fmt: skip
    assert main(words) == 0
    return folder / "answers"


def cut(model: str, answers: Path, out: Path, *more: Any) -> list[Any]:
    return ["train", "draft", "cut", "--model", model, "--data", answers, "--out", out, *SMALL,
            "--layers", "1", "--params", "14000", "--stages", "2", "--calibration", "128", *more]  # fmt: skip


def sketch(model: str, drafter: Any, answers: Path, out: Path, *more: Any) -> list[Any]:
    return ["train", "draft", "sketch", "--model", model, "--drafter", drafter, "--data", answers,
            "--out", out, *SMALL, "--calibration", "8", *more]  # fmt: skip


def drafted(cli: Any, model: str, *options: str) -> str:
    ran = cli("generate", "Question: 3 + 4?\nAnswer:", "--model", model, "--dtype", "float32",
              "-n", "16", "--policy", "fixed", *options)  # fmt: skip
    assert ran.code == 0, ran.err
    return ran.out


def test_cut_sketch_and_use(cli: Any, model: str, answers: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    ran = cli(*cut(model, answers, out, "--widths", "adaptive", "--vocab", "200", "--json"))
    assert ran.code == 0, ran.err
    made = json.loads(ran.out.splitlines()[-1])
    assert [stage["stage"] for stage in made["stages"]] == [1, 2]
    assert made["stage"] == made["best"]
    assert made["held_out"]["mbsu"] == max(s["worth"]["mbsu"] for s in made["stages"])
    assert str(tmp_path) not in json.dumps(made)
    assert "written" in ran.err
    loaded = tf.AutoModelForCausalLM.from_pretrained(out)
    assert sum(p.numel() for p in loaded.parameters()) == made["parameters"]
    small = load_small(str(out), torch.float32, CPU)
    stage = made["stages"][made["stage"] - 1]
    assert list(widths_of(small).ffn) == stage["ffn"]
    plain = drafted(cli, model, "--method", "plain")
    assert drafted(cli, model, "--method", "lm", "--set", f"model={out}") == plain

    coded = tmp_path / "sketched"
    ran = cli(*sketch(model, out, answers, coded, "--json"))
    assert ran.code == 0, ran.err
    figures = json.loads(ran.out.splitlines()[-1])
    assert set(figures["figures"]) == {"sketched", "tuned"}
    assert figures["bytes"]["tables"] == 2 * figures["trained"]
    assert not (coded / "model.safetensors").exists()
    assert (coded / "vocab_trim.json").exists()
    with pytest.raises(OSError, match="no file named model.safetensors"):
        tf.AutoModelForCausalLM.from_pretrained(coded)
    assert drafted(cli, model, "--method", "lm", "--set", f"model={coded}") == plain

    before = (coded / "sketch.safetensors").read_bytes()
    ran = cli(*sketch(model, coded, answers, coded, "--domain", "sums"))
    assert ran.code == 0, ran.err
    assert domains(coded) == ["sums"]
    assert (coded / "sketch.safetensors").read_bytes() == before
    options = ("--method", "lm", "--set", f"model={coded}", "--set", "domain=sums")
    assert drafted(cli, model, *options) == plain
    ran = cli(*sketch(model, coded, answers, tmp_path / "again"))
    assert ran.code == 2
    assert "domain: '' is not accepted; a name" in ran.err


def test_dense_folders_load_anywhere(cli: Any, model: str, answers: Path, tmp_path: Path) -> None:
    ran = cli(*sketch(model, model, answers, tmp_path / "out", "--dense", "--bits", "2"))
    assert ran.code == 0, ran.err
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        a = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
        small = load_small(str(tmp_path / "out"), torch.float32, CPU)
        b = small(ids).logits
    assert (a - b).abs().max() < 1e-4


def test_even_widths_need_no_side_file(cli: Any, model: str, answers: Path, tmp_path: Path) -> None:
    ran = cli(*cut(model, answers, tmp_path / "out", "--stage", "2"))
    assert ran.code == 0, ran.err
    assert read_widths(tmp_path / "out") is None
    assert tf.AutoConfig.from_pretrained(tmp_path / "out").num_hidden_layers == 1


def test_bad_words_are_told_in_a_line(
    cli: Any, model: str, answers: Path, mamba: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for words, told in (
        (cut(model, answers, out, "--stage", "3"), "stage: '3' is not accepted; best, or a number"),
        (cut(model, answers, out, "--layers", "7"), "layers: 7 is not accepted; at most"),
        (cut(model, answers, out, "--vocab", "100000"), "vocab: 100000 is not accepted"),
        (cut(mamba, answers, out), "family 'mamba' is not one of llama"),
        (sketch(model, model, answers, out, "--bits", "7"), "bits: 7 is not accepted"),
        (sketch(model, model, answers, out, "--domain", "a/b"), "domain: 'a/b' is not accepted"),
        (sketch(model, model, answers, out, "--domain", "a", "--dense"), "dense: True is not"),
        (sketch(model, model, answers, Path(model)), "another folder than that of the drafter"),
    ):
        ran = cli(*words)
        assert ran.code == 2, ran.err
        assert told in ran.err
        assert "Traceback" not in ran.err
