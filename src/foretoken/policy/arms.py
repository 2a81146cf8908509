"""Which way of drafting to try: the one that has paid best, others now and then.

An arm that does not pay is tried again so seldom that its trials cost a stated share of the time:
one that costs next to nothing is tried in every step ("in shadow"), a dear one rarely.
Source: our notes on length-policies, U9 and U10 (value = tokens - rate x time, not tokens / time).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from statistics import fmean, median
from types import MappingProxyType
from typing import NamedTuple

from foretoken.policy.depths import Depths
from foretoken.types import Session

BLEND = 0.05  # weight of the newest step in an arm's averages
HOPE = 8  # steps that the hope of a new way weighs
MARGIN = 0.25  # tokens a step by which a dearer way must be ahead
SELDOM = 8  # steps after which a way that pays less than another is tried again at the earliest
RARELY, LATEST = 128, 4.0  # steps and seconds, the longer, after which a way is tried in any case
TRIALS = 0.01  # share of the tokens that trials of a way which is behind may cost
EARLY = 4  # times that share, until the way was asked HOPE times
FADES = 0.9  # of what reading costs, with every text that was not read for it: it may have changed
READINGS, TIMES = 9, 15  # samples
FIXED = 8  # nodes that take as long to propose as what a proposal takes without any
BELIEVED = 5  # drafts after which it is known what a drafter's word is worth
MOST = 0.2  # a likelier node is always asked for


@dataclass
class Arm:
    """One way of one drafter: what asking it has brought, and what it cost."""

    gain: float = 0.5  # tokens over a plain step, time taken off; hopeful before it was tried
    seen: float = 0.5  # the same of what was seen alone: what a trial is likely to cost
    times: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES))  # of proposals
    # of sessions' first ones by token of the text, beyond the usual: a model reads the prompt
    readings: deque[float] = field(default_factory=lambda: deque(maxlen=READINGS))
    nodes: deque[int] = field(default_factory=lambda: deque(maxlen=TIMES))  # of proposals
    # probability of the least likely node that was scored: the drafter's word over what we think
    said: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES))
    asked: int = 0
    depths: Depths = field(default_factory=Depths)

    @property
    def seconds(self) -> float:
        """Of a proposal: the median of the last ones, so that a pause of the process (it collects
        garbage, another one runs) is not taken for the way's own time."""
        return median(self.times) if self.times else 0.0

    def least(self, row: float, rate: float) -> float:
        """The joint probability, by the drafter's own word, from which a node is worth the time of
        proposing and scoring it; 0 until it is known what that word is worth.

        row: seconds of scoring one more node. rate: tokens that a second is worth.
        """
        if len(self.said) < BELIEVED or not self.nodes:
            return 0.0
        each = self.seconds / (fmean(self.nodes) + FIXED)
        return min(rate * (row + each) * median(self.said), MOST)

    def interval(self, allowed: float, latest: int = RARELY, reading: float = 0.0) -> int:
        """Steps between trials that may cost `allowed` seconds a step on average; `latest` of them
        at most. reading: seconds that a trial takes beside the usual ones."""
        spent = self.seconds + reading
        return min(int(spent / allowed) + 1, latest) if allowed > 0 else latest

    def observe(self, gain: float) -> None:
        """A step in which it was asked, by its usual time."""
        self.asked += 1
        share = max(BLEND, 1.0 / (self.asked + HOPE))
        self.gain += share * (gain - self.gain)
        self.seen += max(BLEND, 1.0 / self.asked) * (gain - self.seen)

    @property
    def reading(self) -> float:
        """Seconds by token of the text that a session's first proposal takes beyond the usual."""
        return median(self.readings) if self.readings else 0.0

    def beyond(self, seconds: float, context: int, usual: float | None = None) -> float:
        """Of the seconds of a session's first proposal, over so many tokens, those of reading.
        usual: seconds of a later one, where they are known otherwise."""
        reading = max(seconds - (self.seconds if usual is None else usual), 0.0)
        self.readings.append(reading / context)
        return reading

    def price(self, session: Session) -> float:
        """Seconds of reading the session's text for its first proposal."""
        return self.reading * len(session.tokens)

    def pass_over(self) -> None:
        """A text was not worth its reading."""
        self.readings = deque((FADES * each for each in self.readings), maxlen=READINGS)


class Stream(NamedTuple):
    """What is known of the steps in which ways are tried. Seconds and tokens are of one session."""

    allowed: float  # seconds a step that trials of what does not pay may cost on average
    latest: int = RARELY  # steps without one
    surplus: float = 0.0  # seconds of earlier gains, which pay for trials that cost no more
    pace: float = 1.0  # tokens of a step
    rate: float = 0.0  # tokens that a second is worth


def choose(
    arms: Mapping[str, Arm],
    idle: dict[str, int],
    stream: Stream,
    reading: Mapping[str, float] = MappingProxyType({}),
) -> tuple[str | None, int]:
    """The way to ask in now, None for none; and in how many steps, if nothing changes, one is due.

    arms: by way, cheapest first. idle: steps since a way was asked, counted up here. reading:
    seconds that a way's first trial in these texts takes beside. A way that may be the best is
    tried every `SELDOM` steps out of a surplus, at once until its average means something, and one
    that is behind so seldom that what is lost by it is a small share of the tokens.
    """
    allowed, latest = stream.allowed, stream.latest
    for way in arms:
        idle[way] = idle.get(way, RARELY) + 1
    best, *others = arms  # cheapest first: the time of a dearer way is sure, its gain is not
    for way in others:
        if arms[way].gain > arms[best].gain + MARGIN:
            best = way
    due = arms[best].interval(allowed, latest, reading.get(best, 0.0)) - idle[best]
    for way, arm in arms.items():
        early = arm.asked < HOPE
        behind = max(arms[best].gain - arm.seen, 0.0) + stream.rate * reading.get(way, 0.0)
        share = TRIALS * (EARLY if early else 1) * stream.pace
        paid = 0 < stream.surplus >= arm.seconds
        wait = max(
            0 if paid else arm.interval(allowed, latest), 0 if early else SELDOM, behind / share
        )
        if way != best and idle[way] >= wait:
            return way, 0
        if way != best:
            due = min(due, ceil(wait) - idle[way])
    return (best, 0) if arms[best].gain > 0 or due <= 0 else (None, due)
