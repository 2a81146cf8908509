"""svip: stop after a token from a law of high entropy.

SVIP ends a draft after a token that was taken from a law with sqrt(0.15 H) > 0.3, that is H > 0.6
nats, and after 40 tokens at the latest. It learns nothing. The paper derives 1 - sqrt(const H) as a
lower bound of acceptance by taking the cross-entropy for a multiple of H; as a bound it fails in
one random pair in ten (our notes on length-policies, rule 6).
In a tree, H is that of the row which the level's likeliest node was taken from.

Guarantee: exact. H belongs to the law before the draw, and the token is submitted anyway. It
promises no speed.
Source: Zhang et al. 2411.18462; Geralt-Targaryen/SVIP.
"""

from __future__ import annotations

import math

from pydantic import Field

from foretoken.policy.length import LengthPolicy, likeliest
from foretoken.types import Level, Session


class Svip(LengthPolicy):
    """See the module."""

    name = "svip"
    summary = "stop after a token from a law of more than 0.6 nats"
    source = "SVIP, Zhang et al. 2411.18462"
    stops = True
    needs = frozenset({"entropy"})

    class Options(LengthPolicy.Options):
        """The bar."""

        length: int = Field(40, ge=1, le=1024, description="most levels drafted")
        factor: float = Field(0.15, ge=0.0, description="a draft ends where sqrt(factor H)")
        threshold: float = Field(0.3, ge=0.0, description="is above this")

    def go_on(self, session: Session, level: Level) -> bool:  # noqa: ARG002
        """Whether the row of the level's likeliest token is sharp enough."""
        if not level.q:
            return True
        nats = level.entropy[level.parents[likeliest(level)]]
        bar: float = self.options.threshold
        return math.sqrt(self.options.factor * nats) <= bar
