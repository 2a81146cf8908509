"""Debt: over every window, whatever happens, time stays within what was promised."""

import random

from hypothesis import given
from hypothesis import strategies as st

from foretoken.policy.debt import Debt

SLACK, ALLOWANCE, CREDIT = 0.02, 3.0, 2.0


@given(seed=st.integers(0, 10_000), dear=st.floats(0.01, 2.5), hope=st.floats(0.0, 1.0))
def test_every_window_is_bounded(seed, dear, hope):
    """Drafted steps cost 1 + dear plain steps and bring 1 or 5 tokens, as luck has it."""
    dice, debt = random.Random(seed), Debt(SLACK, ALLOWANCE, CREDIT)
    history = []
    for i in range(300):
        lucky = dice.random() < (hope if i < 150 else 0.0)
        if debt.affords(1.0 + dear, 1.0):
            seconds, tokens = 1.0 + dear, 5 if lucky else 1
        else:
            seconds, tokens = 1.0, 1
        debt.settle(seconds, 1.0, tokens)
        history.append(seconds - (1 + SLACK) * tokens)
    worst = running = 0.0
    for over in history:  # the largest sum of any window
        running = max(0.0, running + over)
        worst = max(worst, running)
    assert worst <= ALLOWANCE + CREDIT + 1e-9


def test_what_never_stands_is_given_up_and_tried_again():
    debt, drafted = Debt(SLACK, ALLOWANCE, CREDIT), []
    for i in range(2000):
        if debt.affords(1.5, 1.0):
            drafted.append(i)
            debt.settle(1.5, 1.0, 1)
        else:
            debt.settle(1.0, 1.0, 1)
    assert len([i for i in drafted if i < 10]) >= 6  # the allowance is spent first
    later = [i for i in drafted if i > 1000]
    assert 30 <= len(later) <= 50  # then slack / loss of the steps: 0.02 / 0.5
