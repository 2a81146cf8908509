"""The loop rule against its own definition, tried one index at a time."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from foretoken.bench.loops import PERIOD, SPAN, TIMES, distinct_4grams, loop_start


def slowly(tokens: list[int]) -> int | None:
    """The definition in the docstring, by brute force."""
    found = []
    for p in range(1, PERIOD + 1):
        length = max(TIMES * p, SPAN)
        for i in range(len(tokens) - length + 1):
            part = tokens[i : i + length]
            if all(part[j] == part[j - p] for j in range(p, length)):
                found.append(i + p)
    return min(found, default=None)


texts = st.builds(
    lambda head, cycle, times, tail: head + cycle * times + tail,
    st.lists(st.integers(0, 3), max_size=12),
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
    st.integers(0, 18),
    st.lists(st.integers(0, 3), max_size=6),
)


@given(texts)
@example([7] * SPAN)
@example([7] * (SPAN - 1))
@example([1, *range(2, 2 + PERIOD)] * 3)
@example(list(range(PERIOD)) * 3)
@example(list(range(PERIOD + 1)) * 3)
def test_equals_brute_force(tokens: list[int]) -> None:
    assert loop_start(tokens) == slowly(tokens)


def test_keeps_the_first_cycle_and_forgives_short_runs() -> None:
    assert loop_start([9, 8, *[1, 2, 3, 4, 5, 6] * 3]) == 8
    assert loop_start([9, 8, *[5] * 15, 3]) is None  # a ruler of dashes
    assert loop_start([]) is None
    assert loop_start(list(range(200))) is None


def test_distinct_4grams() -> None:
    assert distinct_4grams([1, 2, 3]) is None
    assert distinct_4grams([1, 2, 3, 4]) == 1.0
    assert distinct_4grams([1] * 7) == 0.25
