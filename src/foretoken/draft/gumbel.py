"""Draws from rows of probabilities, with and without repeats, and their Gumbel scores. Pure.

Gumbel-top-k adds noise to every log-probability of a row and takes the k largest: k draws without
replacement, in drawn order, each with a score (Kool et al. 1903.06059). Only the k winners matter,
so only they are made here, one after the other: the token is drawn from what is left of the row,
and its score from a Gumbel around the log of what is left, cut off at the score before it. The law
of tokens and scores is the same. A row of 128 k tokens costs k random numbers and not 128 k, and
nothing is lost to the granularity of float32 noise, which would hand the tail to chance.

All of it is float64 on the CPU, whatever the rows' device: searching for a few places is no work
for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretoken.types import FloatArray

IntArray = np.ndarray[Any, np.dtype[np.int64]]
_BLOCK = 256  # tokens per partial sum


class Urn:
    """Rows of tokens to draw from, in proportion to the numbers given.

    rows: [m, V] float32 or float64, non-negative; they are copied.
    """

    def __init__(self, rows: Tensor) -> None:
        m, vocab = rows.shape
        self._size = min(_BLOCK, vocab)
        whole = np.zeros((m, vocab + -vocab % self._size))
        whole[:, :vocab] = rows.detach().cpu().numpy()
        self._mass = whole.reshape(m, -1, self._size)
        self._blocks = self._mass.sum(-1)

    def left(self) -> FloatArray:
        """[m]: the mass of what is left; exactly 0 if that is nothing."""
        left: FloatArray = self._blocks.sum(-1)
        return left

    def draw(self, rows: IntArray, u: FloatArray) -> IntArray:
        """One token from each of these rows, which may repeat: [d] from [d].

        u: [d] uniform in [0, 1). Never a token without mass, as long as the row has any.
        """
        blocks = self._blocks[rows]
        block, rest = _quantile(blocks, u * blocks.sum(-1))
        place, _ = _quantile(self._mass[rows, block], rest)
        return block * self._size + place

    def remove(self, rows: IntArray, tokens: IntArray) -> None:
        """Take a token out of each of these rows ([d] each, no row twice)."""
        block, place = np.divmod(tokens, self._size)
        self._mass[rows, block, place] = 0.0
        # summed anew and not subtracted: what is left of a peaked row would be rounding alone
        self._blocks[rows, block] = self._mass[rows, block].sum(-1)


class Turns:
    """Draws without replacement from rows [m, V] (see `Urn`), made as they are asked for: a rank
    of all rows at a time."""

    def __init__(self, rows: Tensor, generator: torch.Generator) -> None:
        self._urn, self._generator = Urn(rows), generator
        self._everyone = np.arange(len(rows))
        self._left: list[FloatArray] = [self._urn.left()]  # before the draw of each rank
        self._tokens: list[IntArray] = []

    def left(self, row: int, rank: int) -> float:
        """Share of the row that is left before the draw of this rank; 0 where it has run dry."""
        while len(self._left) <= rank:
            self._turn()
        return float(self._left[rank][row] / self._left[0][row])

    def token(self, row: int, rank: int) -> int:
        """The draw of this rank; something must have been left."""
        while len(self._tokens) <= rank:
            self._turn()
        return int(self._tokens[rank][row])

    def _turn(self) -> None:
        drawn = self._urn.draw(self._everyone, uniform(self._everyone.shape, self._generator))
        some = self._left[-1] > 0
        self._urn.remove(self._everyone[some], drawn[some])
        self._tokens.append(drawn)
        self._left.append(self._urn.left())


def without_replacement(
    rows: Tensor, k: int, generator: torch.Generator
) -> tuple[IntArray, FloatArray]:
    """k draws from each row, each without the earlier ones: (tokens, left), both [m, k].

    rows: see `Urn`. tokens: in drawn order; -1 where a row had run dry. left: the share of the row
    that was left before each draw: 1 first, 0 for a dry row.
    """
    urn = Urn(rows)
    everyone = np.arange(len(rows))
    u = uniform((len(rows), k), generator)
    tokens, left = np.full(u.shape, -1), np.zeros(u.shape)
    for j in range(k):
        left[:, j] = urn.left()
        drawn = urn.draw(everyone, u[:, j])
        alive = left[:, j] > 0
        urn.remove(everyone[alive], drawn[alive])
        tokens[alive, j] = drawn[alive]
    return tokens, left / np.where(left[:, :1] > 0, left[:, :1], 1.0)


def independent(rows: Tensor, which: Sequence[int], generator: torch.Generator) -> list[int]:
    """One token for each entry of `which`, drawn from that row of `rows`; repeats happen."""
    drawn = Urn(rows).draw(np.array(which, dtype=np.int64), uniform((len(which),), generator))
    tokens: list[int] = drawn.tolist()
    return tokens


def conditioned(
    above: FloatArray, top: FloatArray, left: FloatArray, noise: FloatArray
) -> FloatArray:
    """Scores [..., k] of a node's draws, falling, given that the best has the node's own score.

    above: [...] log-probability of the node's path. top: [...] the node's score. left: [..., k],
    see `without_replacement`; 0 gives -inf. noise: [..., k] exponential of rate 1 (the first of
    each node is not used).

    A Gumbel variable is its location minus the log of an exponential one. Cut off at `top`, the
    exponential is at least exp(location - top), and by its lack of memory exactly that plus a
    fresh one. In logarithms nothing overflows.
    """
    scores = np.full(left.shape, -np.inf)
    scores[..., 0] = np.where(left[..., 0] > 0, top, -np.inf)
    for j in range(1, left.shape[-1]):
        before, some = scores[..., j - 1], left[..., j] > 0
        location = above + np.log(left[..., j], where=some, out=np.zeros(some.shape))
        reach = np.logaddexp(location - np.where(some, before, 0.0), np.log(noise[..., j]))
        # never above the one before, as rounding might have it
        scores[..., j] = np.where(some, np.minimum(location - reach, before), -np.inf)
    return scores


def survivors(scores: FloatArray, width: int) -> IntArray:
    """Indices [..., min(width, n)] of the largest of n scores, best first.

    Among equals the first stands, so that of a node's draws, which fall, a first part survives.
    """
    best: IntArray = np.argsort(-scores, axis=-1, kind="stable")[..., :width]
    return best


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> FloatArray:
    """Numbers in [0, 1), float64."""
    made = torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device)
    numbers: FloatArray = made.cpu().numpy()
    return numbers


def exponential(shape: tuple[int, ...], generator: torch.Generator) -> FloatArray:
    """Exponential numbers of rate 1, float64, none of them 0."""
    return np.maximum(-np.log1p(-uniform(shape, generator)), 2.0**-53)


def _quantile(mass: FloatArray, x: FloatArray) -> tuple[IntArray, FloatArray]:
    """Where x falls in each row's cumulative sum: (index [d], what x has beyond it [d]).

    mass: [d, n]. x: [d] in [0, sum). Never an index without mass, unless the row has none.
    """
    ends = mass.cumsum(-1)
    x = np.minimum(x, np.nextafter(ends[:, -1], 0.0))  # rounding may have pushed it to the end
    # the first end that is beyond x, which skips what has no mass, at x = 0 too
    index = np.minimum((ends <= x[:, None]).sum(-1), mass.shape[-1] - 1)
    before = np.where(index > 0, ends[np.arange(len(x)), index - 1], 0.0)
    return index, x - before
