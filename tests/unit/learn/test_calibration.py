"""Calibration: bins find what q is worth, sources that agree are believed more, siblings sum to 1."""

import itertools
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretoken.learn.calibration import Mixer, Reliability, consistent, q_bin, squash, stretch


def test_nothing_seen_is_believed():
    assert Reliability().estimate(0.37, 2, 1, 0) == 0.37


def test_a_drafter_that_overclaims_is_found_out():
    """The truth is q squared; after 5,000 labels every estimate is within 0.03 (brief, check 4)."""
    dice, learned = random.Random(1), Reliability()
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    for _ in range(5000):
        q = dice.choice(levels)
        learned.learn(q, 0, 1, 0, float(dice.random() < q * q))
    for q in levels:
        # bins forget within 200 labels, so that their noise is sqrt(p (1-p) / 400)
        noise = 3 * math.sqrt(q * q * (1 - q * q) / 400)
        assert learned.estimate(q, 0, 1, 0) == pytest.approx(q * q, abs=max(0.03, noise))


def test_soft_labels_have_no_noise():
    dice, learned = random.Random(2), Reliability()
    for _ in range(2000):
        q = dice.choice([0.2, 0.6, 0.8])
        learned.learn(q, 0, 1, 0, q * q)
    for q in (0.2, 0.6, 0.8):
        assert learned.estimate(q, 0, 1, 0) == pytest.approx(q * q, abs=0.03)


def test_classes_of_evidence_are_kept_apart():
    learned = Reliability()
    for _ in range(100):
        learned.learn(0.5, 1, 1, 0, 1.0)
        learned.learn(0.5, 2, 1, 0, 0.0)
    assert learned.estimate(0.5, 1, 1, 0) > 0.9
    assert learned.estimate(0.5, 2, 1, 0) < 0.1
    assert learned.estimate(0.5, 3, 1, 0) == 0.5


def test_depth_and_luck_refine_and_borrow():
    learned = Reliability()
    for _ in range(100):
        learned.learn(0.5, 0, 1, 0, 1.0)
    assert learned.estimate(0.5, 0, 1, 0) > 0.9
    assert learned.estimate(0.5, 0, 5, 2) > 0.8  # never seen there: what is known elsewhere


def test_what_changed_is_forgotten():
    learned = Reliability()
    for _ in range(2000):
        learned.learn(0.5, 0, 1, 0, 1.0)
    for _ in range(300):
        learned.learn(0.5, 0, 1, 0, 0.0)
    assert learned.estimate(0.5, 0, 1, 0) < 0.3


@given(q=st.floats(0, 1))
def test_bins_cover_all_of_0_to_1(q):
    assert 0 <= q_bin(q) < 24
    assert squash(stretch(q)) == pytest.approx(min(max(q, 0.001), 0.995))


def test_agreement_is_worth_more_than_each_and_can_be_unlearned():
    mixer = Mixer()
    odds = [stretch(0.7), stretch(0.7)]
    weights = mixer.weights(0b11, 2, 0.0)
    assert mixer.mix(weights, odds) > 0.7
    for _ in range(2000):
        mixer.learn(weights, odds, mixer.mix(weights, odds), 0.5)
    assert mixer.mix(mixer.weights(0b11, 2, 0.0), odds) == pytest.approx(0.5, abs=0.02)
    assert mixer.mix(mixer.weights(0b01, 1, 0.0), odds[:1]) == pytest.approx(0.7)  # apart


def test_a_strong_rival_takes_more_from_the_start():
    mixer = Mixer()
    said = [mixer.mix(mixer.weights(1, 1, rival), [stretch(0.4)]) for rival in (0.1, 0.5, 0.9)]
    assert said[0] == pytest.approx(0.4)
    assert said[0] > said[1] > said[2] > 0.1


def test_a_rival_is_a_pattern_of_its_own():
    mixer = Mixer()
    calm, pressed = mixer.weights(1, 1, 0.1), mixer.weights(1, 1, 0.9)
    for _ in range(500):
        mixer.learn(pressed, [0.0], mixer.mix(pressed, [0.0]), 0.0)
    assert mixer.mix(pressed, [0.0]) < 0.1
    assert mixer.mix(calm, [0.0]) == 0.5


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_siblings_sum_to_at_most_one_in_the_same_order(chances):
    fair = consistent(chances)
    assert sum(fair) <= 1.0 + 1e-6
    if sum(chances) <= 1.0:
        assert fair == chances
    else:
        assert sum(fair) > 0.98
        order = sorted(range(len(fair)), key=lambda i: chances[i])
        ranked = [fair[i] for i in order]
        assert all(a <= b + 1e-9 for a, b in itertools.pairwise(ranked))


def test_who_is_sure_stays_sure():
    sure, unsure = consistent([0.97, 0.6])
    assert sure > 0.8
    assert unsure < 0.25


def test_state_goes_through_json():
    learned, mixer = Reliability(), Mixer()
    for q in (0.2, 0.8):
        learned.learn(q, 3, 2, 1, 1.0)
    mixer.learn(mixer.weights(3, 2, 0.5), [1.0, -1.0], 0.5, 1.0)
    again, mixed = Reliability(), Mixer()
    again.load(json.loads(json.dumps(learned.state())))
    mixed.load(json.loads(json.dumps(mixer.state())))
    assert again.state() == learned.state()
    assert mixed.state() == mixer.state()
    assert again.estimate(0.8, 3, 2, 1) == learned.estimate(0.8, 3, 2, 1)
