"""foretoken demo: the report of `bench` on the bundled prompts, and what is shown while it runs."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from rich.control import strip_control_codes

from foretoken.bench.report import Report
from foretoken.cli.demo_show import Lines, report_table, watch_for, words
from foretoken.prompt.samples import demo_prompts

QUICK = ("--prompts", 1, "-n", 24, "--no-cut-loops", "--dtype", "float32")


@pytest.fixture(scope="module")
def document(model, tmp_path_factory):
    import os

    from typer.testing import CliRunner

    from foretoken.cli.main import app

    os.environ["FORETOKEN_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    arguments = ["demo", "--model", model, *map(str, QUICK), "--json"]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    return ran.stdout.splitlines()[-1]


def test_json_is_the_document_of_bench(document):
    report = Report.model_validate_json(document)
    assert [result.method for result in report.results] == ["plain", "auto"]
    assert all(result.identical for result in report.results)
    assert report.prompts.used == 2
    assert report.of("plain").ratio_to_plain == 1.0
    assert report.of("plain").tokens_per_step == 1.0
    assert report.of("auto").new_tokens == report.of("plain").new_tokens
    assert {"model", "dtype", "machine", "parameters", "results"} <= set(json.loads(document))


def test_progress_goes_to_stderr_and_the_table_to_stdout(cli, model):
    ran = cli("demo", "--model", model, *QUICK, "--method", "prompt-lookup")
    assert ran.code == 0, ran.err
    for name in ("code 1", "maths 1", "tokens/s", "measuring"):
        assert name in ran.err
    assert "prompt-lookup" in ran.out
    assert "distinct 4-grams" in ran.out
    assert "\x1b" not in ran.out + ran.err


def test_a_different_text_is_shown_as_such_and_without_speed(document):
    from foretoken.bench.report import Divergence

    good = Report.model_validate_json(document)
    first = Divergence(prompt=1, position=3, expected=5, got=6, gap=0.25, near_tie=False)
    bad = good.of("auto").model_copy(
        update={
            "identical": False,
            "first_divergence": first,
            "tokens_per_s": None,
            "seconds": None,
        }
    )
    report = good.model_copy(update={"results": [good.results[0], bad], "failed": True})
    out = io.StringIO()
    report_table(Console(file=out, width=140), report)
    assert "NO" in out.getvalue()
    assert "prompt 1 at token 3: 6 instead of 5" in out.getvalue()
    assert "no speed" in out.getvalue()


def test_a_widened_model_is_said_to_be_one(document):
    report = Report.model_validate_json(document)
    assert not any("widen" in line for line in words(report))
    assert any("--widen 8" in line for line in words(report.model_copy(update={"widen": 8})))


def test_columns_fill_up_with_the_text_of_both(model):
    from foretoken.bench.contest import Plan
    from foretoken.bench.own import Own
    from foretoken.bench.prompts import Prompt
    from foretoken.bench.run import measure
    from foretoken.bench.spec import PLAIN, Spec
    from foretoken.cli.opening import open_engine
    from foretoken.cli.options import MethodOptions, TargetOptions

    engine = open_engine(TargetOptions(model, "float32"), MethodOptions("plain"))
    own = [Own(engine, PLAIN), Own(engine, Spec("aded", "aded", "fixed"))]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=30)
    prompts = [Prompt("code 1", engine.tokenizer.encode("def add("), "def add(")]
    with watch_for(console, engine.tokenizer, ["plain", "aded"]) as watch:
        found = measure(engine, own, prompts, Plan(24, 1, cut_loops=False), watch)
        texts = {name: side.text.plain for name, side in watch.sides.items()}
    whole = engine.tokenizer.decode(found.tasks[0].expected, skip_special_tokens=True)
    expected = strip_control_codes(whole)  # rich shows none
    assert texts == {"plain": expected, "aded": expected}
    assert watch.sides["aded"].text.spans
    assert not watch.sides["plain"].text.spans
    assert "drafted and accepted" in out.getvalue()


def test_no_terminal_gets_lines():
    with watch_for(Console(file=io.StringIO()), None, []) as watch:
        assert isinstance(watch, Lines)


def test_prompts_are_there():
    code, maths = demo_prompts("code", 20), demo_prompts("maths", 20)
    assert len(set(code)) == len(set(maths)) == 20
    assert all("def " in text for text in code)
    assert all(t.startswith("Question: ") and t.endswith("\nAnswer:") for t in maths)


def test_svg_saves_the_table(cli, model, tmp_path):
    picture = tmp_path / "demo.svg"
    ran = cli("demo", "--model", model, *QUICK, "--svg", picture)
    assert ran.code == 0, ran.err
    assert picture.read_text().startswith("<svg")
    assert "tokens/step" in picture.read_text().replace("&#160;", " ")
