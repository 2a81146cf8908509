"""A stream of topics: who is asked what, what the figures are, and that the text stays."""

import json
from typing import Any
from xml.etree import ElementTree

import pytest
from tests import tiny

from foretoken.bench.prompts import Prompt
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.learn.online.stream import Contestant, Plan, contestants, run_stream
from foretoken.learn.online.stream_report import (
    Point,
    StreamOfTopics,
    figures,
    picture,
    rate,
    speed,
)
from foretoken.types import Limits, Sampling

VOCAB = 32


def point(topic: int, accepted: int, refused: int, **more: Any) -> Point:
    given = {"steps": 4, "tokens": 8, "seconds": 2.0, "learning": 0.5, "distinct_4grams": 1.0}
    return Point(topic=topic, accepted=accepted, refused=refused, **{**given, **more})


def prompts(seeds: range) -> list[Prompt]:
    return [Prompt(str(seed), tiny.prompt(seed, 8, VOCAB), "") for seed in seeds]


def run(sampling: Sampling, lanes: list[Contestant] | None = None, **how: Any) -> StreamOfTopics:
    shared = {"model": tiny.small_model(VOCAB), "interval": 2, "lr": 0.02, "tolerance": 1.0}
    topics = [("a", prompts(range(4))), ("b", prompts(range(10, 14))), ("c", prompts(range(4)))]
    plan = Plan(sampling, Limits(max_new_tokens=10), 2)
    engine = Engine(tiny.target("small"), method="plain")
    return run_stream(engine, topics, lanes or contestants(3, shared), plan, **how)


class TestFigures:
    def test_rates_are_ratios_of_sums(self) -> None:
        some = [point(0, 9, 1), point(0, 0, 10)]
        assert rate(some) == 9 / 20
        assert rate([point(0, 0, 0)]) is None
        assert speed([point(0, 1, 1, seconds=1.0), point(0, 1, 1, seconds=3.0)]) == 4.0

    def test_a_topic(self) -> None:
        """Window 2: first and last window, the drop from the topic before, the recovery."""
        points = [
            point(0, 1, 1), point(0, 1, 1), point(0, 3, 1), point(0, 3, 1),
            point(1, 1, 3), point(1, 1, 3), point(1, 2, 2), point(1, 2, 2), point(1, 2, 2),
        ]  # fmt: skip
        made = figures(points, ["a", "b"], 2)
        a, b = made["phases"]
        assert (a.first, a.last, a.drop) == (0.5, 0.75, None)
        assert (b.first, b.last, b.drop) == (0.25, 0.5, 0.5)
        assert a.acceptance == 8 / 12
        assert (a.recovery, b.recovery) == (4, 4)
        assert (a.tokens_per_step, a.tokens_per_s, a.learning_share) == (2.0, 4.0, 0.25)
        assert len(made["rates"]) == len(made["speeds"]) == len(points)
        assert made["rates"][4] == 4 / 8, "a window may reach over a change"

    def test_who_starts_at_the_end_has_nothing_to_recover(self) -> None:
        made = figures([point(0, 2, 2)] * 5, ["a"], 2)
        assert made["phases"][0].recovery == 2

    def test_nothing_was_judged(self) -> None:
        made = figures([point(0, 0, 0)] * 3, ["a", "b"], 2)
        (only,) = made["phases"]
        assert (only.first, only.last, only.recovery, only.acceptance) == (None,) * 4
        assert made["rates"] == [None] * 3


class TestRun:
    @pytest.fixture(scope="class")
    def made(self) -> StreamOfTopics:
        return run(Sampling())

    def test_every_contestant_writes_the_targets_text(self, made: StreamOfTopics) -> None:
        assert [lane.different for lane in made.lanes] == [0, 0, 0, 0]
        assert not made.failed
        assert not made.interrupted

    def test_the_document(self, made: StreamOfTopics) -> None:
        assert [lane.label for lane in made.lanes] == [
            "static", "osd", "osd+select", "osd+route",
        ]  # fmt: skip
        assert made.changes == [4, 8]
        assert made.topics == ["a", "b", "c"]
        for lane in made.lanes:
            assert [p.topic for p in lane.requests] == [0] * 4 + [1] * 4 + [2] * 4
            assert [phase.topic for phase in lane.phases] == made.topics
            assert all(p.tokens == 10 and p.seconds > 0.0 for p in lane.requests)
        again = StreamOfTopics.model_validate_json(made.model_dump_json())
        assert again == made
        assert json.loads(made.model_dump_json())["lanes"][1]["learned"][""]["log"]

    def test_who_learns_learns(self, made: StreamOfTopics) -> None:
        static, *others = made.lanes
        assert static.learned[""]["updates"] == 0
        assert all(p.learning == 0.0 for p in static.requests)
        for lane in others:
            assert sum(report["updates"] for report in lane.learned.values()) >= 4
            assert sum(p.learning for p in lane.requests) > 0.0
            assert all(0.0 <= p.learning <= p.seconds for p in lane.requests)

    def test_counts_are_the_engines(self, made: StreamOfTopics) -> None:
        """Each step but a draft's that stood whole refused one: at most one a step."""
        for lane in made.lanes:
            for p in lane.requests:
                assert p.steps + p.accepted == p.tokens
                assert 0 <= p.refused <= p.steps

    def test_the_picture(self, made: StreamOfTopics) -> None:
        text = picture(made)
        ElementTree.fromstring(text)
        assert text.count("<polyline") == 2 * len(made.lanes)
        assert "the topic changes after 4, 8" in text

    def test_drawn_texts_are_not_compared(self) -> None:
        shared = {"model": tiny.small_model(VOCAB)}
        made = run(Sampling(temperature=1.0), [Contestant("one", shared)])
        assert made.lanes[0].different is None
        texts = {tuple((p.accepted, p.refused) for p in made.lanes[0].requests)}
        assert len(texts) == 1

    def test_an_interrupt_keeps_what_is_complete(self) -> None:
        def stop(done: int, of: int) -> None:
            assert of == 12
            if done == 5:
                raise KeyboardInterrupt

        made = run(Sampling(), on_request=stop)
        assert made.interrupted
        assert [len(lane.requests) for lane in made.lanes] == [5] * 4
        assert [len(lane.phases) for lane in made.lanes] == [2] * 4
        assert made.changes == [4]

    def test_a_text_that_differs_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted fault: one contestant's target is told other prompts."""
        from foretoken.learn.online.stream import _Runner

        original = _Runner.decode

        def wrong(self: _Runner, topic: int, prompt: Prompt, number: int) -> None:
            if self.who.label == "osd":
                prompt = prompts(range(90, 91))[0]
            original(self, topic, prompt, number)

        monkeypatch.setattr(_Runner, "decode", wrong)
        made = run(Sampling())
        assert made.failed
        assert [bool(lane.different) for lane in made.lanes] == [False, True, False, False]

    def test_a_window_longer_than_a_topic_is_refused(self) -> None:
        plan = Plan(Sampling(), Limits(max_new_tokens=4), 5)
        with pytest.raises(ConfigError, match="window: 5 .*the 4 prompts of a"):
            run_stream(
                Engine(tiny.target("small"), method="plain"), [("a", prompts(range(4)))], [], plan
            )

    def test_options_are_those_of_osd(self) -> None:
        with pytest.raises(ConfigError, match="osd.foo"):
            run(Sampling(), [Contestant("x", {"foo": 1})])
