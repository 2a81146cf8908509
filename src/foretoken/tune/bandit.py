"""A bandit over methods: the baseline for choosing a drafter and a size online.

Arms are (method, nodes) pairs and the plain step. Every step pulls one arm and pays for it alone;
the reward is tokens - rate x seconds, with rate the tokens per second of late: a mean of tokens per
second over steps would prefer short steps to fast text (our notes on length-policies, U10). What an
arm gives at a position does not depend on what was pulled before, so a bandit is simulated on
recorded offers exactly, without the model. It knows nothing of the context, which is what costs it
against drafters that say how sure they are.

`Ucb` is discounted UCB (Garivier and Moulines 2011; BanditSpec 2505.15141 has UCB over drafting
settings, whose published code divides by the total count and so never explores). `Exp3` draws arms
by exponential weights over importance-weighted rewards (Auer et al. 2002), mixed with uniform.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from foretoken.tune.hindsight import PLAIN, Span, Text, step

SIZES = (4, 8, 16, 32)  # nodes of the arms of each method
RECENT = 0.01  # weight of the newest step in the rate


class Arm(NamedTuple):
    """A drafter and how many of its leading nodes are scored."""

    method: str
    nodes: int


def arms(methods: Sequence[str], sizes: Sequence[int] = SIZES) -> list[Arm]:
    """The plain step and every method in every size."""
    return [Arm(PLAIN, 0), *(Arm(method, n) for method in methods for n in sizes)]


class Bandit(Protocol):
    """Chooses among arms by their number."""

    def choose(self) -> int:
        """The arm to pull."""

    def learn(self, arm: int, reward: float) -> None:
        """What it brought."""


class Ucb:
    """Discounted UCB. window: pulls after which one weighs 1/e. width: of the confidence bound, in
    standard deviations of the rewards."""

    def __init__(self, count: int, window: int = 200, width: float = 1.0) -> None:
        self._keep, self._width = math.exp(-1.0 / window), width
        self._pulls = [0.0] * count
        self._sums = [0.0] * count
        self._squares = 0.0  # of all rewards, for their scale

    def choose(self) -> int:
        """The arm of the highest upper bound; each is tried once first."""
        for arm, pulls in enumerate(self._pulls):
            if pulls == 0.0:
                return arm
        total = sum(self._pulls)
        scale = self._width * math.sqrt(self._squares / total)
        bounds = [
            s / n + scale * math.sqrt(2.0 * math.log(max(total, math.e)) / n)
            for s, n in zip(self._sums, self._pulls, strict=True)
        ]
        return bounds.index(max(bounds))

    def learn(self, arm: int, reward: float) -> None:
        """Forget a little of all arms, then add."""
        self._pulls = [n * self._keep for n in self._pulls]
        self._sums = [s * self._keep for s in self._sums]
        self._squares = self._squares * self._keep + reward * reward
        self._pulls[arm] += 1.0
        self._sums[arm] += reward


class Exp3:
    """Exponential weights; rewards are squashed to 0..1. explore: share of uniform draws."""

    def __init__(self, count: int, seed: int = 0, explore: float = 0.1, rate: float = 0.05) -> None:
        self._dice, self._explore, self._rate = random.Random(seed), explore, rate
        self._logs = [0.0] * count
        self._chances = [1.0 / count] * count

    def choose(self) -> int:
        """A draw by the weights."""
        top, count = max(self._logs), len(self._logs)
        weights = [math.exp(log - top) for log in self._logs]
        total = sum(weights)
        self._chances = [
            (1.0 - self._explore) * weight / total + self._explore / count for weight in weights
        ]
        return self._dice.choices(range(count), self._chances)[0]

    def learn(self, arm: int, reward: float) -> None:
        """Weigh by one over the chance that it was drawn."""
        squashed = 1.0 / (1.0 + math.exp(-min(max(reward, -50.0), 50.0)))
        self._logs[arm] += self._rate * squashed / self._chances[arm]


def play(texts: Sequence[Text], options: Sequence[Arm], bandit: Bandit) -> list[list[Span]]:
    """The steps in which a bandit writes these texts one after the other."""
    tokens, seconds = 0.0, 0.0
    runs: list[list[Span]] = []
    for text in texts:
        spans, at = [], 0
        while at < text.tokens:
            plain = text.seconds(at, 0)
            rate = max(tokens / seconds if seconds else 0.0, 1.0 / plain)
            arm = bandit.choose()
            span = step(text, at, *options[arm])
            bandit.learn(arm, span.tokens - rate * span.seconds)
            tokens = (1.0 - RECENT) * tokens + span.tokens
            seconds = (1.0 - RECENT) * seconds + span.seconds
            spans.append(span)
            at += span.tokens
        runs.append(spans)
    return runs
