import pytest
from pydantic import ValidationError

from foretoken.policy.fixed import Fixed
from foretoken.types import Budget


def test_gives_what_the_options_say():
    assert Fixed(Fixed.Options()).budget(None) == Budget(16)
    options = Fixed.Options(nodes=0, depth=3, min_prob=0.25)
    assert Fixed(options).budget(None) == Budget(0, 3, 0.25)


@pytest.mark.parametrize(
    "bad", [{"nodes": -1}, {"nodes": 1025}, {"depth": 0}, {"min_prob": 2}, {"x": 1}]
)
def test_options_are_closed(bad):
    with pytest.raises(ValidationError):
        Fixed.Options(**bad)
