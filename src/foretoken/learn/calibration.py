"""What a drafter's own estimate is worth: from q, evidence, depth and recent luck to a probability.

`Reliability` learns, for one source, how often the target really goes the way that a node says:
counts in bins, with forgetting, each bin shrunk towards a coarser one and the coarsest towards q
itself. `Mixer` joins what several sources say of one token: a weighted sum of their log-odds, the
weights learned for every set of sources that agree, apart for strong and weak rivals (the mixing of
context-mixing compressors, here over drafters). `consistent` makes siblings sum to at most 1.

Labels are free: after a step the target's distribution is known at every scored node, so that all
its candidate children, drafted or not, have one: their probability, or whether they are the argmax.
Source: our notes on length-policies U2, U3 (bins, prior 6, forgetting 0.995); mixing: own, after
Mahoney 2005 (PAQ). Holds counts and weights only, nothing of anyone's text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

PRIOR = 6.0  # what a coarser bin weighs against counts
FORGET = 0.995  # of a bin's counts, at each label
LEAST, MOST = 0.001, 0.995  # probabilities stay within
_Q_BINS = 24
_DEPTHS = (0, 0, 1, 2, 2, 3, 3, 3, 3)  # depth -> bucket 1 | 2 | 3-4 | 5 and more
RATE = 0.03  # step size of the mixing weights
BASE = -1.5  # log-odds of a token that somebody names, before it is known who
RIVALS = (0.3, 0.7)  # borders of weak, middling and strong rivals
# log-odds that a token loses to such a rival, since what a source says of it was counted over all
# rivals: about what is learned on greedy text of the bundled model, only a start
LOST = (0.0, -0.3, -1.0)


def stretch(p: float) -> float:
    """Log-odds."""
    p = min(max(p, LEAST), MOST)
    return math.log(p / (1.0 - p))


def squash(x: float) -> float:
    """The probability of log-odds."""
    return 1.0 / (1.0 + math.exp(-x)) if x > -30.0 else LEAST


_GRID = 1024  # q is rounded down to a multiple of 1 / _GRID before it is binned
_BIN = [
    min(max(math.floor(2.0 * stretch(i / _GRID)) + 12, 0), _Q_BINS - 1) for i in range(_GRID + 1)
]


def q_bin(q: float) -> int:
    """log-odds of q in steps of a half from -6 to 5.5: a look-up, for it is asked very often."""
    return _BIN[int(q * _GRID)]


def recent(accepted: int) -> int:
    """The last step's accepted tokens as a class: 0 | 1-2 | 3 and more."""
    return 0 if accepted == 0 else 1 if accepted < 3 else 2


class Reliability:
    """One source's bins. A key is (coarse, fine): coarse = (evidence, bin of q), fine adds depth
    and recent luck."""

    def __init__(self) -> None:
        self._bins: dict[int, list[float]] = {}  # key -> [labels, sum of labels], forgetting

    def __len__(self) -> int:
        return len(self._bins)

    def estimate(self, q: float, evidence: int, depth: int, luck: int) -> float:
        """Probability that the target goes from the node's parent to the node."""
        coarse = (evidence << 5 | q_bin(q)) << 5
        get = self._bins.get
        p = q
        found = get(coarse)
        if found is not None:
            p = (found[1] + PRIOR * p) / (found[0] + PRIOR)
        found = get(coarse | 1 + 4 * luck + _DEPTHS[min(depth, 8)])
        if found is not None:
            p = (found[1] + PRIOR * p) / (found[0] + PRIOR)
        return p

    def learn(
        self, q: float, evidence: int, depth: int, luck: int, label: float, weight: float = 1.0
    ) -> None:
        """label: the target's probability of the node given its parent, 0..1."""
        coarse = (evidence << 5 | q_bin(q)) << 5
        for key in (coarse, coarse | 1 + 4 * luck + _DEPTHS[min(depth, 8)]):
            found = self._bins.get(key)
            if found is None:
                self._bins[key] = [weight, weight * label]
            else:
                found[0] = FORGET * found[0] + weight
                found[1] = FORGET * found[1] + weight * label

    def state(self) -> list[list[float]]:
        """[key, labels, sum] of every bin, JSON-ready."""
        return [[key, *found] for key, found in self._bins.items()]

    def load(self, state: Sequence[Sequence[float]]) -> None:
        """Take up what `state` gave."""
        self._bins = {int(key): [labels, total] for key, labels, total in state}


class Mixer:
    """Weights of the sources, by who agrees and how strong the best rival token is."""

    def __init__(self) -> None:
        self._weights: dict[int, list[float]] = {}  # pattern -> [bias, weight of each source]

    def weights(self, sources: int, count: int, rival: float) -> list[float]:
        """Of a pattern. sources: bit mask of those that propose the token; count: how many.

        A source alone is believed, less what a strong rival takes (`LOST`). Several that agree are
        more than their mean and less than independent witnesses: 1 / sqrt(count) of each one's
        log-odds over those of a token that somebody happens to name, until it is learned.
        """
        strong = (rival >= RIVALS[0]) + (rival >= RIVALS[1])
        key = sources * 3 + strong
        found = self._weights.get(key)
        if found is None:
            root = math.sqrt(count)
            found = [BASE * (1.0 - root) + LOST[strong], *[1.0 / root] * count]
            self._weights[key] = found
        return found

    @staticmethod
    def mix(weights: Sequence[float], odds: Sequence[float]) -> float:
        """Probability from the sources' log-odds, in the order of their bits."""
        total = weights[0]
        for weight, x in zip(weights[1:], odds, strict=True):
            total += weight * x
        return squash(total)

    @staticmethod
    def learn(weights: list[float], odds: Sequence[float], given: float, label: float) -> None:
        """One gradient step of the log-loss. given: what `mix` had said."""
        slope = RATE * (label - given)
        weights[0] += slope
        for i, x in enumerate(odds, start=1):
            weights[i] += slope * min(max(x, -4.0), 4.0) * 0.5

    def state(self) -> list[list[float]]:
        """[pattern, bias, weights ...], JSON-ready."""
        return [[key, *weights] for key, weights in self._weights.items()]

    def load(self, state: Sequence[Sequence[float]]) -> None:
        """Take up what `state` gave."""
        self._weights = {int(key): list(weights) for key, *weights in state}


def consistent(siblings: list[float]) -> list[float]:
    """Probabilities of the children of one node, so that they sum to at most 1.

    If they claim more, all log-odds are moved down by the same amount: who was sure stays sure.
    """
    total = sum(siblings)
    if total <= 1.0:
        return siblings
    odds = [p / (1.0 - p) for p in (min(max(p, LEAST), MOST) for p in siblings)]
    low, high = 0.0, 1.0  # factor of the odds; the sum rises with it
    for _ in range(12):
        middle = (low + high) / 2
        if sum(o * middle / (1.0 + o * middle) for o in odds) > 1.0:
            high = middle
        else:
            low = middle
    return [o * low / (1.0 + o * low) for o in odds]
