"""Engines of `foretoken bench setup` under audit, by a stand-in for one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from foretoken.audit.engines import parse
from foretoken.audit.peer import PeerEngine
from foretoken.bench.peers import catalog, remote
from foretoken.bench.peers.catalog import Kind
from foretoken.bench.peers.remote import Models, Remote
from foretoken.errors import ConfigError
from foretoken.target.load import Loaded
from foretoken.types import Sampling

KIND = Kind("echo", "a stand-in", {"": "plain"})
ECHO = Path(__file__).parents[1] / "bench" / "peers"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from foretoken.bench.peers.setup import Environment

    monkeypatch.setenv("ECHO_PROTOCOL", str(remote.WORKERS))
    monkeypatch.setattr(remote, "WORKERS", ECHO)
    monkeypatch.setattr(remote, "python_of", lambda _: Path(sys.executable))
    made = Environment(peer="echo", packages=[], versions={}, seconds=0.0, mb=0.0)
    monkeypatch.setattr(remote, "known", lambda _: made)
    (tmp_path / "texts").write_text(json.dumps({"[5, 6]": [7, 8, 9, 1, 2]}))
    peer = Remote("echo", KIND, "", Models(str(tmp_path / "texts"), "", "", 1, "float32", 64), [1])
    peer.open()
    yield PeerEngine("peer:echo", peer, Sampling(temperature=0.7))
    peer.close()


def test_it_is_asked_as_any_engine(engine: PeerEngine) -> None:
    assert engine.greedy([5, 6], 3) == [7, 8, 9]
    assert engine.greedy([5, 6], 5) == [7, 8, 9, 1], "up to the end of text"
    assert engine.sample([5, 6], 2, 3, seed=4) == [[7, 8, 9]] * 3, "one more than is counted"
    assert engine.what == "a stand-in, echo 1.0; float32"


@pytest.mark.parametrize("name", ["peer:hf", "peer:nobody", "peer:"])
def test_unknown_ones_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        parse(name, "fixed")


def test_every_label_is_known() -> None:
    for kind in catalog.KINDS[1:]:
        for label in kind.labels:
            parse(f"peer:{label}", "fixed")


def test_it_is_opened_with_the_audited_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from foretoken.audit import peer

    asked: list[tuple] = []
    facts = SimpleNamespace(versions={}, notes=[])
    made = SimpleNamespace(open=lambda: None, facts=facts, kind=KIND)
    monkeypatch.setattr(peer, "remote", lambda *how: asked.append(how) or made)
    setup = SimpleNamespace(
        reference=SimpleNamespace(dtype="float32", eos={1}), sampling=Sampling(temperature=1.0),
        model="folder", target=Loaded(SimpleNamespace(max_context=64), None, None),
    )  # fmt: skip
    opened = parse("peer:onnx", "fixed")(setup)
    assert opened.name == "peer:onnx"
    assert asked == [("onnx", Path("folder"), "float32", 64, [1])]
