"""Bandits on tables where the best arm is known."""

from __future__ import annotations

import pytest

from foretoken.tune.bandit import Arm, Bandit, Exp3, Ucb, arms, play
from foretoken.tune.hindsight import Offer, Text, optimum, plain, seconds

GOOD, BAD = Offer((1, 2, 3), 8), Offer((), 8)


def texts(switch: int, count: int, length: int = 60) -> list[Text]:
    """Before the switch `a` is right and `b` wrong, then the other way round."""

    def one(i: int) -> Text:
        a, b = (GOOD, BAD) if i < switch else (BAD, GOOD)
        return Text(
            4, length, lambda rows, _: 1.0 + 0.05 * rows, {"a": [a] * length, "b": [b] * length}
        )

    return [one(i) for i in range(count)]


def bandits(count: int) -> list[Bandit]:
    return [Ucb(count, window=60), Exp3(count, seed=1)]


@pytest.mark.parametrize("which", [0, 1], ids=["ucb", "exp3"])
def test_the_better_arm_is_found_and_found_again(which: int) -> None:
    options = arms(["a", "b"], sizes=(4,))
    assert options == [Arm("", 0), Arm("a", 4), Arm("b", 4)]
    table = texts(switch=20, count=40)
    runs = play(table, options, bandits(len(options))[which])
    assert [sum(span.tokens for span in run) for run in runs] == [60] * 40
    share = {
        part: sum(s.method == name for run in chosen for s in run) / sum(map(len, chosen))
        for part, name, chosen in (("a", "a", runs[10:20]), ("b", "b", runs[30:]))
    }
    # uniform play would give 1/3
    least = 0.6 if which == 0 else 0.45
    assert min(share.values()) > least, share
    whole = sum(map(seconds, runs))
    assert sum(seconds(optimum(text)) for text in table) < whole
    assert whole < sum(seconds(plain(text)) for text in table)


def test_what_was_long_true_is_forgotten_within_some_windows() -> None:
    options = arms(["a", "b"], sizes=(4,))
    table = texts(switch=100, count=115)

    def wrong(window: int) -> int:
        """Steps after the switch that still trust what was good."""
        runs = play(table, options, Ucb(len(options), window))
        return sum(span.method == "a" for run in runs[100:] for span in run)

    assert wrong(60) < 0.5 * wrong(10**9)


def test_where_nothing_pays_the_plain_step_wins() -> None:
    table = texts(switch=0, count=30)
    options = arms(["a"], sizes=(4, 8))
    runs = play(table, options, Ucb(len(options)))
    steps = [span for run in runs[15:] for span in run]
    assert sum(span.method == "" for span in steps) / len(steps) > 0.6


def test_the_same_seed_plays_the_same() -> None:
    options = arms(["a", "b"])
    first, second = (play(texts(3, 6), options, Exp3(len(options), seed=5)) for _ in range(2))
    assert first == second
