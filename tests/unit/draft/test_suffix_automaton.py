import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretoken.draft import suffix_automaton
from foretoken.draft.suffix_automaton import SuffixAutomaton

TEXT = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def substrings(text):
    return {tuple(text[i:j]) for i in range(len(text)) for j in range(i + 1, len(text) + 1)}


def earlier(text):
    """(length, place) of the longest tail that occurred before, at its latest place."""
    for n in range(len(text) - 1, 0, -1):
        ends = [e for e in range(n, len(text)) if text[e - n : e] == text[-n:]]
        if ends:
            return n, ends[-1]
    return 0, None


@given(TEXT)
def test_the_match_is_the_longest_tail_at_its_latest_place(text):
    automaton = SuffixAutomaton()
    for i, token in enumerate(text):
        automaton.append(token)
        match, place = earlier(text[: i + 1])
        assert automaton.match == match
        assert place in (None, automaton.place)
    assert automaton.states <= 2 * len(text)


def test_it_accepts_the_substrings_and_nothing_else():
    dice = random.Random(1)
    text = dice.choices(range(4), k=200)
    automaton, known = SuffixAutomaton(text), substrings(text)
    assert all(pattern in automaton for pattern in known)
    others = {tuple(dice.choices(range(4), k=dice.randint(3, 8))) for _ in range(2000)} - known
    assert others
    assert not any(pattern in automaton for pattern in others)
    assert automaton.states <= 400


def test_a_long_loop_costs_no_more_than_the_chain(monkeypatch):
    monkeypatch.setattr(suffix_automaton, "CHAIN", 4)
    automaton = SuffixAutomaton([1] * 30)
    assert (automaton.match, automaton.place) == (29, 29)  # the longest is always fresh
    automaton.append(2)
    assert automaton.match == 0
    automaton.append(1)
    assert automaton.match == 1
    assert automaton.text[automaton.place - 1] == 1  # a place of it, if not the latest


@pytest.mark.parametrize("text", [[], [5]])
def test_without_a_past_there_is_no_match(text):
    assert SuffixAutomaton(text).match == 0
