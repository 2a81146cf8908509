"""`foretoken audit` as people and scripts call it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foretoken.audit.report import AuditReport

Cli = Callable[..., Any]
ENGINE = "import torch\n\ndef {name}(prompt_ids, n, temperature, top_p, top_k, seed):\n    {body}\n"


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "def add(a, b):\n    return"}, {"prompt": "for i in range("}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def few(model: str, prompts: str) -> list[str]:
    return [
        "audit", "--model", model, "--prompts", prompts, "--max-new-tokens", "12", "--samples",
        "200",
    ]  # fmt: skip


def test_exact_engines(cli: Cli, model: str, prompts: str, tmp_path: Path) -> None:
    page = tmp_path / "report.md"
    ran = cli(
        *few(model, prompts), "-e", "foretoken:plain", "-e", "foretoken:random:nodes=6",
        "-e", "hf", "--self-test", "--json", "--page", page,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "samples of 3 tokens per engine" in ran.err.splitlines()[0], "said before sampling"
    report = AuditReport.model_validate_json(ran.out.strip().splitlines()[-1])
    assert [e.verdict for e in report.engines] == ["exact as far as tested"] * 3
    assert [e.greedy.same for e in report.engines if e.greedy] == [2, 2, 2]
    assert len(report.self_test) == 5
    assert report.plan is not None
    assert report.plan.tests == 16
    assert len(report.model_hash) == 64
    text = page.read_text()
    assert report.model_hash in text
    assert (
        f"foretoken audit --engine foretoken:plain --engine foretoken:random:nodes=6 --engine hf --model {model}"
        in text
    )


def test_a_fault_ends_with_1(cli: Cli, model: str, prompts: str, tmp_path: Path) -> None:
    engine = tmp_path / "mine.py"
    engine.write_text(ENGINE.format(name="mine", body="return [5] * n"))
    page = tmp_path / "report.html"
    ran = cli(*few(model, prompts), "-e", f"python:{engine}:mine", "--json", "--page", page)
    assert ran.code == 1
    report = AuditReport.model_validate_json(ran.out.strip().splitlines()[-1])
    [result] = report.engines
    assert result.greedy is not None
    assert result.greedy.faults > 12
    assert result.sampling is not None
    assert result.sampling.failed
    assert "FAULT" in ran.err
    assert "a fault was found" in page.read_text()


def test_greedy_alone_draws_nothing(cli: Cli, model: str, prompts: str) -> None:
    ran = cli(*few(model, prompts), "--no-sampling", "-e", "foretoken:prompt-lookup", "--json")
    assert ran.code == 0, ran.err
    report = AuditReport.model_validate_json(ran.out.strip().splitlines()[-1])
    assert report.plan is None
    assert report.engines[0].sampling is None
    assert "samples of" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-e", "magic"], "hf-prompt-lookup"),
        (["-e", "foretoken:magic"], "magic"),
        (["-e", "vllm:x"], "not installed"),
        (["-e", "http:http://x"], "api-model"),
        (["--samples", "10"], "samples"),
        (["--effect", "0"], "effect"),
        (["--power", "1"], "power"),
        (["--false-alarms", "2"], "false-alarms"),
        (["--tokens", "0"], "tokens"),
        (["--temperature", "0"], "--no-sampling"),
        (["--top-p", "2"], "top_p"),
        (["--no-greedy", "--no-sampling"], "nothing would be tested"),
        (["--no-sampling", "--self-test"], "self-test"),
        (["--page", "x.pdf"], ".html or .md"),
        (["--dtype", "int4"], "bfloat16"),
        (["--limit", "0"], "limit"),
        (["--prompts", "none.txt"], "none.txt"),
        (["--policy", "odd"], "odd"),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli, model: str, prompts: str, arguments: list[str], says: str
) -> None:
    ran = cli(*few(model, prompts), *arguments)
    assert ran.code == 2, ran.err
    last = ran.err.strip().splitlines()[-1]
    assert says in last
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_an_interrupt_leaves_a_page(
    process: Callable[..., Any], model: str, prompts: str, tmp_path: Path
) -> None:
    engine, begun, page = tmp_path / "slow.py", tmp_path / "begun", tmp_path / "report.md"
    body = f"import time, pathlib; pathlib.Path({str(begun)!r}).touch(); time.sleep(0.01); return [5] * n"
    engine.write_text(ENGINE.format(name="slow", body=body))
    started = process(
        *few(model, prompts), "--no-greedy", "--samples", 100000, "-e", f"python:{engine}:slow",
        "--page", page,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not begun.exists() and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 130, err.decode()
    assert "Interrupted" in page.read_text()
