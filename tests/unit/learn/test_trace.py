"""Traces: what is recorded is the target's own, and a damaged file is refused by name."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode
from tests import tiny

from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.recorder import Recorder
from foretoken.learn.redact import Permuted, drop_text, permuted
from foretoken.learn.trace import Trace, TracedRequest
from foretoken.target.cost import CostCurve
from foretoken.types import Sampling

CURVE = CostCurve(rows=(1, 9), contexts=(0, 64), seconds=((0.01, 0.02), (0.02, 0.03)))
SAMPLED = Sampling(temperature=1.3, seed=5, repetition_penalty=1.2, logit_bias={3: 1.5})


def record(requests, name="prompt-lookup", **options):
    """A recorder after a run of these requests, one engine with two seats."""
    target = tiny.target("llama")
    recorder = Recorder(target, "mark", curve=CURVE, **options)
    engine = Engine(target, method="plain", max_sessions=2)
    engine.run(requests, tiny.method(target, name), recorder)
    return recorder


def requests(sampling=None, n=3, new=12):
    return [
        replace(tiny.request(tiny.prompt(i, 9 + i), new, sampling), id=f"r{i}", tenant=f"t{i}")
        for i in range(n)
    ]


def same(one: Trace, other: Trace) -> None:
    """Every field of every request is equal."""
    for field in fields(Trace):
        if field.name != "requests":
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    assert len(one.requests) == len(other.requests)
    for a, b in zip(one.requests, other.requests, strict=True):
        for field in fields(TracedRequest):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if isinstance(left, np.ndarray):
                assert left.dtype == right.dtype, field.name
                np.testing.assert_array_equal(left, right)
            else:
                assert left == right, field.name


def sample_trace() -> Trace:
    bare = TracedRequest("bare", [1], [2, 3], prediction=[])
    hot = TracedRequest(
        "hot", [1, 2], [3], {"temperature": 0.5}, "me", [4, 5], seconds=1.5, steps=1
    )
    made = record(requests(SAMPLED)).trace()
    return replace(made, requests=[*made.requests, bare, hot], eos=(7, 8))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "folder" / "a.trace"
    sample_trace().save(path)
    return path


# ------------------------------------------------------------------------------------- recording


@pytest.mark.parametrize("sampling", [None, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ["plain", "prompt-lookup", "random"])
def test_rows_are_the_targets_own_whatever_was_drafted(name, sampling):
    trace = record(requests(sampling), name, top=6).trace()
    assert [r.name for r in trace.requests] == ["r0", "r1", "r2"]
    for i, traced in enumerate(trace.requests):
        assert traced.prompt == tiny.prompt(i, 9 + i)
        assert len(traced.output) == 12
        logprobs = tiny.plain_logits("llama", traced.tokens).log_softmax(-1)[
            len(traced.prompt) - 1 :
        ]
        for j, token in enumerate(traced.output):
            ids = traced.top_tokens[j].tolist()
            expected = logprobs[j, ids]
            torch.testing.assert_close(torch.tensor(traced.top_logprobs[j]), expected)
            best = logprobs[j].topk(6).indices.tolist()
            assert ids == best or (token not in best and ids == [*best[:5], token])
            assert token in ids
    if name == "plain":
        assert [traced.steps for traced in trace.requests] == [12] * 3
    assert all(1 <= traced.steps <= 12 and traced.seconds > 0 for traced in trace.requests)


def test_what_is_known_of_target_and_request():
    trace = record(requests(SAMPLED, 1)).trace()
    (traced,) = trace.requests
    assert (trace.vocab, trace.model, trace.dtype) == (tiny.VOCAB, "llama", "float32")
    assert (trace.tokenizer_hash, trace.curve, trace.max_context) == ("mark", CURVE, 256)
    assert trace.machine["torch"] == torch.__version__
    assert traced.tenant == "t0"
    assert traced.prediction == traced.prompt  # as tests.tiny gives it
    assert Sampling(**traced.sampling) == SAMPLED
    assert traced.limits["max_new_tokens"] == 12
    json.dumps([traced.sampling, traced.limits, trace.machine])


def test_tokens_only():
    (traced,) = record(requests(n=1), top=0).trace().requests
    assert traced.m == 0
    assert traced.top_tokens.shape == traced.top_logprobs.shape == (12, 0)


def test_a_request_that_breaks_off_is_kept_as_far_as_it_got():
    target = tiny.target("llama")
    recorder, engine = Recorder(target), Engine(target, method="plain")
    session = engine.add(requests(n=1)[0])
    for _ in range(4):
        for done in engine.step():
            recorder(*done)
    assert recorder.trace().requests[0].output == session.output
    engine.cancel(session)
    assert recorder.trace().requests[0].output == session.output
    assert len(session.output) == 4


def test_what_it_did_not_see_from_the_start_is_skipped():
    target = tiny.target("llama")
    recorder, engine = Recorder(target), Engine(target, method="plain")
    engine.add(requests(n=1)[0])
    engine.step()
    while steps := engine.step():
        for done in steps:
            recorder(*done)
    assert recorder.skipped == 1
    assert not recorder.trace().requests


def test_it_holds_no_more_than_its_limit():
    recorder = record(requests(n=4), limit=40)  # prompt and output: 21, 22 ... tokens
    assert len(recorder.trace().requests) == 2
    assert recorder.skipped == 2


def test_from_texts():
    trace = Trace.from_texts([([1, 2], [3]), ([4], [5, 6])], 10, eos=(9,), curve=CURVE)
    assert [r.tokens for r in trace.requests] == [[1, 2, 3], [4, 5, 6]]
    assert trace.tokens == 3
    assert [r.m for r in trace.requests] == [0, 0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Trace.from_texts([([1], [10])], 10), "text 0.output"),
        (lambda: Trace.from_texts([([-1], [1])], 10), "text 0.prompt"),
        (lambda: Trace.from_texts([([1], [1])], 10, eos=(12,)), "eos"),
        (lambda: Trace.from_texts([([], [1])], 10), "text 0.prompt"),
        (lambda: Trace.from_texts([([1], [])], 10), "text 0.output"),
        (lambda: Trace([TracedRequest("x", [1], [1], prediction=[77])], 10), "x.prediction"),
        (
            lambda: TracedRequest(
                "x", [1], [1, 2], top_tokens=np.ones((1, 3), np.int32),
                top_logprobs=np.ones((1, 3), np.float32),
            ),
            "x.top_tokens",
        ),
        (lambda: Recorder(tiny.target("llama"), top=-1), "top"),
    ],
)  # fmt: skip
def test_bad_records_are_refused_by_name(make, named):
    with pytest.raises(ConfigError, match=named) as caught:
        make()
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------- redaction


def test_a_dropped_request_leaves_a_count():
    recorder = record(requests(), redact=drop_text)
    assert not recorder.trace().requests
    assert recorder.dropped == 3
    assert "mark" in recorder.trace().tokenizer_hash


def test_a_redaction_sees_the_finished_request():
    def hide(request):
        return replace(request, name="x", prompt=[0] * len(request.prompt))

    trace = record(requests(), redact=hide).trace()
    assert [(r.name, set(r.prompt), len(r.output)) for r in trace.requests] == [("x", {0}, 12)] * 3


def test_permuted_is_a_permutation_that_only_the_secret_tells():
    one, same_, other = (permuted(key, 500) for key in (b"a", b"a", b"b"))
    assert sorted(one.ids(range(500))) == list(range(500))
    assert one.ids(range(500)) == same_.ids(range(500)) != other.ids(range(500))
    with pytest.raises(ConfigError, match="secret"):
        permuted(b"", 500)


def test_permuted_goes_through_everything_that_names_tokens(monkeypatch):
    monkeypatch.setattr(tiny.target("llama"), "eos", (5,))
    sampling = SAMPLED.model_copy(
        update={"bad_words_ids": ((4, 5), (6,)), "suppress_tokens": (9,), "forced_eos_token_id": 8}
    )
    asked = [
        replace(r, limits=r.limits.model_copy(update={"eos_token_ids": (2, 3)}))
        for r in requests(sampling)
    ]
    hook = Permuted(b"secret", tiny.VOCAB)
    clear, hidden = record(asked).trace(), record(asked, redact=hook).trace()
    assert hidden.eos == tuple(hook.ids([5])) != (5,)
    assert hidden.tokenizer_hash not in ("", "mark")
    for a, b in zip(clear.requests, hidden.requests, strict=True):
        assert b.prompt == hook.ids(a.prompt) != a.prompt
        assert b.output == hook.ids(a.output)
        assert b.prediction == hook.ids(a.prediction)
        assert b.top_tokens.tolist() == [hook.ids(row) for row in a.top_tokens.tolist()]
        np.testing.assert_array_equal(a.top_logprobs, b.top_logprobs)
        assert b.sampling["bad_words_ids"] == [hook.ids([4, 5]), hook.ids([6])]
        assert b.sampling["suppress_tokens"] == hook.ids([9])
        assert b.sampling["forced_eos_token_id"] == hook.ids([8])[0]
        assert b.sampling["logit_bias"] == {str(hook.ids([3])[0]): 1.5}
        assert b.sampling["temperature"] == 1.3
        assert b.limits["eos_token_ids"] == hook.ids([2, 3])
        assert a.name not in b.name
        assert a.tenant not in b.tenant


# ------------------------------------------------------------------------------------------- file


def test_a_trace_survives_its_file(tmp_path):
    trace = sample_trace()
    trace.save(tmp_path / "a.trace")
    same(Trace.load(tmp_path / "a.trace"), trace)
    empty = replace(trace, requests=[], curve=None)
    empty.save(tmp_path / "a.trace")  # over the old one
    same(Trace.load(tmp_path / "a.trace"), empty)


def refused(path, tokenizer=None):
    with pytest.raises(ArtifactError) as caught:
        Trace.load(path, tokenizer)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_trace_of_another_tokenizer_is_refused(saved):
    assert Trace.load(saved, "mark").tokenizer_hash == "mark"
    assert "tokenizer mark" in refused(saved, "other")


def test_a_missing_file_is_named(tmp_path):
    assert "no such file" in refused(tmp_path / "none.trace")


def test_any_flipped_bit_is_noticed(saved):
    content = saved.read_bytes()
    for at in np.linspace(9, len(content) - 1, 60).astype(int).tolist():
        saved.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        refused(saved)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    refused(saved)


def test_other_versions_and_other_files_are_refused(saved):
    import foretoken.learn.trace_file as file

    metadata, arrays = file._read(saved)
    saved.write_bytes(encode(arrays, {**metadata, "version": "2"}))
    assert "version 2; this foretoken reads 1" in refused(saved)
    saved.write_bytes(encode(arrays, {"format": "pt"}))
    assert "not a trace" in refused(saved)
    header = json.loads(metadata["header"])
    header["requests"][0]["output"] += 1  # consistent as a file, and yet no trace
    text = json.dumps(header)
    metadata = {**metadata, "header": text, "sha256": file._checksum(text, arrays)}
    saved.write_bytes(encode(arrays, metadata))
    assert "not a readable trace" in refused(saved)
    assert set(decode(saved.read_bytes())) == {"tokens", "top_tokens", "top_logprobs"}


def test_a_save_that_fails_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="disk full"):
        replace(sample_trace(), requests=[]).save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
