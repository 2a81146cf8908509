"""The measurement: order, forgetting, cutting, forced mode, interruption."""

from __future__ import annotations

from collections.abc import Sequence
from time import sleep
from typing import Any

import pytest

from foretoken.bench.contest import Plan, Run, Task, Watch
from foretoken.bench.loops import SHORTEST, loop_start
from foretoken.bench.results import make_report
from foretoken.bench.run import rotated
from foretoken.errors import ConfigError
from foretoken.types import Sampling
from tests import tiny
from tests.unit.bench import helper


class Log(Watch):
    """Notes what happened."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.order: list[tuple[str, tuple[int, ...]]] = []
        self.tokens: dict[str, list[int]] = {}
        self.runs = 0

    def phase(self, name: str, total: int) -> None:
        self.phases.append((name, total))

    def start(self, method: str, tasks: Sequence[Task]) -> None:
        self.order.append((method, tuple(task.index for task in tasks)))

    def step(self, method: str, task: Task, session: Any, step: Any) -> None:
        self.tokens.setdefault(f"{method} {task.index}", []).extend(step.committed.tokens)

    def done(self, run: Run) -> None:
        self.runs += 1


def test_methods_are_interleaved_and_rotated() -> None:
    log = Log()
    plan = Plan(max_new_tokens=8, repeats=2, cut_loops=False)
    out = helper.compare(plan, helper.prompts(3), watch=log)
    a, b, c = "plain", "aded", "prompt-lookup"
    orders = [[m for m, _ in log.order[i : i + 3]] for i in range(0, len(log.order), 3)]
    assert orders == [[a, b, c], [b, c, a], [c, a, b], [b, c, a], [c, a, b], [a, b, c]]
    assert log.phases == [("plain text", 3), ("warm-up", 3), ("measuring", 18)]
    assert log.runs == 3 + 3 + 18
    assert len(out.finished()) == 2
    # both repeats of both texts were seen by the watcher, token by token
    assert log.tokens["aded 1"] == out.tasks[1].expected * 2


def test_every_method_writes_plains_text() -> None:
    plan = Plan(max_new_tokens=16, repeats=1, batch=2, cut_loops=False)
    out = helper.compare(plan, helper.prompts(3))
    report = make_report(out, tiny.target("llama"))
    for task in out.tasks:
        assert task.expected == tiny.generate("llama", [task.prompt.tokens], 16)[0]
    assert [r.identical for r in report.results] == [True] * 3
    assert not report.failed
    assert report.of("plain").tokens_per_step == 1.0
    assert report.of("plain").ratio_to_plain == 1.0
    assert report.of("aded").new_tokens == 3 * 16
    assert report.of("aded").compared_tokens == 3 * 16
    assert report.of("prompt-lookup").accepted > 0
    assert sum(report.of("prompt-lookup").accepted_by_depth) == report.of("prompt-lookup").accepted


def test_sampled_text_is_the_same_too() -> None:
    plan = Plan(max_new_tokens=16, repeats=1, cut_loops=False, sampling=Sampling(temperature=1.0))
    report = make_report(helper.compare(plan, helper.prompts(2)), tiny.target("llama"))
    assert [r.identical for r in report.results] == [True] * 3
    assert report.sampling == {"temperature": 1.0}


def test_what_was_learned_is_forgotten_between_repeats() -> None:
    """The same prompts again cost the same steps: nobody drafts from a measured text."""
    out = helper.compare(Plan(max_new_tokens=20, repeats=2, cut_loops=False), helper.prompts(1))
    steps = [[cell["aded"].forwards for cell in row] for row in out.cells]
    assert steps[0] == steps[1]


def test_loops_are_cut_for_all_and_short_texts_dropped() -> None:
    given = helper.prompts(5)
    whole = [tiny.generate("llama", [p.tokens], 60)[0] for p in given]
    cuts = [loop_start(text) for text in whole]
    kept = [i for i, (t, c) in enumerate(zip(whole, cuts, strict=True)) if len(t[:c]) >= SHORTEST]
    out = helper.compare(Plan(max_new_tokens=60, repeats=1), given, "plain")
    assert [t.expected for t in out.tasks] == [whole[i][: cuts[i]] for i in kept]
    assert out.dropped == len(given) - len(kept)
    assert out.cut == sum(cuts[i] is not None for i in kept)
    for task, tokens in zip(out.tasks, (c["plain"].tokens[0] for c in out.cells[0]), strict=True):
        assert tokens == task.expected
    assert out.cut or out.dropped  # the models of the tests do loop


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no-cut-loops"):
        helper.compare(Plan(max_new_tokens=SHORTEST - 1, repeats=1), helper.prompts(2))


@pytest.mark.parametrize("batch", [1, 3])
def test_forced_mode_writes_the_reference(batch: int) -> None:
    references = [tiny.prompt(50 + i, 20 + i) for i in range(3)]
    given = helper.prompts(3, references)
    plan = Plan(max_new_tokens=21, repeats=1, batch=batch, forced=True)
    methods = "plain,aded,prompt-lookup,random"
    out = helper.compare(plan, given, methods)
    for cell in out.cells[0]:
        for run in cell.values():
            assert run.tokens == [references[t.index][:21] for t in run.tasks]
            assert all(s.steps <= s.tokens for s in run.stats)
    report = make_report(out, tiny.target("llama"))
    assert report.mode == "forced"
    assert all(r.identical for r in report.results)
    assert report.of("plain").steps == 20 + 21 + 21
    assert report.of("prompt-lookup").steps < 20 + 21 + 21  # the references repeat themselves


def test_forced_mode_needs_references() -> None:
    with pytest.raises(ConfigError, match="reference text"):
        helper.compare(Plan(forced=True), helper.prompts(1))


def test_the_watchers_time_is_not_counted() -> None:
    class Slow(Watch):
        def step(self, method: str, task: Task, session: Any, step: Any) -> None:
            sleep(0.05)

    plan = Plan(max_new_tokens=16, repeats=1, cut_loops=False)
    out = helper.compare(plan, helper.prompts(1), "plain", Slow())
    assert out.cells[0][0]["plain"].wall < 16 * 0.05


def test_ctrl_c_keeps_what_was_finished() -> None:
    class Impatient(Log):
        def done(self, run: Run) -> None:
            super().done(run)
            if self.runs == 2 + 3 + 4:  # the second group has one of its three methods
                raise KeyboardInterrupt

    plan = Plan(max_new_tokens=8, repeats=2, cut_loops=False)
    out = helper.compare(plan, helper.prompts(2), watch=Impatient())
    assert out.interrupted
    report = make_report(out, tiny.target("llama"))
    assert report.interrupted
    assert [r.new_tokens for r in report.results] == [8, 8, 8]
    assert report.of("aded").spread is not None


def test_ctrl_c_before_anything_is_measured() -> None:
    class AtOnce(Watch):
        def phase(self, name: str, total: int) -> None:
            raise KeyboardInterrupt

    report = make_report(
        helper.compare(Plan(), helper.prompts(1), watch=AtOnce()), tiny.target("llama")
    )
    assert report.interrupted
    assert report.of("aded").tokens_per_s is None
    assert report.of("aded").identical is None


def test_rotated_and_bad_plans() -> None:
    assert rotated([1, 2, 3], 4) == [2, 3, 1]
    for field in ("max_new_tokens", "repeats", "batch"):
        with pytest.raises(ConfigError, match=field):
            Plan(**{field: 0})
