"""Peers in processes of their own: what they write is compared, what they fail at is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foretoken.bench.contest import Plan
from foretoken.bench.peers import catalog, remote, setup
from foretoken.bench.peers.catalog import Kind
from foretoken.bench.peers.remote import Models, Remote
from foretoken.bench.peers.setup import Environment
from foretoken.bench.results import make_report
from tests import tiny
from tests.unit.bench import helper

PROTOCOL = remote.WORKERS
N = 12
MODES = {"": "plain", "wrong": "", "dies": "", "broken": "", "keeps": ""}
KIND = Kind("echo", "a stand-in", MODES, keeps=("keeps",))
PLAN = Plan(max_new_tokens=N, repeats=2, cut_loops=False)


@pytest.fixture
def prompts():
    return helper.prompts(3)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts) -> Models:
    """A stand-in peer that knows the target's texts."""
    monkeypatch.setattr(catalog, "KINDS", (*catalog.KINDS, KIND))
    monkeypatch.setattr(remote, "WORKERS", Path(__file__).parent)
    monkeypatch.setattr(remote, "python_of", lambda _: Path(sys.executable))
    made = Environment(peer="echo", packages=[], versions={}, seconds=0.0, mb=0.0)
    monkeypatch.setattr(remote, "known", lambda _: made)
    monkeypatch.setenv("ECHO_PROTOCOL", str(PROTOCOL))
    texts = tiny.generate("llama", [p.tokens for p in prompts], N)
    known = {json.dumps(list(p.tokens)): t for p, t in zip(prompts, texts, strict=True)}
    (tmp_path / "texts").write_text(json.dumps(known))
    return Models(str(tmp_path / "texts"), "", str(tmp_path), 1, "float32", 256)


def measured(models: Models, prompts, *modes: str):
    peers = [Remote(f"echo-{mode}" if mode else "echo", KIND, mode, models, []) for mode in modes]
    try:
        out = helper.compare(PLAN, prompts, "plain,prompt-lookup", more=peers)
        return make_report(out, tiny.target("llama"))
    finally:
        for peer in peers:
            peer.close()


def test_text_is_compared_and_every_peer_stands_beside_its_own_plain(models, prompts) -> None:
    report = measured(models, prompts, "", "wrong")
    assert not report.failed
    right, wrong = report.of("echo"), report.of("echo-wrong")
    assert right.identical is True
    assert right.new_tokens == 2 * 3 * N
    assert right.tokens_per_step is None, "it does not count its forwards"
    assert right.first_token_s == 0.001
    assert right.interval is not None
    assert right.interval[0] <= right.ratio_to_plain <= right.interval[1]
    assert wrong.identical is False
    assert wrong.tokens_per_s is None
    assert wrong.ratio_to_own_plain is None
    assert [p.versions for p in report.peers] == [{"echo": "1.0"}] * 2
    assert report.peers[0].peak_mb
    assert report.peers[0].notes == ["float32"]


def test_what_drafts_from_earlier_answers_is_started_anew_to_forget_them(models, prompts) -> None:
    """The stand-in counts its answers: three prompts, each after a short text that is not timed, in
    each of two repeats."""
    report = measured(models, prompts, "keeps")
    assert report.of("echo-keeps").first_token_s == 0.004, "the median of 2, 4, 6 twice"


def test_what_cannot_run_is_told_and_the_others_go_on(models, prompts) -> None:
    report = measured(models, prompts, "broken", "dies", "")
    assert report.missing["echo-broken"] == (
        "ImportError: libecho.so: cannot open shared object file"
    )
    assert "ended (3): loading ... done Fatal: out of memory" in report.missing["echo-dies"]
    assert [r.method for r in report.results] == ["plain", "prompt-lookup", "echo"]
    assert report.of("echo").identical is True


@pytest.mark.parametrize(
    ("made", "says"),
    [(None, "bench setup echo"), ("No matching distribution", "could not be installed: No match")],
)
def test_a_peer_without_an_environment_says_so(models, prompts, monkeypatch, made, says) -> None:
    found = made and Environment(
        peer="echo", packages=[], versions={}, seconds=1.0, mb=1.0, error=made
    )
    monkeypatch.setattr(remote, "known", lambda _: found)
    report = measured(models, prompts, "")
    assert says in report.missing["echo"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="promised by Linux alone")
def test_a_stopped_worker_dies_with_who_asked(models, tmp_path: Path) -> None:
    """The asking process is killed while its worker is stopped: nothing may stay behind."""
    script = f"""
import json, os, subprocess, sys, signal, time
worker = subprocess.Popen([sys.executable, {str(Path(__file__).parent / "echo_worker.py")!r}],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
asked = dict(op="open", mode="", target={models.target!r}, drafter="", work="", threads=1,
             dtype="float32", context=64)
worker.stdin.write(json.dumps(asked) + chr(10)); worker.stdin.flush(); worker.stdout.readline()
worker.send_signal(signal.SIGSTOP)
print(worker.pid, flush=True)
time.sleep(60)
"""
    asking = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    worker = int(asking.stdout.readline())
    asking.kill()
    asking.wait()
    asking.stdout.close()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists() or "Z" in _state(worker):
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_every_peer_has_its_worker_and_labels_are_told_apart() -> None:
    for kind in catalog.KINDS:
        worker = PROTOCOL / f"{kind.name}_worker.py"
        assert worker.exists() == (kind.name != catalog.TRANSFORMERS)
        if worker.exists():
            compile(worker.read_text(), worker.name, "exec")
    labels = [label for kind in catalog.KINDS for label in kind.labels]
    assert len(set(labels)) == len(labels)
    for label in labels:
        kind, mode = catalog.find(label)
        assert label == (f"{kind.name}-{mode}" if mode else kind.name)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", []),
        ("hf-prompt-lookup", ["hf-prompt-lookup"]),
        ("onnx-ngram", ["onnx", "onnx-ngram"]),  # beside its own plain
        ("mlx:all, hf", ["mlx", "mlx-draft", "hf"]),
        ("mlx-draft,mlx,mlx-draft", ["mlx", "mlx-draft"]),
    ],
)
def test_labels_are_chosen(text: str, labels: list[str]) -> None:
    assert catalog.chosen(text) == labels


def test_all_are_all() -> None:
    assert catalog.chosen("all") == [label for kind in catalog.KINDS for label in kind.labels]


def test_environments_are_made_and_failures_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FORETOKEN_CACHE", str(tmp_path))
    good, bad = Kind("good", "", {"": ""}), Kind("bad", "", {"": ""}, (str(tmp_path / "none"),))
    assert setup.known(good) is None
    heard: list[str] = []
    made = setup.make(good, heard.append)
    assert not made.error
    assert "pip" in made.versions
    assert setup.known(good) == made
    assert heard
    failed = setup.make(bad, heard.append)
    assert "none" in failed.error
    assert setup.known(bad) == failed
    other = Kind("good", "", {"": ""}, ("other==1",))
    assert setup.known(other) is None, "made for other packages"
    shutil.rmtree(setup.folder_of(good))
    assert setup.known(good) is None
