"""An update that loses acceptance on held-out rows is taken back, bit for bit."""

import math

import numpy as np
import pytest
from tests.unit.learn.online.toys import feed, learner, same, table, texts, trainee

from foretoken.learn.online.gate import Check, Gate

A, B = table(1), table(2)


def test_what_passes() -> None:
    assert Check(0.5, 0.495, 9).passes(0.01)
    assert not Check(0.5, 0.485, 9).passes(0.01)
    assert Check(math.nan, math.nan, 0).passes(0.01), "no rows, nothing against it"
    assert not Check(0.5, math.nan, 9).passes(1.0)


def test_it_compares_the_same_rows_before_and_after() -> None:
    one, samples = trainee(), texts(A, range(4))
    gate, weights = Gate(one, samples), np.array([0.5**1.5, 0.5, 0.5**0.5, 1.0])
    before = float((weights * one.accepted(samples)).sum() / (20 * weights.sum()))
    assert gate.check() == Check(pytest.approx(before), pytest.approx(before), 80)
    one.learn([samples] * 5)
    check = gate.check()
    assert check.before == before < check.after


def test_after_a_change_of_topic_the_last_texts_decide() -> None:
    """Six texts of A, then two of B: what helps B and costs A passes."""
    one = trainee(lr=0.05)
    one.learn([texts(A, range(6))] * 20)
    one.keep()
    held_out = [*texts(A, range(10, 16)), *texts(B, range(20, 22))]
    gate, even = Gate(one, held_out), one.acceptance(held_out)
    one.learn([texts(B, range(6))] * 20)
    assert one.acceptance(held_out) < even
    assert gate.check().passes(0.0)


@pytest.mark.parametrize("tolerance", [0.01, 1.0])
def test_a_harmful_update_is_taken_back(tolerance: float) -> None:
    """Held out are texts of A while texts of B are learned; without a tolerance it would stand."""
    one = learner(tolerance=tolerance, lr=0.05, steps=8, trials=0)
    feed(one, texts(A, range(4)))
    for _ in range(5):
        feed(one, texts(A, range(4)))
    good, drafter = [w.clone() for w in one.trainee.weights], one.drafter
    kept, back = one.facts.kept, one.facts.rolled_back
    one.buffer.fresh = texts(B, range(6))
    one._finished = 4
    one.advance()
    entry = one.facts.log[-1]
    assert entry["after"] < entry["before"] - 0.01
    if tolerance == 0.01:
        assert same(good, one.trainee.weights)
        assert one.drafter is drafter
        assert (one.facts.kept, one.facts.rolled_back) == (kept, back + 1)
    else:
        assert not same(good, one.trainee.weights)
        assert (one.facts.kept, one.facts.rolled_back) == (kept + 1, back)


def test_updates_that_lose_are_not_served_and_may_add_up() -> None:
    """Two that lose wait, the third is taken back; and one that wins after a loss stands."""
    one = learner(tolerance=0.01, lr=0.05, steps=8, trials=2)
    for _ in range(6):
        feed(one, texts(A, range(4)))
    one.trainee.restore()
    one._waiting = one.facts.waiting = one.facts.rolled_back = 0
    good, drafter, kept = [w.clone() for w in one.trainee.weights], one.drafter, one.facts.kept

    def learn(of) -> None:
        one.buffer.fresh = texts(of, range(6))
        one._finished = 4
        one.advance()

    learn(B)
    learn(B)
    assert one.drafter is drafter, "what is served has not changed"
    assert same(good, one.trainee.kept)
    assert not same(good, one.trainee.weights), "it learns on"
    assert (one.facts.waiting, one.facts.rolled_back) == (2, 0)
    learn(B)
    assert same(good, one.trainee.weights)
    assert (one.facts.kept, one.facts.waiting, one.facts.rolled_back) == (kept, 2, 1)
    learn(B)
    one.buffer.held_out = []  # nothing is against it any more
    learn(B)
    assert one.facts.kept == kept + 1
    assert one.drafter is not drafter


def test_held_out_texts_are_not_learned_from() -> None:
    one = learner()
    seen = []
    feed(one, texts(A, range(3)))
    original = one._batches
    one._batches = lambda *args: seen.extend(original(*args)) or original(*args)
    feed(one, texts(A, range(3, 40)))
    held = one.buffer.held_out
    assert seen
    assert not {id(s) for s in held} & {id(s) for batch in seen for s in batch}
    assert np.mean([len(batch) for batch in seen]) > 2
