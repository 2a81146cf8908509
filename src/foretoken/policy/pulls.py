"""Two bandits over the pulls of a sliding window: UCB and EXP3, as functions of what was seen.

An arm that is not allowed now keeps what is known of it; the choice is among the others.
Source: Hou et al. 2505.15141 (UCBSpec, EXP3Spec), whose released code divides UCB's bonus by the
count of all pulls, the same for every arm, and so never explores: here each arm has its own count.
Sliding windows: Garivier and Moulines 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

EXPLORE = 0.05  # share of EXP3's draws that look at nothing


class Pull(NamedTuple):
    """What an arm brought once, and the chance at which it was drawn (1 where nothing is drawn)."""

    arm: int
    reward: float
    chance: float = 1.0


def ucb(pulls: Sequence[Pull], allowed: Sequence[int], width: float = 1.0) -> int:
    """The allowed arm of the highest upper confidence bound; one that the window does not know
    comes first, in the order of `allowed`.

    width: of the bound, in standard deviations of the window's rewards.
    """
    seen: dict[int, list[float]] = {}
    for pull in pulls:
        seen.setdefault(pull.arm, []).append(pull.reward)
    for arm in allowed:
        if arm not in seen:
            return arm
    count = len(pulls)
    mean = sum(pull.reward for pull in pulls) / count
    scale = width * math.sqrt(sum((pull.reward - mean) ** 2 for pull in pulls) / count)
    log = 2.0 * math.log(max(count, 2))

    def bound(arm: int) -> float:
        rewards = seen[arm]
        return sum(rewards) / len(rewards) + scale * math.sqrt(log / len(rewards))

    return max(allowed, key=bound)  # the first among equals


def exp3(pulls: Sequence[Pull], allowed: Sequence[int], window: int) -> list[float]:
    """[len(allowed)] chances of the allowed arms: exponential weights of the losses that each would
    have had, a loss being divided by the chance at which it was drawn.

    Losses lie in 0..1 between the best and the worst reward of the window.
    """
    count = len(allowed)
    losses = dict.fromkeys(allowed, 0.0)
    if pulls:
        best = max(pull.reward for pull in pulls)
        spread = best - min(pull.reward for pull in pulls)
        for pull in pulls:
            if pull.arm in losses and spread > 0.0:
                losses[pull.arm] += (best - pull.reward) / spread / pull.chance
    rate = math.sqrt(2.0 * math.log(max(count, 2)) / (count * window))
    least = min(losses.values())
    weights = [math.exp(-rate * (losses[arm] - least)) for arm in allowed]
    total = sum(weights)
    return [(1.0 - EXPLORE) * weight / total + EXPLORE / count for weight in weights]
