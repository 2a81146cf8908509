"""foretoken generate: the same text as the library's, whichever way the prompt comes."""

from __future__ import annotations

import io
import json
import shutil
import signal
import time
from types import SimpleNamespace

import pytest

PROMPT = "def add(a, b):\n"


@pytest.fixture(scope="module")
def expected(model):
    """Text of 24 greedy tokens by transformers itself."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    out = lm.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(out, skip_special_tokens=True)


def call(cli, model, *arguments):
    return cli("generate", "--model", model, "--dtype", "float32", "-n", 24, *arguments)


@pytest.mark.parametrize("method", ["aded", "plain", "prompt-lookup"])
def test_text_is_the_models_own(cli, model, expected, method):
    ran = call(cli, model, PROMPT, "--method", method)
    assert ran.code == 0, ran.err
    assert ran.out == expected + "\n" * (not expected.endswith("\n"))
    assert "tokens/s" in ran.err
    assert method in ran.err


def test_json_is_the_last_line_of_stdout(cli, model, expected):
    ran = call(cli, model, PROMPT, "--json", "--nodes", 4)
    assert ran.code == 0, ran.err
    document = json.loads(ran.out.splitlines()[-1])
    assert document["text"] == expected
    assert document["model"] == model
    assert document["dtype"] == "float32"
    assert document["guarantee"] == "exact"
    assert len(document["tokens"]) == len(document["drafted"]) == document["statistics"]["tokens"]
    assert sum(document["drafted"]) == document["statistics"]["accepted"]
    assert set(document["statistics"]["seconds"]) == {"draft", "target", "verify", "other"}


def test_prompt_from_file_and_from_stdin(cli, model, expected, tmp_path, monkeypatch):
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT)
    assert json.loads(call(cli, model, "--file", file, "--json").out)["text"] == expected
    typed = io.BytesIO(f"{PROMPT}\n".encode())  # `echo` adds a newline
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=typed, isatty=lambda: False))
    assert json.loads(call(cli, model, "--json").out)["text"] == expected


def test_a_file_that_is_no_text_is_refused(cli, tmp_path):
    file = tmp_path / "prompt.bin"
    file.write_bytes(b"\xff\xfe\xff")
    ran = cli("generate", "--file", file)
    assert ran.code == 2
    assert "UTF-8" in ran.err


def test_chat_uses_the_template(cli, model):
    question = "How many eggs?"
    chat = json.loads(call(cli, model, question, "--chat", "--json").out)
    raw = json.loads(call(cli, model, f"Question: {question}\nAnswer:", "--json").out)
    assert chat["tokens"] == raw["tokens"]


def test_stop_string_ends_the_text_before_it(cli, model, expected):
    stop = expected[5:7]
    ran = call(cli, model, PROMPT, "--stop", stop, "--json")
    assert json.loads(ran.out)["text"] == expected[: expected.find(stop)]
    assert json.loads(ran.out)["finish_reason"] == "stop"


def test_show_draft_colours_accepted_tokens_and_changes_no_text(cli, model, expected, monkeypatch):
    import re

    monkeypatch.setenv("FORCE_COLOR", "1")
    method = ("--policy", "fixed", "--nodes", 8)
    ran = call(cli, model, PROMPT, "--show-draft", *method)
    assert "\x1b[32m" in ran.out
    assert re.sub(r"\x1b\[\d+m", "", ran.out).rstrip("\n") == expected.rstrip("\n")
    plain = call(cli, model, PROMPT, "--show-draft", "--method", "plain")
    assert "\x1b" not in plain.out


def test_a_seed_gives_the_same_sample_again(cli, model):
    draws = [
        json.loads(call(cli, model, PROMPT, "--json", "-t", 1, "--seed", s).out)["tokens"]
        for s in (3, 3, 4)
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", "leats=1", PROMPT], "auto.leats"),
        (["--set", "least=7", PROMPT], "auto.least: 7"),
        (["--policy", "nothing", PROMPT], "cost-model"),
        (["--policy-set", "wide=3", PROMPT], "cost-model.wide"),
        (["--dtype", "float3", PROMPT], "bfloat16"),
        (["--device", "toaster", PROMPT], "device: 'toaster'"),
        ([""], "at least one token"),
        (["a b " * 1100], "context of 1024"),
        (["--stop", "", PROMPT], "stop"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(cli, model, arguments, named):
    ran = call(cli, model, *arguments)
    assert ran.code == 2
    assert named in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert ran.out == ""


def test_missing_model(cli, tmp_path):
    ran = call(cli, tmp_path / "nothing", PROMPT)
    assert ran.code == 2
    assert ran.err.startswith("foretoken: model: ")
    assert len(ran.err.strip().splitlines()) == 1


def test_refused_family_is_named(cli, mamba):
    ran = call(cli, mamba, PROMPT)
    assert ran.code == 2
    assert "'mamba'" in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_interrupt_in_the_middle_keeps_what_was_written(cli, model, expected, monkeypatch):
    from foretoken.engine.engine import Engine

    step, count = Engine.step, 0

    def interrupted(self):
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupted)
    ran = call(cli, model, PROMPT, "--json", "--method", "plain")
    assert ran.code == 130
    document = json.loads(ran.out.splitlines()[-1])
    assert document["finish_reason"] == "cancelled"
    assert len(document["tokens"]) == 5
    assert expected.startswith(document["text"].rstrip("\N{REPLACEMENT CHARACTER}"))


def test_sigint_prints_the_partial_text_and_exits_130(process, model, tmp_path):
    endless = tmp_path / "endless"  # a context that is not full before the signal comes
    shutil.copytree(model, endless)
    config = json.loads((endless / "config.json").read_text())
    (endless / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**6}))
    ran = process(
        "generate", "--model", endless, "--ignore-eos", "-n", 10**5, "--method", "plain", PROMPT
    )
    first = ran.stdout.read1()  # blocks until the first text is there
    time.sleep(0.2)
    ran.send_signal(signal.SIGINT)
    rest, err = ran.communicate(timeout=120)
    assert ran.returncode == 130, err
    assert len(first + rest) > len(first) > 0
    assert b"Traceback" not in err
    assert b"ended by cancelled" in err


def test_a_trace_grows_call_by_call(cli, model, tmp_path):
    """What was written can be read again; nothing else of the output changes."""
    from foretoken.learn.trace import Trace

    path = tmp_path / "a.trace"
    asked = [("--seed", 1, "-t", 1), ("--method", "plain")]
    written = [
        json.loads(call(cli, model, PROMPT, "--json", "--trace", path, *more).out) for more in asked
    ]
    without = json.loads(call(cli, model, PROMPT, "--json", "--method", "plain").out)
    assert written[1]["tokens"] == without["tokens"]
    requests = Trace.load(path).requests
    assert [r.output for r in requests] == [document["tokens"] for document in written]
    assert requests[0].sampling == {"temperature": 1.0, "seed": 1}
    assert requests[0].m == 16


def test_an_interrupted_text_is_in_the_trace(cli, model, tmp_path, monkeypatch):
    from foretoken.engine.engine import Engine
    from foretoken.learn.trace import Trace

    step, count = Engine.step, 0

    def interrupted(self):
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupted)
    path = tmp_path / "a.trace"
    ran = call(cli, model, PROMPT, "--json", "--method", "plain", "--trace", path)
    assert ran.code == 130
    assert [r.output for r in Trace.load(path).requests] == [json.loads(ran.out)["tokens"]]


@pytest.mark.parametrize("damage", ["corrupt", "foreign", "folder", "nowhere"])
def test_a_trace_that_cannot_be_added_to_is_refused(cli, model, tmp_path, damage):
    from foretoken.learn.trace import Trace

    path = tmp_path / "a.trace"
    if damage == "corrupt":
        path.write_bytes(b"no trace")
    elif damage == "foreign":
        Trace.from_texts([([1], [2])], 300, tokenizer_hash="of another").save(path)
    else:
        path = tmp_path if damage == "folder" else tmp_path / "nothing" / "a.trace"
    before = path.read_bytes() if path.is_file() else None
    ran = call(cli, model, PROMPT, "--trace", path)
    assert ran.code == 2
    assert str(path) in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert ran.out == ""
    assert (path.read_bytes() if path.is_file() else None) == before


def test_explain_says_who_proposed_what(cli, model):
    ran = call(cli, model, "--explain", "--json", PROMPT)
    assert ran.code == 0, ran.err
    document = json.loads(ran.out.splitlines()[-1])
    steps, counted = document["explained"]["steps"], document["statistics"]
    assert sum(len(step["tokens"]) for step in steps) == counted["tokens"]
    assert sum(step["accepted"] for step in steps) == counted["accepted"]
    assert all(len(step["by"]) == len(step["tokens"]) for step in steps)
    assert sum(sum(step["drafted"].values()) for step in steps) == counted["drafted"]
    assert "expected" in ran.err
    assert "Sources" in ran.err
