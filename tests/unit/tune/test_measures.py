"""Measures of runs whose speed is drawn by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from foretoken.tune.hindsight import Span
from foretoken.tune.measures import Score, score


def run(*stretches: tuple[int, float]) -> list[list[Span]]:
    """(tokens, gain): as many plain tokens take 1 s each, these 1 / gain."""
    return [[Span(1, 1.0 / gain)] * tokens for tokens, gain in stretches]


def judged(
    stretches: Sequence[tuple[int, float]], phases: Sequence[tuple[str, int]], window: int = 10
) -> Score:
    tokens = sum(n for n, _ in stretches)
    return score(run(*stretches), run((tokens, 1.0)), run((tokens, 4.0)), phases, window)


def test_a_fall_and_a_rise() -> None:
    stretches = [(100, 2.0), (30, 0.5), (70, 1.6)]
    found = judged(stretches, [("a", 100), ("b", 100)])
    time = 100 / 2.0 + 30 / 0.5 + 70 / 1.6
    assert found.tokens_per_second == pytest.approx(200 / time)
    assert found.ratio == pytest.approx(200 / time)
    assert found.regret == pytest.approx(time / 50 - 1)
    assert found.floor == pytest.approx(0.5)
    assert found.drop == [pytest.approx(0.25)]
    assert found.recovery == [30]  # the first window all of whose tokens are fast again
    assert found.forgetting is None


def test_a_window_needs_95_percent_only() -> None:
    found = judged([(100, 1.0), (20, 1.95), (80, 2.0)], [("a", 100), ("b", 100)])
    assert found.recovery == [0]


def test_a_hard_stretch_that_is_the_text_s_own_is_no_lag() -> None:
    text = [(100, 2.0), (30, 0.5), (70, 2.0)]
    plain, best = run((200, 1.0)), run(*((n, 2 * gain) for n, gain in text))
    phases = [("a", 100), ("b", 100)]
    found = score(run(*text), plain, best, phases, 10)
    assert (found.recovery, found.lag) == ([30], [0])
    slow = score(run((120, 1.0), (80, 2.0)), plain, run((200, 4.0)), phases, 10)
    assert (slow.recovery, slow.lag) == ([20], [20])


def test_no_shift_no_recovery() -> None:
    found = judged([(50, 2.0)], [("a", 50)])
    assert (found.recovery, found.lag, found.drop) == ([], [], [])


def test_windows_that_straddle_a_shift_are_not_held_against_the_new_phase() -> None:
    found = judged([(100, 1.0), (100, 2.0)], [("a", 100), ("b", 100)])
    assert found.drop == [pytest.approx(2.0)]
    assert found.recovery == [0]
    found = judged([(100, 1.0), (100, 2.0), (100, 0.5)], [("a", 100), ("b", 100), ("c", 100)])
    assert found.drop == [pytest.approx(2.0), pytest.approx(0.25)]


def test_what_was_forgotten() -> None:
    stretches = [(50, 1.0), (50, 2.0), (100, 1.0), (100, 1.5)]
    found = judged(stretches, [("a", 100), ("b", 100), ("a", 100)])
    assert found.forgetting == pytest.approx(1.5 / 2.0)


def test_a_step_is_spread_over_its_tokens() -> None:
    spans = [[Span(4, 2.0, 3, "m")], [Span(6, 3.0, 5, "m")]]
    found = score(spans, run((4, 1.0), (6, 1.0)), spans, [("a", 10)], 5)
    assert (found.ratio, found.floor, found.regret) == (2.0, 2.0, 0.0)
    assert found.tokens_per_step == 5.0


def test_runs_of_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="9, 10, 10 tokens of 10"):
        score(run((9, 1.0)), run((10, 1.0)), run((10, 1.0)), [("a", 10)])
