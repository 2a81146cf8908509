from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from foretoken.draft.base import Context
from foretoken.draft.ngram_index import NgramIndex
from foretoken.draft.prompt_lookup import PromptLookup
from foretoken.types import Budget


def start(tokens, **options):
    drafter = PromptLookup(PromptLookup.Options(**options), Context(100, (99,), ""))
    session = SimpleNamespace(tokens=list(tokens), memo={}, index=0, n_prompt=len(tokens))
    drafter.begin(session)
    return drafter, session


def draft(tokens, budget=Budget(10), **options):  # noqa: B008
    drafter, session = start(tokens, **options)
    return list(drafter.propose(session, budget).tokens)


def test_copies_what_followed():
    assert draft([1, 2, 3, 4, 5, 1, 2, 3], Budget(2)) == [4, 5]


def test_the_longest_match_wins_then_the_latest():
    assert draft([1, 2, 7, 5, 2, 8, 1, 2], Budget(1)) == [7]  # two tokens beat one
    assert draft([1, 2, 7, 1, 2, 8, 1, 2], Budget(1)) == [8]  # the latest of two


def test_new_text_gives_no_draft():
    assert draft(range(20)) == []
    assert draft([1]) == []
    assert draft([1, 2, 1], min_ngram=2) == []


def test_a_loop_goes_on_in_circles():
    assert draft([9, 1, 2, 1, 2], Budget(5)) == [1, 2, 1, 2, 1]
    assert draft([7, 7], Budget(3)) == [7, 7, 7]


def test_never_past_the_end_of_text():
    assert draft([1, 2, 99, 5, 1, 2]) == [99]


def test_obeys_the_budget_and_its_length():
    tokens = [*range(30), 0]
    assert len(draft(tokens, Budget(50))) == 10
    assert len(draft(tokens, Budget(50), length=20)) == 20
    assert len(draft(tokens, Budget(50, depth=4))) == 4
    assert draft(tokens, Budget(0)) == []


def test_nothing_remains_after_end():
    drafter, session = start([1, 2, 1])
    drafter.end(session)
    assert session.memo == {}


def test_copying_takes_length_plus_one_tokens_per_step():
    source = list(range(1, 67))
    drafter, session = start([*source, 0, 1])
    steps = 0
    while len(session.tokens) < 67 + 66:
        tree = drafter.propose(session, Budget(10))
        at = len(session.tokens) - 67
        accepted = [t for t, want in zip(tree.tokens, source[at:], strict=False) if t == want]
        session.tokens += accepted + source[at + len(accepted) :][:1]
        steps += 1
    assert steps == 6


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 4))
def test_incremental_index_equals_a_scan(tokens, max_n):
    index = NgramIndex(max_n)
    for length in range(1, len(tokens) + 1):
        text = tokens[:length]
        want = (0, 0)
        for n in range(min(max_n, length), 0, -1):
            ends = [e for e in range(n, length) if text[e - n : e] == text[length - n :]]
            if ends:
                want = (n, ends[-1])
                break
        if length % 2 or length == len(tokens):  # calls may skip tokens
            assert index.find(text) == want


def test_options_are_ordered_and_closed():
    with pytest.raises(ValidationError, match="min_ngram"):
        PromptLookup.Options(min_ngram=4)
    with pytest.raises(ValidationError):
        PromptLookup.Options(n=4)
