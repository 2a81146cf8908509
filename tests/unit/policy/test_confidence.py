"""confidence: the bar, what moves it, and what it forgets."""

import random

import pytest
from tests.steps import chain, level, session, step
from tests.unit.policy.test_roc import brute

from foretoken.policy.confidence import Confidence
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Level


def policy(**options):
    return Confidence(Confidence.Options(nodes=64, **options))


def test_it_stops_below_the_threshold_and_not_at_it():
    p, s = policy(), session()
    assert p.go_on(s, level(0.4))
    assert not p.go_on(s, level(0.399))
    assert p.budget(s).depth == 20


def test_the_likeliest_node_speaks_for_its_level():
    p, s = policy(), session()
    assert p.go_on(s, Level(2, [0.1, 0.5], [0.05, 0.2]))
    assert not p.go_on(s, Level(2, [0.1, 0.5], [0.3, 0.2]))
    assert p.go_on(s, Level(2, [], []))


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_that_of_the_original(seed):
    """HF's bookkeeping by hand: probabilities of every draft up to its first mismatch."""
    dice, p, s = random.Random(seed), policy(), session()
    probs: list[float] = []
    matches: list[bool] = []
    threshold = 0.4
    for _ in range(40):
        q = [dice.randrange(1, 1000) / 1000 + 1e-6 for _ in range(dice.randrange(1, 6))]
        accepted = 0
        while accepted < len(q) and dice.random() < q[accepted] ** 0.5:
            accepted += 1
        p.observe(s, step(chain(*q), accepted))
        probs.extend(q)
        matches.extend([True] * accepted)
        if len(probs) > len(matches):
            matches.append(False)
        del probs[len(matches) :]
        if len(probs) > 5 and len(set(matches)) == 2:
            threshold = brute(list(zip(probs, matches, strict=True)), 3.0)
        assert p.threshold(s) == pytest.approx(threshold, abs=1.1e-3)
    assert threshold != 0.4


def test_few_tokens_or_one_kind_move_nothing():
    p, s = policy(), session()
    for _ in range(9):
        p.observe(s, step(chain(0.7, 0.8), 2))
    assert p.threshold(s) == 0.4
    few = policy()
    few.observe(s, step(chain(0.9, 0.8, 0.7, 0.6, 0.1), 4))
    assert few.threshold(s) == 0.4
    few.observe(s, step(chain(0.9), 1))
    assert few.threshold(s) == 0.6


def test_levels_of_a_tree_stand_if_a_node_of_theirs_does():
    """The second sibling stood: its level did, by the probability that the rule had looked at."""
    p, s = policy(), session()
    tree = DraftTree([1, 2, 3], [-1, -1, 1], [0.6, 0.3, 0.5])
    done = step(tree, 0)
    done.verdict.path = (1,)
    p.observe(s, done)
    assert p.state()["counts"]["stub at 0.0"] == [[600, 0.0, 1.0], [500, 1.0, 0.0]]


def test_nothing_is_learned_where_nothing_is_said_or_asked():
    for p, tree in (
        (policy(), EMPTY), (policy(), DraftTree.chain([1, 2])),
        (policy(adapt=False), chain(0.5, 0.5)), (policy(threshold=0.0), chain(0.5, 0.5)),
    ):  # fmt: skip
        p.observe(session(), step(tree, 0))
        assert p.state() == {}


def test_temperatures_and_drafters_are_apart():
    p = policy()
    for _ in range(3):
        p.observe(session(), step(chain(0.9, 0.8, 0.2), 2))
    assert p.threshold(session()) == 0.8
    assert p.threshold(session(temperature=1.0)) == 0.4
    assert p.threshold(session("another")) == 0.4


def test_old_tokens_are_forgotten():
    """The original would keep its threshold for ever; here what is new counts."""
    p, s = policy(history=60), session()
    for _ in range(200):
        p.observe(s, step(chain(0.9, 0.8), 1))  # 0.9 stands, 0.8 does not
    assert p.threshold(s) == 0.9
    for _ in range(200):
        p.observe(s, step(chain(0.5, 0.2), 1))
        p.observe(s, step(chain(0.9, 0.8), 2))
    assert p.threshold(s) == 0.5
    assert sum(no + yes for _, no, yes in p.state()["counts"]["stub at 0.0"]) <= 62


def test_the_counts_are_taken_up_with_their_threshold():
    p, s = policy(), session()
    for _ in range(3):
        p.observe(s, step(chain(0.9, 0.8, 0.2), 2))
    twin = policy()
    twin.load(p.state())
    assert twin.threshold(s) == p.threshold(s) == 0.8
