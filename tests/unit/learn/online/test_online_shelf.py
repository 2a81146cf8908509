"""Weights that served before serve again when their topic comes back."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from tests.unit.learn.online.toys import (
    alpha,
    feed,
    learner,
    same,
    store,
    table,
    texts,
    trainee,
)

from foretoken.learn.online.gate import Check
from foretoken.learn.online.shelf import Shelf

A, B = table(1), table(2)


def weights(value: float) -> list[torch.Tensor]:
    return [torch.full((2,), value)]


def values(shelf: Shelf) -> list[float]:
    return [float(each[0][0]) for each in shelf]


def test_the_given_weights_never_go() -> None:
    shelf = Shelf(weights(0), 3)
    assert same(shelf.change(0, 1, weights(1)), weights(0))
    assert values(shelf) == [0, 1]
    assert same(shelf.change(0, 2, weights(2)), weights(0))
    assert same(shelf.change(0, -1, weights(3)), weights(0))
    assert values(shelf) == [0, 1, 2], "no place was worth it"
    assert same(shelf.change(1, 2, weights(4)), weights(1))
    assert values(shelf) == [0, 4, 2]
    assert same(shelf.change(0, 2, weights(5)), weights(0))
    assert values(shelf) == [0, 4, 5]


def test_the_mark_comes_onto_the_shelf_or_moves_on_or_waits() -> None:
    shelf = Shelf(weights(0), 3)
    shelf.remember(-1, False, weights(1))
    assert float(shelf.mark[0][0]) == 0
    shelf.remember(-1, True, weights(2))
    assert float(shelf.mark[0][0]) == 2
    assert values(shelf) == [0]
    shelf.remember(1, False, weights(3))
    assert values(shelf) == [0, 2]
    assert float(shelf.mark[0][0]) == 3


def test_what_is_on_it_is_a_copy() -> None:
    mine = weights(1)
    shelf = Shelf(mine, 2)
    shelf.put(1, mine)
    mine[0] += 1
    assert values(shelf) == [1, 1]


@pytest.mark.parametrize(
    ("before", "after", "stands", "back"),
    [
        (0.3, 0.4, True, True),
        (0.3, 0.6, True, False),
        (0.3, 0.6, False, True),
        (0.495, 0.3, False, False),
        (0.5, 0.4, False, False),
        (math.nan, math.nan, False, False),
    ],
)
def test_it_must_beat_both(before: float, after: float, stands: bool, back: bool) -> None:
    assert Check(before, after, 9, 0.5, 0).comes_back(stands) == back
    assert not Check(before, after, 9).comes_back(stands)


@cache
def knows_a(steps: int) -> Any:
    """A drafter that has seen so many batches of A; nobody may write to it."""
    one = trainee(lr=0.02)
    one.learn([texts(A, range(60))] * steps)
    return one.model.requires_grad_(False)


def test_a_topic_that_comes_back_is_known_again_at_once() -> None:
    """Some texts of A, many of B, then A again, then B again."""
    base = knows_a(10)
    one, forgets = (
        learner(base=lambda: base, tolerance=0.0, lr=0.01, steps=8, shelf=shelf) for shelf in (3, 0)
    )
    for each in (one, forgets):
        feed(each, texts(A, range(100, 140)))
    knew = alpha(one, A)
    for each in (one, forgets):
        feed(each, texts(B, range(200, 280)))
    learned = alpha(one, B)
    assert learned > knew - 0.2 > alpha(one, A) + 0.1, "learned at the cost of what was known"
    for each in (one, forgets):
        feed(each, texts(A, range(300, 320)))
    back = next(entry for entry in one.facts.log if entry["recalled"])
    assert back["shelved"] > back["before"]
    assert alpha(one, A) > knew - 0.1
    assert alpha(one, A) > alpha(forgets, A) + 0.05, "who must learn it again is not so far"
    feed(one, texts(B, range(400, 420)))
    assert alpha(one, B) > learned - 0.02
    assert one.facts.recalled == 2
    assert forgets.facts.recalled == 0


def test_who_recalls_has_the_very_weights() -> None:
    """Those that were given, where nothing better was known of the topic."""
    base = knows_a(200)
    given = [weight.clone() for weight in base.parameters()]
    one = learner(base=lambda: base, tolerance=0.0, lr=0.01, steps=8)
    feed(one, texts(B, range(200, 280)))
    seed = 300
    while not one.facts.recalled and seed < 340:
        served = [weight.clone() for weight in one.trainee.kept]
        feed(one, texts(A, range(seed, seed + 1)))
        seed += 1
    assert same(one.drafter, given)
    assert same(one.trainee.kept, given)
    assert same(one.trainee.weights, given)
    assert same(list(base.parameters()), given), "nobody wrote to what was given"
    assert same(list(one._shelf)[-1], served), "what was learned is kept for its return"


def test_a_new_domain_starts_from_what_is_served() -> None:
    """Not from weights that wait for the gate."""
    one = store(domains=2, route=lambda prompt: str(prompt[0] % 2 or ""), tolerance=0.0, lr=0.05)
    default = one.get("")
    feed(default, texts(A, range(40)))
    served = [weight.clone() for weight in default.trainee.kept]
    with torch.no_grad():
        default.trainee.weights[0] += 1.0
    assert same(list(one._start().parameters()), served)
    assert not same(default.trainee.weights, served), "they go on waiting"
