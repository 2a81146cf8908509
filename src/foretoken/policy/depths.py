"""How deep is it worth drafting? Acceptance by level, learned online, against the time of a level.

For drafters that pay for every level (a model's forward each) and for drawn drafts, of which no
node may be dropped for what it is: the depth is settled before anything is drafted.
Source: our notes on policies, 3A rules 1 and 9 (expected tokens over time), per level instead
of one acceptance rate; the rate is that of the whole stream (U1, U6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median

FORGET = 0.98  # of a level's counts, at each step that reached it
PRIOR = 4.0  # what the level above weighs
FIRST = 0.7  # acceptance of the first level before anything was seen: worth a try
NODES = 1.0  # nodes of a level before any was seen
BLEND = 0.1  # weight of the newest step in averages
SAMPLES = 15  # drafts whose time counts


class Depths:
    """Counts by level. Level d has index d - 1."""

    def __init__(self) -> None:
        self._tried: list[float] = []  # steps in which level d was drafted and level d - 1 stood
        self._stood: list[float] = []
        self._nodes: list[float] = []  # scored of level d, on average
        self.seconds = 0.0  # of drafting one level, the median of the last ones: the first are slow
        self._levels: deque[float] = deque(maxlen=SAMPLES)
        self._shown = False  # whether the drafter itself tells what a level takes

    def observe(
        self, by_level: list[int], stood: int, seconds: float | None, judged: int | None = None
    ) -> None:
        """A step. by_level: nodes scored of each level that was drafted; stood: levels that the
        text went through; seconds: of drafting them all, None for a draft that tells nothing of
        later ones; judged: levels of which the text tells whether they stood, None for all."""
        while len(self._tried) < len(by_level):
            self._tried.append(0.0)
            self._stood.append(0.0)
            self._nodes.append(float(by_level[len(self._nodes)]))
        for d, nodes in enumerate(by_level):
            self._nodes[d] += BLEND * (nodes - self._nodes[d])
            if d <= stood and (judged is None or d < judged):
                self._tried[d] = FORGET * self._tried[d] + 1.0
                self._stood[d] = FORGET * self._stood[d] + (stood > d)
        if by_level and seconds is not None and not self._shown:
            self._took(seconds / len(by_level))

    def shown(self, seconds: float) -> None:
        """What a level took, by the drafter's own clock; it is believed rather than whole drafts.
        Nothing if that is not known (0.0)."""
        if seconds > 0.0:
            if not self._shown:
                self._levels.clear()
            self._shown = True
            self._took(seconds)

    def _took(self, seconds: float) -> None:
        self._levels.append(seconds)
        self.seconds = median(self._levels)

    @property
    def timed(self) -> int:
        """How often a level was measured."""
        return len(self._levels)

    def choose(self, deepest: int, rate: float, cost: Callable[[int], float]) -> tuple[int, float]:
        """(depth, gain in tokens over a plain step) with the best expected tokens - rate x time.

        rate: tokens per second that time is worth. cost: seconds of a forward with so many drafted
        nodes. (0, 0.0) where nothing is gained.
        """
        best, gain = 0, 0.0
        above, reach, expected, nodes = FIRST, 1.0, 0.0, 0.0
        plain = cost(0)
        for d in range(deepest):
            known = d < len(self._tried)
            if known:
                above = (self._stood[d] + PRIOR * above) / (self._tried[d] + PRIOR)
            reach *= above
            expected += reach
            nodes += self._nodes[d] if known else (self._nodes[-1] if self._nodes else NODES)
            value = expected - rate * (cost(round(nodes)) - plain + (d + 1) * self.seconds)
            if value > gain:
                best, gain = d + 1, value
        return best, gain

    def worth(self, depth: int, reach: float, rate: float, cost: Callable[[int], float]) -> bool:
        """Whether a level more below `depth` drafted ones pays, if the text gets through those with
        probability `reach`. rate, cost: as in `choose`."""
        above = FIRST
        for tried, stood in zip(self._tried[: depth + 1], self._stood, strict=False):
            above = (stood + PRIOR * above) / (tried + PRIOR)
        nodes = sum(self._nodes[:depth])
        more = nodes + (self._nodes[min(depth, len(self._nodes) - 1)] if self._nodes else NODES)
        return reach * above > rate * (cost(round(more)) - cost(round(nodes)) + self.seconds)

    def state(self) -> dict[str, list[float]]:
        """Counts, JSON-ready."""
        return {"tried": self._tried, "stood": self._stood, "nodes": self._nodes}

    def load(self, state: dict[str, list[float]]) -> None:
        """Take up what `state` gave."""
        self._tried, self._stood = list(state["tried"]), list(state["stood"])
        self._nodes = list(state["nodes"])
