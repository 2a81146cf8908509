"""`foretoken bench --suite` as people and scripts call it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foretoken.bench.stream_report import StreamReport

Cli = Callable[..., Any]


def few(model: str) -> list[str]:
    return ["bench", "--model", model, "-n", "10", "--dtype", "float32", "--limit", "2", "--no-cut-loops",
            "--methods", "prompt-lookup"]  # fmt: skip


def read(out: str) -> StreamReport:
    return StreamReport.model_validate_json(out.strip().splitlines()[-1])


def test_suites_with_a_peer_and_resuming(cli: Cli, model: str, tmp_path: Path) -> None:
    saved = tmp_path / "table.json"
    call = [*few(model), "--peers", "hf-prompt-lookup", "--save", saved, "--json"]
    ran = cli(*call, "--suite", "gsm8k,samples")
    assert ran.code == 0, ran.err
    report = read(ran.out)
    assert StreamReport.model_validate_json(saved.read_text()) == report
    assert [s.suite for s in report.suites] == ["gsm8k", "samples"]
    assert [f.method for f in report.stream] == ["plain", "prompt-lookup", "hf-prompt-lookup"]
    assert report.suites[1].sampling == {"temperature": 0.8}
    assert [f.identical for f in report.suites[0].figures] == [True, True, True]
    assert [f.identical for f in report.suites[1].figures] == [True, True, None]
    assert report.settings["repeats"] == 1
    assert "the whole stream" in ran.err
    ran = cli(*call, "--suite", "gsm8k,samples,edit", "--resume")
    assert ran.code == 0, ran.err
    again = read(ran.out)
    assert again.suites[:2] == report.suites
    assert again.suites[2].suite == "edit"
    ran = cli(*call, "--suite", "edit", "--resume", "-n", "11")
    assert ran.code == 2
    assert "max_new_tokens was 10, is 11" in ran.err


def test_ctrl_c_before_the_first_suite_is_done_leaves_the_file(
    cli: Cli, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    saved = tmp_path / "table.json"
    saved.write_text("an earlier table")
    monkeypatch.setattr("foretoken.bench.stream.measure", interrupted)
    ran = cli(*few(model), "--suite", "gsm8k", "--save", saved, "--json")
    assert ran.code == 130
    assert read(ran.out).interrupted
    assert saved.read_text() == "an earlier table"


def test_references(cli: Cli, model: str) -> None:
    ran = cli(*few(model), "--suite", "random,gsm8k-llm", "--references", "--json")
    assert ran.code == 0, ran.err
    report = read(ran.out)
    assert all(s.report.mode == "forced" for s in report.suites)
    assert all(f.identical for s in report.suites for f in s.figures)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--suite", "nope"), "nope"),
        (("--suite", "hot", "--references"), "--references"),
        (("--suite", "hot", "--prompts", "x.txt"), "prompts"),
        (("--suite", "hot", "--batch", "2"), "batch"),
        (("--suite", "hot", "--resume"), "--save"),
        (("--suite", "hot", "--parity"), "parity"),
        (("--suite", "hot", "--forced", "x"), "forced"),
        (("--suite", "hot", "--limit", "0"), "limit"),
        (("--suite", "hot", "--keep-learning", "--repeats", "2"), "repeats"),
        (("--suite", "random", "--references", "--peers", "hf"), "peers"),
        (("--keep-learning",), "keep-learning"),
        (("--references",), "references"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_once(cli: Cli, more: tuple[str, ...], named: str) -> None:
    ran = cli("bench", "--model", "no/such/folder", *more)
    assert ran.code == 2
    assert named in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.strip().splitlines()) == 1
