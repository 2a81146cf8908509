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


def test_levels_that_the_text_says_nothing_of_are_not_counted():
    """Two of four levels were scored and stood, and the token after them was the third's."""
    depths = Depths()
    depths.observe([1] * 4, 3, 0.4, judged=3)
    assert depths._tried == [1.0, 1.0, 1.0, 0.0]
    assert depths._stood == [1.0, 1.0, 1.0, 0.0]
    depths.observe([1] * 4, 2, 0.4, judged=3)
    assert depths._tried[2:] == [pytest.approx(1.98), 0.0]


@pytest.mark.parametrize("reach", [0.1, 0.4, 0.6, 1.0])
def test_another_level_pays_if_it_brings_more_than_it_takes(reach):
    """Acceptance 0.8 below, a level and its rows at 0.3 plain steps."""
    depths = Depths()
    depths._tried, depths._stood, depths._nodes = [1e6] * 3, [8e5] * 3, [1.0] * 3
    depths.seconds = 0.2
    pays = depths.worth(2, reach, 1.0, lambda n: 1.0 + 0.1 * n)
    assert pays == (reach * 0.8 > 0.3)
