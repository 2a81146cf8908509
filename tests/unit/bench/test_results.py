"""No speed where the text differs; the schema that scripts rely on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from foretoken import registry
from foretoken.bench.contest import Plan
from foretoken.bench.report import Divergence, Report, Spread
from foretoken.bench.results import add_depths, is_failure, make_report
from tests import tiny
from tests.unit.bench import helper, sabotage

PLAN = Plan(max_new_tokens=12, repeats=1, cut_loops=False)


def test_a_wrong_method_silences_every_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._added["verifier"], "flip", sabotage.WHERE)
    out = helper.compare(PLAN, helper.prompts(2), "plain,prompt-lookup,aded:verifier=flip")
    report = make_report(out, tiny.target("llama"))
    assert report.failed
    wrong = report.of("aded:verifier=flip")
    assert wrong.identical is False
    assert wrong.differing_tokens > 0
    assert wrong.first_divergence is not None
    task = out.tasks[wrong.first_divergence.prompt]
    assert wrong.first_divergence.expected == task.expected[wrong.first_divergence.position]
    assert wrong.first_divergence.gap is not None
    assert report.of("prompt-lookup").identical is True
    for result in report.results:
        assert result.tokens_per_s is None
        assert result.ratio_to_plain is None
        assert result.spread is None
        assert result.per_repeat == []
        assert result.seconds is None


def test_the_document_has_the_promised_fields() -> None:
    report = make_report(
        helper.compare(PLAN, helper.prompts(2)), tiny.target("llama"), ["/a/b.txt"]
    )
    document = json.loads(report.model_dump_json())
    assert Report.model_validate(document) == report
    assert {"model", "dtype", "machine", "parameters", "results", "mode", "widen"} <= set(document)
    assert document["prompts"]["files"] == ["b.txt"]  # no paths of this machine
    assert document["parameters"] == sum(p.numel() for p in tiny.model("llama").parameters())
    for result in document["results"]:
        assert result["identical"] is True
        assert result["first_divergence"] is None
        assert set(result["seconds"]) == {"draft", "target", "verify", "other"}
        assert result["tokens_per_s"] > 0
        assert result["tokens_per_step"] >= 1.0
        assert len(result["per_repeat"]) == 1


def test_the_time_adds_up_to_the_wall_clock() -> None:
    out = helper.compare(PLAN, helper.prompts(2))
    report = make_report(out, tiny.target("llama"))
    for result in report.results:
        wall = sum(cell[result.method].wall for cell in out.cells[0])
        assert result.seconds is not None
        assert result.seconds.total == pytest.approx(wall)
        assert result.seconds.other >= 0
        assert result.tokens_per_s == pytest.approx(24 / wall)


def test_the_ratio_is_a_median_over_repeats() -> None:
    out = helper.compare(
        replace(PLAN, repeats=3, max_new_tokens=4), helper.prompts(2), "plain,prompt-lookup"
    )
    for row, factor in zip(out.cells, (1.0, 4.0, 2.0), strict=True):
        for cell in row:  # plain takes 1 s a prompt, the other 1 / factor
            cell["plain"] = replace(cell["plain"], wall=1.0)
            cell["prompt-lookup"] = replace(cell["prompt-lookup"], wall=1.0 / factor)
    result = make_report(out, tiny.target("llama")).of("prompt-lookup")
    assert result.per_repeat == pytest.approx([1.0, 4.0, 2.0])
    assert result.ratio_to_plain == pytest.approx(2.0)
    assert result.tokens_per_s == pytest.approx(8.0)
    assert result.spread == Spread(count=6, min=1.0, q1=1.25, median=2.0, q3=3.5, max=4.0)


def test_what_counts_as_a_failure() -> None:
    def found(tie: bool, drawn: bool = False) -> list[Divergence]:
        place = {"prompt": 0, "position": 0, "expected": 1, "got": 2}
        return [Divergence(**place, gap=0.0, near_tie=tie, drawn=drawn)]

    full = tiny.target("llama")
    assert is_failure(found(True), full, False)
    assert is_failure(found(True), full, True)
    assert not is_failure([], full, False)

    class Low:
        dtype, exact = torch.bfloat16, "default"

    assert not is_failure(found(True), Low(), False)
    assert is_failure(found(False), Low(), False)
    # the last bit of a sum may carry a random number over to the next token
    assert not is_failure(found(True, drawn=True), full, False)
    assert is_failure(found(False, drawn=True), full, False)
    assert not is_failure(found(False), Low(), True)

    class Bitwise:
        dtype, exact = torch.bfloat16, "bitwise"

    assert is_failure(found(True), Bitwise(), False)
    assert not is_failure(found(True), Bitwise(), True)


def test_histograms_of_different_lengths_add_up() -> None:
    assert add_depths([[3, 1], [], [2, 2, 2]]) == [5, 3, 2]
