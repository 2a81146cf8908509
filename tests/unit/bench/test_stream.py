"""Suites in a row: figures, totals, promises, what is kept, resuming."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretoken.bench.asking import Asking
from foretoken.bench.contest import Plan, Run, Watch
from foretoken.bench.prompts import Prompt
from foretoken.bench.saving import save_text
from foretoken.bench.spec import parse_methods
from foretoken.bench.stream import Stream, resumed, settings
from foretoken.bench.stream_report import Figures, StreamReport, beside
from foretoken.bench.suites import Suite
from foretoken.bench.tally import Counted
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.tree import DraftTree
from foretoken.types import Verdict
from tests import letters, tiny
from tests.unit.bench import helper

METHODS = "plain,aded:scope=process,prompt-lookup,mix:sources=aded+prompt-lookup"
MIX = "mix:sources=aded+prompt-lookup"
PLAN = Plan(max_new_tokens=20, repeats=1, forced=True, cut_loops=False)


def engine() -> Engine:
    return Engine(tiny.target("llama"), letters.tokenizer(), method="plain", policy="fixed")


def texts(first: int, n: int = 3) -> Callable[[Asking], Iterator[Prompt]]:
    """Prompts with references that repeat themselves, so that there is something to accept."""

    def make(_: Asking) -> Iterator[Prompt]:
        for i in range(first, first + n):
            reference = tiny.prompt(40 + i, 5) * 4
            yield Prompt(f"p{i}", tiny.prompt(i, 12), "", reference, seed=i)

    return make


def suite(name: str, first: int = 0, **more: Any) -> Suite:
    return Suite(name, "a test", texts(first), forced=True, **more)


def stream(plan: Plan = PLAN, methods: str = METHODS, **more: Any) -> Stream:
    on = engine()
    made = helper.contestants(on, methods)
    return Stream(on, made, plan, more.pop("limit", None), 1, StreamReport(settings={}), **more)


def test_the_figures_of_a_stream_are_those_of_its_suites() -> None:
    grown: list[int] = []
    run = stream(replace(PLAN, repeats=3), on_suite=lambda d, _: grown.append(len(d.suites)))
    out = run.run([suite("a"), suite("b", 10)], Watch())
    assert grown == [1, 2]
    assert not out.failed
    assert not out.interrupted
    labels = [figures.method for figures in out.stream]
    assert labels == METHODS.split(",")
    for label in labels:
        total = next(f for f in out.stream if f.method == label)
        parts = [s.of(label) for s in out.suites]
        cells = [row.cells[label] for s in out.suites for row in s.rows]
        plain = [row.cells["plain"] for s in out.suites for row in s.rows]
        assert len(cells) == 6
        assert all(cell.tokens == 3 * 20 and len(cell.walls) == 3 for cell in cells)
        wall = sum(float(np.median(c.walls)) for c in cells)
        assert total.tokens_per_s == pytest.approx(6 * 20 / wall)
        plain_wall = sum(float(np.median(c.walls)) for c in plain)
        assert total.ratio_to_plain == pytest.approx(plain_wall / wall)
        ratios = [
            np.median(p.walls) / np.median(c.walls) for c, p in zip(cells, plain, strict=True)
        ]
        assert total.ratio_low == pytest.approx(np.quantile(ratios, 0.05))
        assert total.tokens_per_step == pytest.approx(6 * 60 / sum(c.steps for c in cells))
        assert total.accepted == sum(p.accepted for p in parts) == sum(c.accepted for c in cells)
        assert total.drafted == sum(c.drafted for c in cells)
        assert total.identical
    mixed = next(f for f in out.stream if f.method == MIX)
    assert mixed.merges
    assert mixed.accepted > 0
    assert set(mixed.sources) == {"aded", "prompt-lookup"}
    assert mixed.accepted <= sum(s.accepted for s in mixed.sources.values()) <= 2 * mixed.accepted
    assert sum(k.nodes for k in mixed.by_class) == mixed.drafted
    assert sum(k.accepted for k in mixed.by_class) == mixed.accepted
    assert sum(k.promised for k in mixed.by_class) == pytest.approx(mixed.promised)
    assert StreamReport.model_validate_json(out.model_dump_json()) == out


def figures(method: str, ratio: float, **more: Any) -> Figures:
    return Figures(
        method=method, tokens_per_s=10 * ratio, ratio_to_plain=ratio, ratio_low=None,
        tokens_per_step=None, **more,
    )  # fmt: skip


def test_the_best_single_method_is_no_mixture_no_peer_and_not_lossy() -> None:
    known = [
        figures("plain", 1.0), figures("a", 1.25), figures("b", 1.2), figures("m", 1.5, merges=True),
        figures("n", 1.0, merges=True), figures("hf", 2.0, peer=True), figures("l", 3.0, lossy=True),
    ]  # fmt: skip
    best = beside("s", known, {})
    assert (best.suite, best.single, best.ratio_to_plain) == ("s", "a", 1.25)
    assert best.merged == {"m": pytest.approx(1.2), "n": pytest.approx(0.8)}
    # repeats are paired: the median of the ratios, which is not the ratio of the medians
    best = beside("s", known, {"a": [1.0, 1.25, 2.0], "m": [1.5, 1.0, 2.0], "n": [1.0, 1.25, 1.0]})
    assert best.merged == {"m": pytest.approx(1.0), "n": pytest.approx(1.0)}
    assert beside("s", known[:1], {}).single == "plain"


def test_every_suite_and_the_whole_have_a_best() -> None:
    out = stream().run([suite("a"), suite("b", 10)], Watch())
    assert [best.suite for best in out.best] == ["a", "b", "all"]
    assert all(set(best.merged) == {MIX} for best in out.best)


def test_the_limit_holds_for_each_suite() -> None:
    out = stream(methods="plain", limit=2).run([suite("a"), suite("b", 10)], Watch())
    assert [len(s.rows) for s in out.suites] == [2, 2]


def steps_of(out: StreamReport, at: int, method: str = "aded:scope=process") -> list[int]:
    return [row.cells[method].steps for row in out.suites[at].rows]


def test_what_was_learned_is_forgotten_unless_it_is_kept() -> None:
    twice = [suite("a"), suite("again")]
    fresh = stream().run(twice, Watch())
    assert steps_of(fresh, 0) == steps_of(fresh, 1)
    kept = stream(keep_learning=True).run(twice, Watch())
    assert steps_of(kept, 0) == steps_of(fresh, 0)
    assert sum(steps_of(kept, 1)) < sum(steps_of(kept, 0))


def test_a_suites_sampling_and_seeds_are_obeyed() -> None:
    plan = Plan(max_new_tokens=12, repeats=1, cut_loops=False)

    def same(_: Asking) -> Iterator[Prompt]:
        for seed in (1, 2):
            yield Prompt(f"s{seed}", tiny.prompt(0, 12), "", seed=seed)

    hot = Suite("hot", "-", same, sampling={"temperature": 1.5})
    seen: dict[tuple[str, int], list[int]] = {}

    class Log(Watch):
        def done(self, run: Run) -> None:
            seen[run.method, run.tasks[0].prompt.seed] = run.tokens[0]

    out = stream(plan, "plain,prompt-lookup").run([hot], Log())
    assert out.suites[0].sampling == {"temperature": 1.5}
    assert [f.identical for f in out.stream] == [True, True]
    assert seen["plain", 1] != seen["plain", 2]
    assert seen["prompt-lookup", 1] == seen["plain", 1]


def test_the_prediction_rides_with_the_request() -> None:
    seen: list[Any] = []

    class Log(Watch):
        def step(self, method: str, task: Any, session: Any, step: Any) -> None:
            seen.append(session.request.prediction)

    def make(_: Asking) -> Iterator[Prompt]:
        yield Prompt("p", tiny.prompt(0, 12), "", [5, 6, 7], prediction=[5, 6, 8])

    stream(methods="plain").run([Suite("edit", "-", make, forced=True)], Log())
    assert seen == [[5, 6, 8]] * 3


def test_a_second_turn_follows_plains_text() -> None:
    plan = Plan(max_new_tokens=10, repeats=1, cut_loops=False)

    def make(_: Asking) -> Iterator[Prompt]:
        first = tiny.prompt(0, 12)
        yield Prompt("one", first, "", then=lambda ids: Prompt("two", [*first, *ids, 7], ""))

    out = stream(plan, "plain,aded").run([Suite("talk", "-", make)], Watch())
    assert [row.name for row in out.suites[0].rows] == ["one", "two"]
    assert out.suites[0].rows[1].prompt_tokens == 12 + 10 + 1
    assert out.suites[0].report.prompts.read == 2


def test_ctrl_c_keeps_the_finished_suites() -> None:
    class Impatient(Watch):
        def phase(self, name: str, total: int) -> None:
            if name == "b: measuring":
                raise KeyboardInterrupt

    out = stream().run([suite("a"), suite("b", 10)], Impatient())
    assert out.interrupted
    assert [s.suite for s in out.suites] == ["a"]
    assert out.stream


def test_resuming_leaves_out_what_is_there(tmp_path: Path) -> None:
    path, wanted = tmp_path / "out.json", {"limit": None, "widen": 1}
    assert resumed(path, wanted) == StreamReport(settings=wanted)
    run = stream()
    run.document = StreamReport(settings=wanted)
    save_text(path, run.run([suite("a")], Watch()).model_dump_json())
    again = stream()
    again.document = resumed(path, wanted)
    out = again.run([suite("a"), suite("b", 10)], Watch())
    assert [s.suite for s in out.suites] == ["a", "b"]
    assert out.suites[0] == run.document.suites[0]
    assert sum(f.drafted for f in out.stream) > sum(f.drafted for f in run.document.stream)
    with pytest.raises(ConfigError, match="limit was None, is 3"):
        resumed(path, {**wanted, "limit": 3})
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ArtifactError, match="out.json"):
        resumed(path, wanted)


def test_settings_tell_methods_apart() -> None:
    def of(methods: str, nodes: int | None = None) -> dict[str, Any]:
        specs = parse_methods(methods, "fixed", nodes)
        return settings(
            tiny.target("llama"), specs, [], PLAN, limit=None, keep_learning=False, widen=1
        )

    assert of(METHODS) == of(METHODS)
    assert of(METHODS) != of("plain,aded")
    assert of("aded") != of("aded", 8)


def test_a_suite_of_which_nothing_is_left_is_skipped() -> None:
    plan = Plan(max_new_tokens=8, repeats=1)  # fewer than the shortest text that is kept
    out = stream(plan, "plain").run([suite("a")], Watch())
    assert out.suites == []
    assert "no-cut-loops" in out.skipped["a"]
    assert out.stream == []


def test_where_text_differs_there_is_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    from foretoken import registry

    sabotage = "tests.unit.bench.sabotage:Flip"
    monkeypatch.setitem(registry._added["verifier"], "flip", sabotage)
    plan = Plan(max_new_tokens=20, repeats=1, cut_loops=False)
    out = stream(plan, "plain,aded:verifier=flip").run([suite("a")], Watch())
    assert out.failed
    assert out.stream == out.best == out.suites[0].figures == out.suites[0].rows == []


class Stand:
    """A step, as far as a tally looks."""

    def __init__(self, tree: DraftTree, path: tuple[int, ...]) -> None:
        self.tree, self.verdict = tree, Verdict(path, 0)


def test_promises_are_counted_by_class() -> None:
    counted = Counted()
    tree = DraftTree([1, 2, 3], [-1, 0, -1], [0.5, 0.5, 0.4], sources=["a+b", "a", "b"])
    counted.add(Stand(tree, (0,)))  # type: ignore[arg-type]
    counted.add(Stand(DraftTree(), ()))  # type: ignore[arg-type]
    assert counted.promised == pytest.approx(0.5 + 0.25 + 0.4)
    assert counted.accepted == 1
    rows = {i: (k.nodes, k.accepted) for i, k in enumerate(counted.by_class) if k.nodes}
    assert rows == {2: (1, 0), 4: (1, 0), 5: (1, 1)}
    shares = {name: (s.drafted, s.accepted) for name, s in counted.sources.items()}
    assert shares == {"a": (2, 1), "b": (2, 1)}
    certain = DraftTree([1], [-1], [1.0])
    counted.add(Stand(certain, (0,)))  # type: ignore[arg-type]
    assert counted.by_class[9].accepted == 1


@pytest.mark.parametrize("tree", [DraftTree([1], [-1]), DraftTree([1], [-1], [0.5], "sampled")])
def test_drafts_that_promise_nothing(tree: DraftTree) -> None:
    counted = Counted()
    counted.add(Stand(tree, (0,)))  # type: ignore[arg-type]
    assert (counted.promised, counted.by_class, counted.accepted) == (None, [], 1)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    save_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        save_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
