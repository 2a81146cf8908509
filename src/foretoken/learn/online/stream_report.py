"""What a stream of topics showed: figures by request and by topic, JSON-ready, and their picture.

acceptance: accepted / (accepted + refused), the rate at which a drafted token that is judged
stands; rates are ratios of sums over a window of requests, never means of ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foretoken.learn.loss_curve import Line, Panel, svg
from foretoken.types import Options

RECOVERED = 0.95  # of a topic's last rate: from there on a drafter counts as recovered
VERSION = 1


class Point(Options):
    """One request of one contestant."""

    topic: int
    accepted: int
    refused: int  # steps in which a drafted token was refused
    steps: int
    tokens: int
    seconds: float  # of the whole request, learning included
    learning: float  # of these, spent on updates; beside decoding if they run in the background
    distinct_4grams: float  # low means that the text loops


class Phase(Options):
    """One contestant on one topic. A rate is None where nothing was judged."""

    topic: str
    acceptance: float | None  # over all its requests
    first: float | None  # over the first window
    last: float | None  # over the last window
    drop: float | None  # from the topic before: its last rate less this one's first
    # requests until the rate over a window first came to 95 % of the topic's last rate
    recovery: int | None
    tokens_per_step: float
    tokens_per_s: float
    learning_share: float  # seconds of updates / seconds of serving
    distinct_4grams: float


class Lane(Options):
    """One contestant."""

    label: str
    options: dict[str, Any]
    different: int | None  # texts unlike the first contestant's; None: drawn texts may differ
    phases: list[Phase]
    rates: list[float | None]  # acceptance over the window that ends with each request
    speeds: list[float]  # tokens per second over the same
    learned: dict[str, Any]  # by domain: counts of updates, their seconds, a log
    requests: list[Point]


class StreamOfTopics(Options):
    """The document."""

    version: int = VERSION
    model: str
    drafter: str
    topics: list[str]
    changes: list[int]  # requests before each topic but the first
    window: int
    sampling: dict[str, Any]
    max_new_tokens: int
    interrupted: bool
    lanes: list[Lane]

    @property
    def failed(self) -> bool:
        """Whether a text was not the target's own."""
        return any(lane.different for lane in self.lanes)


def figures(points: Sequence[Point], topics: Sequence[str], window: int) -> dict[str, Any]:
    """The fields of a lane that follow from its points."""
    ends = range(1, len(points) + 1)
    recent = [points[max(end - window, 0) : end] for end in ends]
    return {
        "requests": list(points),
        "rates": [rate(some) for some in recent],
        "speeds": [speed(some) for some in recent],
        "phases": _phases(points, topics, window),
    }


def _phases(points: Sequence[Point], topics: Sequence[str], window: int) -> list[Phase]:
    out: list[Phase] = []
    for topic, name in enumerate(topics):
        own = [point for point in points if point.topic == topic]
        if not own:
            break
        first, last = rate(own[:window]), rate(own[-window:])
        before = out[-1].last if out else None
        out.append(
            Phase(
                topic=name,
                acceptance=rate(own),
                first=first,
                last=last,
                drop=None if before is None or first is None else before - first,
                recovery=_recovery(own, window, last),
                tokens_per_step=sum(p.tokens for p in own) / max(sum(p.steps for p in own), 1),
                tokens_per_s=speed(own),
                learning_share=sum(p.learning for p in own) / sum(p.seconds for p in own),
                distinct_4grams=sum(p.distinct_4grams for p in own) / len(own),
            )
        )
    return out


def rate(points: Sequence[Point]) -> float | None:
    """Acceptance over some requests."""
    judged = sum(point.accepted + point.refused for point in points)
    return sum(point.accepted for point in points) / judged if judged else None


def speed(points: Sequence[Point]) -> float:
    """Tokens per second over some requests."""
    return sum(point.tokens for point in points) / sum(point.seconds for point in points)


def _recovery(own: Sequence[Point], window: int, last: float | None) -> int | None:
    """The window that ends with the topic's last request comes to it at the latest."""
    if last is None:
        return None
    for end in range(min(window, len(own)), len(own) + 1):
        now = rate(own[end - window if end > window else 0 : end])
        if now is not None and now >= RECOVERED * last:
            return end
    return None


def picture(made: StreamOfTopics) -> str:
    """Acceptance and speed along the stream, one line a contestant, as the text of an SVG file."""
    where = ", ".join(map(str, made.changes)) or "-"
    about = f"over {made.window} requests; the topic changes after {where}"
    return svg([
        Panel(f"chance that a judged token stands, {about}", _lines(made, "rates"), 1.0),
        Panel(f"tokens per second, learning included, {about}", _lines(made, "speeds")),
    ])  # fmt: skip


def _lines(made: StreamOfTopics, name: str) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for lane in made.lanes:
        values = enumerate(getattr(lane, name), 1)
        lines[lane.label] = [(n, value) for n, value in values if value is not None]
    return {label: line for label, line in lines.items() if line}
