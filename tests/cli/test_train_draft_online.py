"""foretoken train draft online: a table for people, a document for programs, a picture."""

import json
from pathlib import Path

import pytest

from foretoken.learn.online.stream_report import StreamOfTopics


@pytest.fixture
def topics(tmp_path: Path) -> list[Path]:
    out = []
    for name in ("sums", "loops", "again"):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"question": f"{name}: what is {n} + {n}?"} for n in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out.append(path)
    return out


def words(model, topics, *more):
    named = [word for path in topics for word in ("--prompts", path)]
    return ["train", "draft", "online", "--model", model, "--dtype", "float32", "-n", "8",
            "--window", "2", *named, *more]  # fmt: skip


def test_a_stream(cli, model, drafter, topics, tmp_path):
    save = tmp_path / "online.json"
    ran = cli(*words(model, topics, "--drafter", drafter, "--json", "--save", save,
                     "--set", "interval=2", "--set", "lr=0.01"))  # fmt: skip
    assert ran.code == 0, ran.err
    made = StreamOfTopics.model_validate_json(ran.out.splitlines()[-1])
    assert made == StreamOfTopics.model_validate_json(save.read_text())
    assert made.topics == ["sums", "loops", "again"]
    assert made.drafter == "drafter"
    assert str(tmp_path) not in save.read_text()
    assert [lane.label for lane in made.lanes] == [
        "static", "osd", "osd+select", "osd+route",
    ]  # fmt: skip
    assert all(lane.different == 0 for lane in made.lanes)
    assert save.with_suffix(".svg").read_text().startswith("<svg")
    assert "recovery" in ran.err


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (("--set", "loss=kl"), "osd.loss"),
        (("--set", "foo=1"), "osd.foo"),
        (("--window", "9"), "window"),
        (("--window", "0"), "window"),
        (("--limit", "0"), "limit"),
        (("--save", "/not/there/x.json"), "save"),
        (("--save", "x.svg"), "save"),
        (("--drafter", "/not/there"), "osd.model"),
        (("--prompts", "missing.jsonl"), "prompts"),
    ],
)
def test_what_is_wrong_is_one_line(cli, model, topics, more, field):
    ran = cli(*words(model, topics, *more))
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith(f"foretoken: {field}: ")
    assert "Traceback" not in ran.err


def test_no_drafter_beside_the_model(cli, model, topics):
    ran = cli(*words(model, topics))
    assert ran.code == 2
    assert "osd.model: None" in ran.err
