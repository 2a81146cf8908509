"""`foretoken tune` as people and scripts call it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foretoken.registry import DEFAULT_METHOD, DEFAULT_POLICY
from foretoken.target.cost import CostCurve
from foretoken.tune.report import EXP3, OPTIMUM, PLAIN, UCB, TuneReport

Cli = Callable[..., Any]
CURVE = CostCurve(rows=(1, 65), contexts=(64,), seconds=((0.05, 0.15),))


@pytest.fixture(autouse=True)
def _known_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretoken.target.cost.cost_curve", lambda *_: CURVE)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": f"def f{i}(a):", "reference": "    return a\n" * 4, "prediction": "return"}
        for i in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def last(ran: Any) -> TuneReport:
    return TuneReport.model_validate_json(ran.out.strip().splitlines()[-1])


def test_own_prompts(cli: Cli, model: str, prompts: Path, tmp_path: Path) -> None:
    trace, saved = tmp_path / "own.trace", tmp_path / "out.json"
    what = ["--methods", f"prompt-lookup,{DEFAULT_METHOD}", "--policies", "fixed,cost-model"]
    ran = cli(
        "tune", "--model", model, "--dtype", "float32", "--prompts", prompts, "-n", 24, *what,
        "--save-trace", trace, "--json", "--save", saved,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report = last(ran)
    assert TuneReport.model_validate_json(saved.read_text()) == report
    assert (report.source.requests, report.source.text) == (3, "own")
    assert report.source.tokens <= 72
    assert "virtual clock" in report.source.clock
    names = {(row.method, row.policy) for row in report.rows}
    drafting = {(m, p) for m in ("prompt-lookup", DEFAULT_METHOD) for p in ("fixed", "cost-model")}
    assert names == {*drafting, (UCB, ""), (EXP3, ""), (PLAIN, "")}
    plain = next(row for row in report.rows if row.method == PLAIN)
    assert plain.tokens_per_second == pytest.approx(20.0)
    assert report.optimum is not None
    assert report.optimum.method == OPTIMUM
    for row in report.rows:
        assert row.ratio == pytest.approx(row.tokens_per_second / 20.0)
        made = report.optimum.tokens_per_second / row.tokens_per_second
        assert row.regret == pytest.approx(made - 1.0)
    assert report.advice is not None
    assert report.advice.command.startswith("foretoken generate")
    for word in ("Use", report.advice.why[:20], "tok/step", "virtual clock"):
        assert word in ran.err
    assert max(len(line) for line in ran.err.splitlines()) <= 80

    again = cli("tune", "--trace", trace, *what, "--json")  # no model: the same text, nothing run
    assert again.code == 0, again.err
    repeated = last(again)
    assert (repeated.source.trace, repeated.source.tokens) == ("own.trace", report.source.tokens)
    assert {(row.method, row.policy) for row in repeated.rows} == names
    other = cli("tune", "--trace", trace, "--policies", "fixed")  # every method
    assert other.code == 0, other.err
    assert "aded" in other.err
    # the advice can be typed
    words = shlex.split(last(again).advice.command)[1:]  # type: ignore[union-attr]
    assert words[-1] == "PROMPT"
    typed = cli(*words[:1], "--model", model, *words[1:-1], "def f(a):", "-n", 4)
    assert typed.code == 0, typed.err


def test_reference_texts(cli: Cli, model: str, prompts: Path) -> None:
    ran = cli("tune", "-m", model, "--forced", prompts, "--methods", "predicted,prompt-lookup",
              "--policies", DEFAULT_POLICY, "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    report = last(ran)
    assert report.source.text == "forced"
    assert "reference text" in ran.err
    best = max(report.rows, key=lambda row: row.ratio)
    assert best.tokens_per_step > 1.2  # the texts repeat themselves, whatever the model would say
    assert "predicted" in {row.method for row in report.rows}  # the prompts carry predictions


def test_scorecard_and_picture(cli: Cli, model: str, prompts: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "card.svg"
    arguments = [
        "tune", "-m", model, "--prompts", prompts, "--limit", 1, "-n", 8, "--methods",
        "prompt-lookup", "--policies", "fixed", "--scorecard", "--scenarios", "outage,back",
        "--phase-tokens", 100, "--picture", drawn, "--json",
    ]  # fmt: skip
    ran = cli(*arguments)
    assert ran.code == 0, ran.err
    card = last(ran).scorecard
    assert card is not None
    outage, back = card.scenarios
    assert [outage.name, back.name] == ["outage", "back"]
    for played in card.scenarios:
        assert played.lanes[0].method == OPTIMUM
        assert played.lanes[0].score.regret == 0.0
        assert played.lanes[-1].method == PLAIN
        assert played.lanes[-1].score.ratio == 1.0
        assert {lane.method for lane in played.lanes[1:-1]} == {"prompt-lookup", UCB, EXP3}
        assert all(lane.score.regret >= 0.0 for lane in played.lanes)
        assert [len(lane.score.recovery) for lane in played.lanes] == [2] * len(played.lanes)
    assert outage.lanes[0].score.forgetting is None
    assert back.lanes[0].score.forgetting is not None
    single = next(lane for lane in outage.lanes if lane.method == "prompt-lookup")
    assert single.score.floor == pytest.approx(1.0, abs=0.1)
    for word in ("outage", "recovery", "drop", "kept", "working again"):
        assert word in ran.err
    assert max(len(line) for line in ran.err.splitlines()) <= 80
    assert drawn.read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--methods", "lm"], "methods: 'lm'"),
        (["--methods", "no-such"], "method: 'no-such'"),
        (["--policies", "no-such"], "policy: 'no-such'"),
        (["--limit", "0"], "limit: 0"),
        (["--temperature", "-1"], "temperature: -1"),
        (["--prompts", "no-such.txt"], "prompts: 'no-such.txt'"),
        (["--trace", "no-such.trace"], "no-such.trace: "),
        (["--trace", "x", "--prompts", "y"], "prompts: 'y'"),
        (["--trace", "x", "-t", "0"], "temperature: '0.0'"),
        (["--picture", "x.png"], "picture: 'x.png'"),
        (["--scorecard", "--picture", "x.pdf"], "picture: 'x.pdf'"),
        (["--scorecard", "--scenarios", "storm"], "scenarios: 'storm'"),
        (["--scorecard", "--phase-tokens", "0"], "phase-tokens: 0"),
        (["--save", "/no/such/folder/x.json"], "save: "),
        (["--save-trace", "/no/such/folder/x.trace"], "save-trace: "),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_fields_are_one_line_and_exit_2(
    cli: Cli, model: str, arguments: list[str], named: str
) -> None:
    ran = cli("tune", *([] if "--trace" in arguments else ["--model", model]), *arguments)
    assert ran.code == 2
    assert len(ran.err.strip().splitlines()) == 1, ran.err
    assert named in ran.err
    assert ran.out == ""


def test_a_trace_of_another_tokenizer_is_refused(
    cli: Cli, model: str, prompts: Path, tmp_path: Path
) -> None:
    from foretoken.learn.trace import Trace

    Trace.from_texts([([1, 2], [3, 4])], 300, tokenizer_hash="other", curve=CURVE).save(
        tmp_path / "x.trace"
    )
    ran = cli("tune", "--trace", tmp_path / "x.trace", "--model", model)
    assert ran.code == 2
    assert "x.trace: recorded with the tokenizer other" in ran.err
    ran = cli("tune", "--trace", tmp_path / "x.trace", "--scorecard", "--methods", "aded")
    assert ran.code == 2
    assert "scorecard: " in ran.err


def test_ctrl_c_keeps_what_was_recorded(
    cli: Cli, model: str, prompts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from foretoken.learn.recorder import Recorder
    from foretoken.learn.trace import Trace

    seen = Recorder.__call__
    calls = []

    def interrupted(self: Any, session: Any, step: Any) -> None:
        seen(self, session, step)
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "__call__", interrupted)
    kept = tmp_path / "kept.trace"
    ran = cli("tune", "-m", model, "--prompts", prompts, "-n", 24, "--methods", "prompt-lookup",
              "--policies", "fixed", "--save-trace", kept, "--json")  # fmt: skip
    assert ran.code == 130, ran.err
    report = last(ran)
    assert report.interrupted
    assert report.source.tokens == 30 == Trace.load(kept).tokens
    assert "interrupted" in ran.err
    assert {row.method for row in report.rows} >= {"prompt-lookup", PLAIN}
