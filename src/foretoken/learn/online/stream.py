"""A stream whose topic changes, decoded by drafters that learn and by one that does not.

Every prompt is decoded by every contestant before the next one comes, each with a drafter of its
own, so that what the machine does meanwhile hits all alike; who comes first changes from prompt to
prompt. Greedy texts are compared: learning may change speed and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from foretoken.bench.machine import model_name
from foretoken.bench.prompts import Prompt
from foretoken.draft.osd import Osd
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.learn.online.record import refused
from foretoken.learn.online.stream_report import Lane, Point, StreamOfTopics, figures
from foretoken.registry import NULL_POLICY
from foretoken.types import Limits, Request, Sampling, Session, Step

Topics = Sequence[tuple[str, Sequence[Prompt]]]  # names and prompts, in order


@dataclass(frozen=True)
class Contestant:
    """Who drafts: a name for tables, and the options of `osd`."""

    label: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How all of them decode. window: requests over which rates are taken."""

    sampling: Sampling
    limits: Limits
    window: int = 8


def contestants(topics: int, shared: Mapping[str, Any]) -> list[Contestant]:
    """The drafter as it was given; learning; learning from chosen texts; one drafter a topic.

    shared: options of `osd` for all of them.
    """
    return [
        Contestant("static", {**shared, "interval": 0}),
        Contestant("osd", shared),
        Contestant("osd+select", {**shared, "select": True}),
        Contestant("osd+route", {**shared, "domains": max(topics, 2)}),
    ]


def run_stream(
    engine: Engine,
    topics: Topics,
    lanes: Sequence[Contestant],
    plan: Plan,
    on_request: Callable[[int, int], None] = lambda _, __: None,
) -> StreamOfTopics:
    """Decode all prompts in order. on_request: told how many of how many are done; an interrupt
    ends the stream there, and what is complete is reported.

    Raises ConfigError for a topic shorter than the window, or options that are not `osd`'s.
    """
    for name, prompts in topics:
        if len(prompts) < plan.window:
            accepted = f"at most the {len(prompts)} prompts of {name}"
            raise ConfigError("window", plan.window, accepted)
    runners = [_Runner(engine, lane, plan) for lane in lanes]
    stream = [(topic, prompt) for topic, (_, some) in enumerate(topics) for prompt in some]
    interrupted = False
    try:
        for n, (topic, prompt) in enumerate(stream):
            for turn in range(len(runners)):
                runners[(n + turn) % len(runners)].decode(topic, prompt, n)
            on_request(n + 1, len(stream))
    except KeyboardInterrupt:
        interrupted = True
    done = min(len(runner.points) for runner in runners)
    seen, names = [topic for topic, _ in stream[:done]], [name for name, _ in topics]
    return StreamOfTopics(
        model=model_name(engine.target),
        drafter=runners[0].small,
        topics=names,
        changes=[n for n in range(1, done) if seen[n] != seen[n - 1]],
        window=plan.window,
        sampling=plan.sampling.model_dump(mode="json"),
        max_new_tokens=plan.limits.max_new_tokens,
        interrupted=interrupted,
        lanes=[runner.lane(names, runners[0].texts[:done]) for runner in runners],
    )


class _Runner:
    """One contestant on its way through the stream."""

    def __init__(self, engine: Engine, who: Contestant, plan: Plan) -> None:
        self.engine, self.who, self.plan = engine, who, plan
        self.method = engine.use("osd", NULL_POLICY, None, who.options, {})
        drafter = self.method.drafter
        assert isinstance(drafter, Osd)
        self.drafter: Osd = drafter
        self.points: list[Point] = []
        self.texts: list[list[int]] = []

    @property
    def small(self) -> str:
        """The drafter model's name, without where it lies."""
        return Path(self.drafter.model.name or self.drafter.model.target.name).name

    def decode(self, topic: int, prompt: Prompt, number: int) -> None:
        """One request, alone; its number is added to the seed."""
        plan, counts = self.plan, [0, 0]

        def look(_: Session, step: Step) -> None:
            counts[0] += step.committed.accepted
            counts[1] += refused(step) is not None

        room = self.engine.target.max_context - plan.limits.max_new_tokens
        sampling = plan.sampling.model_copy(update={"seed": plan.sampling.seed + number})
        request = Request(prompt.tokens[-max(room, 1) :], sampling, plan.limits)
        before, began = self._learning(), perf_counter()
        (done,) = self.engine.run([request], self.method, look)
        seconds = perf_counter() - began
        self.texts.append(done.tokens)
        self.points.append(
            Point(
                topic=topic,
                accepted=counts[0],
                refused=counts[1],
                steps=done.stats.steps,
                tokens=done.stats.tokens,
                seconds=seconds,
                learning=self._learning() - before,
                distinct_4grams=done.distinct_4grams,
            )
        )

    def _learning(self) -> float:
        reports = [report for store in self.drafter.learned.values() for report in store.values()]
        return float(sum(report["seconds"] for report in reports))

    def lane(self, topics: Sequence[str], expected: Sequence[list[int]]) -> Lane:
        """What became of it. expected: the first contestant's texts."""
        self.drafter.wait()
        done = len(expected)
        pairs = zip(self.texts[:done], expected, strict=True)
        different = sum(text != other for text, other in pairs)
        return Lane(
            label=self.who.label,
            options={k: str(v) for k, v in self.who.options.items() if k != "model"},
            different=different if self.plan.sampling.greedy else None,
            learned=self.drafter.learned.get("", {}),
            **figures(self.points[:done], topics, self.plan.window),
        )
