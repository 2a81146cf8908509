"""plain, oracle, corrupt, random."""

from types import SimpleNamespace

import pytest

from foretoken.draft.base import Context
from foretoken.draft.oracle import Corrupt, Oracle
from foretoken.draft.plain import Plain
from foretoken.draft.random import Random
from foretoken.types import Budget

CONTEXT = Context(50, (0,), "")


def session(n_prompt=3, n_output=0):
    return SimpleNamespace(tokens=[1] * (n_prompt + n_output), n_prompt=n_prompt, memo={}, index=0)


def test_plain_drafts_nothing():
    assert len(Plain(Plain.Options(), CONTEXT).propose(session(), Budget(64))) == 0
    assert Plain.nodes == 0


def test_oracle_goes_on_from_where_the_output_stands():
    oracle = Oracle(Oracle.Options(continuation=(5, 6, 7, 8)), CONTEXT)
    assert list(oracle.propose(session(), Budget(3)).tokens) == [5, 6, 7]
    assert list(oracle.propose(session(n_output=2), Budget(9)).tokens) == [7, 8]
    assert list(oracle.propose(session(n_output=2), Budget(9, depth=1)).tokens) == [7]
    assert len(oracle.propose(session(n_output=9), Budget(9))) == 0


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_corrupt_errs_at_its_rate_and_position_by_position(rate):
    answer = tuple(i % 50 for i in range(2000))
    corrupt = Corrupt(Corrupt.Options(continuation=answer, rate=rate, seed=1), CONTEXT)
    drafted = list(corrupt.propose(session(), Budget(2000)).tokens)
    wrong = [a != b for a, b in zip(drafted, answer, strict=True)]
    assert sum(wrong) / 2000 == pytest.approx(rate, abs=0.04)
    assert all(0 <= t < 50 for t in drafted)
    later = list(corrupt.propose(session(n_output=100), Budget(5)).tokens)
    assert later == drafted[100:105]
    if 0 < rate < 1:
        other = Corrupt(Corrupt.Options(continuation=answer, rate=rate, seed=2), CONTEXT)
        assert list(other.propose(session(), Budget(2000)).tokens) != drafted


def test_random_trees_are_repeatable_and_within_budget():
    drafter = Random(Random.Options(seed=3), CONTEXT)
    shapes = set()
    for n in range(30):
        tree = drafter.propose(session(n_output=n), Budget(20, depth=4))
        assert tree == drafter.propose(session(n_output=n), Budget(20, depth=4))
        assert 10 < len(tree) <= 20
        assert tree.depth <= 4
        assert len(set(zip(tree.parents, tree.tokens, strict=True))) == len(tree)
        shapes.add(tuple(tree.parents))
    assert len(shapes) > 25
    assert len(drafter.propose(session(), Budget(0))) == 0
    assert len(drafter.propose(session(), Budget(5, depth=0))) == 0
