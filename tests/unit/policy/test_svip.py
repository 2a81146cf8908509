from tests.steps import level, session

from foretoken.policy.svip import Svip
from foretoken.types import Level


def test_it_stops_above_six_tenths_of_a_nat():
    """Brief, check 5: at H = 0.61, not at 0.59."""
    policy, s = Svip(Svip.Options(nodes=64)), session()
    assert not policy.go_on(s, level(0.9, nats=[0.61]))
    assert policy.go_on(s, level(0.01, nats=[0.59]))
    assert policy.budget(s).depth == 40


def test_it_looks_at_the_row_of_the_likeliest_node():
    policy, s = Svip(Svip.Options()), session()
    nats = [0.1, 2.0]
    assert policy.go_on(s, Level(2, [0.2, 0.9], [0.3, 0.2], [0, 1], nats))
    assert not policy.go_on(s, Level(2, [0.2, 0.9], [0.3, 0.4], [0, 1], nats))
    assert policy.go_on(s, Level(2, [], [], [], nats))
