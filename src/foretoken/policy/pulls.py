"""Two bandits over the pulls of a sliding window: UCB and EXP3, as functions of what was seen.

An arm that is not allowed now keeps what is known of it; the choice is among the others.
Source: Hou et al. 2505.15141 (UCBSpec, EXP3Spec), whose released code divides UCB's bonus by the
count of all pulls, the same for every arm, and so never explores: here each arm has its own count.
Sliding windows: Garivier and Moulines 2011.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

EXPLORE = 0.05  # share of EXP3's draws that look at nothing


class Pull(NamedTuple):
    """What an arm brought once, and the chance at which it was drawn (1 where nothing is drawn)."""

    arm: int
    reward: float
    chance: float = 1.0


class Window:
    """The last pulls, and what a choice asks of them, kept up to date: a choice costs time by the
    number of arms and not of pulls. Sums are made anew once a window, against rounding."""

    def __init__(self, size: int, pulls: Iterable[Pull] = ()) -> None:
        self.pulls: deque[Pull] = deque(maxlen=size)
        self.size = size
        self._rewards: deque[float] = deque(maxlen=size)
        self._sums: dict[int, list[float]] = {}  # arm -> count, rewards, 1 / c, reward / c
        self._total = self._square = 0.0
        self._since = 0
        for pull in pulls:
            self.append(pull)

    def __len__(self) -> int:
        return len(self.pulls)

    def __iter__(self) -> Iterator[Pull]:
        return iter(self.pulls)

    def append(self, pull: Pull) -> None:
        """The oldest one goes when the window is full."""
        if len(self.pulls) == self.size:
            self._count(self.pulls[0], -1)
        self.pulls.append(pull)
        self._rewards.append(pull.reward)
        self._since += 1
        if self._since < self.size:
            self._count(pull, 1)
            return
        self._since, self._sums, self._total, self._square = 0, {}, 0.0, 0.0
        for each in self.pulls:
            self._count(each, 1)

    def _count(self, pull: Pull, sign: int) -> None:
        arm, reward, chance = pull
        sums = self._sums.setdefault(arm, [0.0] * 4)
        for i, value in enumerate((1.0, reward, 1.0 / chance, reward / chance)):
            sums[i] += sign * value
        self._total += sign * reward
        self._square += sign * reward * reward
        if sums[0] < 0.5:
            del self._sums[arm]

    def count(self, arm: int) -> int:
        """Pulls of an arm."""
        return round(self._sums[arm][0]) if arm in self._sums else 0

    def mean(self, arm: int) -> float:
        """Reward of an arm that was pulled."""
        count, total, *_ = self._sums[arm]
        return total / count

    @property
    def deviation(self) -> float:
        """Of all rewards."""
        count = len(self.pulls)
        mean = self._total / count
        return math.sqrt(max(self._square / count - mean * mean, 0.0))

    @property
    def bounds(self) -> tuple[float, float]:
        """The worst and the best reward."""
        return min(self._rewards), max(self._rewards)

    def shortfall(self, arm: int, best: float) -> float:
        """Sum of (best - reward) / chance over an arm's pulls."""
        if arm not in self._sums:
            return 0.0
        _, _, inverse, weighted = self._sums[arm]
        return max(best * inverse - weighted, 0.0)


def ucb(pulls: Window, allowed: Sequence[int], width: float = 1.0) -> int:
    """The allowed arm of the highest upper confidence bound; one that the window does not know
    comes first, in the order of `allowed`.

    width: of the bound, in standard deviations of the window's rewards.
    """
    for arm in allowed:
        if not pulls.count(arm):
            return arm
    scale = width * pulls.deviation
    log = 2.0 * math.log(max(len(pulls), 2))

    def bound(arm: int) -> float:
        return pulls.mean(arm) + scale * math.sqrt(log / pulls.count(arm))

    return max(allowed, key=bound)  # the first among equals


def exp3(pulls: Window, allowed: Sequence[int]) -> list[float]:
    """[len(allowed)] chances of the allowed arms: exponential weights of the losses that each would
    have had, a loss being divided by the chance at which it was drawn.

    Losses lie in 0..1 between the best and the worst reward of the window.
    """
    count = len(allowed)
    losses = dict.fromkeys(allowed, 0.0)
    if len(pulls):
        worst, best = pulls.bounds
        for arm in losses if best > worst else ():
            losses[arm] = pulls.shortfall(arm, best) / (best - worst)
    rate = math.sqrt(2.0 * math.log(max(count, 2)) / (count * pulls.size))
    least = min(losses.values())
    weights = [math.exp(-rate * (losses[arm] - least)) for arm in allowed]
    total = sum(weights)
    return [(1.0 - EXPLORE) * weight / total + EXPLORE / count for weight in weights]
