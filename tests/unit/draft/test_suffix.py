from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from foretoken.draft.base import Context
from foretoken.draft.suffix import LENGTHS, PRIOR, Suffix
from foretoken.types import Budget

ALL = 1e-9  # a copy ends for no doubt


def start(tokens, eos=(), **options):
    drafter = Suffix(Suffix.Options(**options), Context(1000, eos, ""))
    session = SimpleNamespace(tokens=list(tokens), memo={}, index=0, n_prompt=len(tokens))
    drafter.begin(session)
    return drafter, session


def draft(tokens, budget=Budget(10), eos=(), **options):  # noqa: B008
    drafter, session = start(tokens, eos, **options)
    return drafter.propose(session, budget)


def write(drafter, session, tokens):
    context = len(session.tokens)
    session.tokens += tokens
    drafter.observe(session, SimpleNamespace(context=context))


def test_the_longest_match_wins_then_the_latest():
    assert draft([1, 2, 7, 5, 2, 8, 1, 2], Budget(1)).tokens == [7]
    assert draft([1, 2, 7, 1, 2, 8, 1, 2], Budget(1)).tokens == [8]


def test_new_text_gives_no_draft():
    assert len(draft(range(20))) == 0
    assert len(draft([1])) == 0
    assert len(draft([1, 2, 1], min_match=2)) == 0


def test_a_loop_goes_on_in_circles():
    assert draft([9, 1, 2, 1, 2], Budget(5), least=ALL).tokens == [1, 2, 1, 2, 1]


def test_nothing_below_an_end_of_text():
    assert draft([1, 2, 99, 5, 1, 2], eos=(99,), least=ALL).tokens == [99]


def test_q_and_evidence_follow_the_length_of_the_match():
    tree = draft([*range(50), *range(4)], Budget(30), least=ALL)
    lengths = range(4, 34)
    classes = [max(c for c, least in enumerate(LENGTHS) if least <= n) for n in lengths]
    assert tree.evidence == classes
    assert tree.q == pytest.approx([PRIOR[c] for c in classes])
    assert tree.is_chain


def test_obeys_the_budget_and_its_options():
    tokens = [*range(60), *range(20)]
    assert len(draft(tokens, Budget(50), length=20, least=ALL)) == 20
    assert len(draft(tokens, Budget(50, depth=4), least=ALL)) == 4
    assert len(draft(tokens, Budget(0))) == 0
    for least in (0.5, 0.2, 0.05):
        for tree in (draft(tokens, Budget(50), least=least),
                     draft(tokens, Budget(50, min_prob=least), least=ALL)):  # fmt: skip
            assert tree.joint[-1] >= least
            assert tree.joint[-1] * tree.q[-1] < least


def test_longer_matches_are_copied_further():
    sizes = [len(draft([*range(200), *range(n)], Budget(99))) for n in (1, 3, 9, 32)]
    assert sizes == sorted(set(sizes))


def test_it_learns_how_often_copies_are_right():
    drafter, session = start([1, 2, 3, 4, 5, 6])
    before = draft([1, 2, 1], Budget(1)).q[0]
    for _ in range(30):
        write(drafter, session, [1, 2, 3, 4, 5, 6])  # copies of long matches are right
    assert drafter.propose(session, Budget(1)).q[0] > 0.96
    for token in range(100, 130):
        write(drafter, session, [1, token])  # after 1 alone, never
    write(drafter, session, [1])
    assert drafter.propose(session, Budget(1)).q[0] < before / 2


def test_proposing_changes_nothing():
    drafter, session = start([1, 2, 3, 1])
    automaton = session.memo["suffix"].automaton
    before = (list(automaton.text), automaton.match, automaton.states, automaton.place)
    first = drafter.propose(session, Budget(9))
    assert drafter.propose(session, Budget(9)) == first
    assert before == (list(automaton.text), automaton.match, automaton.states, automaton.place)


def test_a_long_text_is_forgotten_by_halves():
    drafter, session = start(range(30), max_tokens=40)
    write(drafter, session, [*range(100, 120)])
    assert len(session.memo["suffix"].automaton) <= 40
    write(drafter, session, [110, 111])
    assert drafter.propose(session, Budget(1)).tokens == [112]
    write(drafter, session, [0, 1])
    assert len(drafter.propose(session, Budget(1))) == 0
    drafter, session = start(range(1000), max_tokens=40)
    assert len(session.memo["suffix"].automaton) == 40


def test_nothing_remains_after_end():
    drafter, session = start([1, 2, 1])
    drafter.end(session)
    assert session.memo == {}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 5))
@settings(max_examples=50)
def test_steps_of_any_size_teach_the_same(tokens, size):
    drafter, session = start(tokens[:1])
    for at in range(1, len(tokens), size):
        write(drafter, session, tokens[at : at + size])
    one, single = start(tokens[:1])
    for token in tokens[1:]:
        write(one, single, [token])
    assert drafter.propose(session, Budget(20)) == one.propose(single, Budget(20))


def test_options_are_closed():
    with pytest.raises(ValidationError):
        Suffix.Options(n=4)
