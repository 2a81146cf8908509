from tests.steps import levels, session, step

from foretoken.policy.pace import Pace
from foretoken.tree import EMPTY, DraftTree


def test_medians_of_a_level_and_a_forward():
    pace, s = Pace(), session()
    assert (pace.level, pace.forward) == (None, None)
    for _ in range(5):
        pace.observe(s, step(levels(4), 0, 2.0, 0.4))
    pace.observe(s, step(levels(4), 0, 90.0, 90.0))  # somebody else was busy
    assert pace.level == 0.1
    assert pace.forward == 2.0
    for _ in range(31):
        pace.observe(s, step(levels(2), 0, 1.0, 0.6))
    assert (pace.level, pace.forward) == (0.3, 1.0)


def test_reading_a_prompt_counts_on_neither_side():
    """The target's, and the drafter's: in the session's first draft, whenever that is."""
    pace, s = Pace(), session()
    pace.observe(s, step(EMPTY, 0, 50.0, 0.0, fresh=400))
    assert pace.forward is None
    pace.observe(s, step(levels(2), 0, 1.0, 70.0))
    assert pace.level is None
    pace.observe(s, step(levels(2), 0, 1.0, 0.2))
    assert pace.level == 0.1
    pace.observe(session(), step(levels(2), 0, 1.0, 70.0))
    assert pace.level == 0.1


def test_levels_of_a_tree_have_the_nodes_that_they_had():
    pace, s = Pace(), session()
    tree = DraftTree([1, 2, 3, 4], [-1, -1, 0, 0])
    for _ in range(100):
        pace.observe(s, step(tree, 0))
    assert round(pace.width, 3) == 2.0
