"""Depths: deep where it is free and right, not at all where a level costs more than a step."""

import pytest

from foretoken.policy.depths import Depths


def taught(accept, steps=200, deepest=8, seconds=0.0):
    """After steps that drafted `deepest` levels of one node, of which `accept` stood each time."""
    depths = Depths()
    for _ in range(steps):
        depths.observe([1] * deepest, accept, seconds * deepest)
    return depths


def test_a_free_and_perfect_draft_goes_to_the_bottom():
    assert taught(8).choose(8, 1.0, lambda n: 1.0)[0] == 8


def test_a_level_dearer_than_a_step_is_not_drafted():
    assert taught(8, seconds=1.1).choose(8, 1.0, lambda n: 1.0) == (0, 0.0)


def test_it_stops_where_acceptance_stops():
    assert taught(3, seconds=0.1).choose(8, 1.0, lambda n: 1.0 + 0.02 * n)[0] == 3


def test_hopeless_drafts_are_given_up_within_20_steps():
    depths = Depths()
    chosen = []
    for _ in range(20):
        chosen.append(depths.choose(8, 1.0, lambda n: 1.0 + 0.05 * n)[0])
        depths.observe([1] * chosen[-1], 0, 0.2 * chosen[-1])
    assert chosen[0] > 0
    assert chosen[-1] == 0


@pytest.mark.parametrize("cost", [0.05, 0.2, 0.4])
def test_the_choice_is_the_best_of_all_depths(cost):
    """Leviathan's model: acceptance 0.7 at every level."""
    depths, alpha, plain = Depths(), 0.7, 1.0
    depths._tried, depths._stood, depths._nodes = [1e6] * 8, [7e5] * 8, [1.0] * 8
    depths.seconds = cost
    gains = [sum(alpha**i for i in range(1, d + 1)) - cost * d for d in range(9)]
    depth, gain = depths.choose(8, 1.0 / plain, lambda n: plain)
    assert depth == max(range(9), key=gains.__getitem__)
    assert gain == pytest.approx(max(gains), abs=1e-4)
