"""Which shapes a target's forwards may have: free ones, one fixed shape, or a few buckets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shapes:
    """Rounds rows and columns of a forward up.

    buckets: row counts that are allowed, rising; () allows any. columns: the attended length is a
    multiple of it. chunk: most rows of one forward; longer prompts are read in pieces. alone: every
    session has its own forward.
    """

    buckets: tuple[int, ...] = ()
    columns: int = 1
    chunk: int = 512
    alone: bool = False

    def rows(self, n: int) -> int:
        """The allowed row count for n rows; n itself beyond the largest."""
        return rounded(n, self.buckets)

    def length(self, columns: int) -> int:
        """The allowed number of columns."""
        return -(-columns // self.columns) * self.columns


def rounded(n: int, buckets: Sequence[int]) -> int:
    """The least bucket of n rows; n itself where there is none."""
    at = bisect_left(buckets, n)
    return buckets[at] if at < len(buckets) else n


# For products that are made anew for every height: few heights.
ROUNDED_SHAPES = Shapes(
    buckets=(1, 2, 4, 8, 12, 16, *range(20, 40, 4), *range(40, 64, 8), *range(64, 128, 16),
             *range(128, 513, 32))
)  # fmt: skip

# One shape for everything: a matrix product of 32 rows gives each row the same bits wherever it
# stands and whoever else rides along, which products of different heights do not.
BITWISE_SHAPES = Shapes(buckets=(32,), chunk=32, alone=True)
