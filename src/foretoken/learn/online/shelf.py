"""Weights that served before, to be taken up again when their topic comes back.

What is learned for a new topic is partly learned at the cost of the last one: a drafter that was
right on 60 % of one topic's tokens is right on 40 % after a hundred requests of another, and needs
as long again to come back. So the weights that were given, and those that others took the place of,
are kept, and whenever the gate is asked they are judged by the same held-out rows. Which of them
serves is a choice, not training: it takes two or three requests.
Source: own. Cost: the weights in memory, and a forward of the held-out texts for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

Weights = list[Tensor]


class Shelf:
    """At most `most` >= 1 sets of weights, of which the first, those that were given, never goes.

    mark: weights that served some updates ago. Each update forgets little; against the mark it is
    seen what they forget together.
    """

    def __init__(self, given: Sequence[Tensor], most: int) -> None:
        self.most = most
        self.mark = copied(given)
        self._sets: list[Weights] = [copied(given)]

    def __len__(self) -> int:
        return len(self._sets)

    def __iter__(self) -> Iterator[Weights]:
        """All sets, not to be changed."""
        return iter(self._sets)

    def remember(self, place: int, moves_on: bool, served: Sequence[Tensor]) -> None:
        """Others serve from now on. place: for the mark, -1 for none; moves_on: nothing of it would
        be missed."""
        if place >= 0:
            self.put(place, self.mark)
        if place >= 0 or moves_on:
            self.move_on(served)

    def move_on(self, served: Sequence[Tensor]) -> None:
        """The mark is what serves now."""
        self.mark = copied(served)

    def put(self, at: int, served: Sequence[Tensor]) -> None:
        """Weights that served come onto the shelf, in the place of others or behind the last."""
        self._sets[at : at + 1] = [copied(served)]

    def change(self, at: int, place: int, served: Sequence[Tensor]) -> Weights:
        """The set at `at`, to serve from now on. What served until now takes its place, or `place`
        (-1: none) where that is of the given ones."""
        taken = self._sets[at]
        if at or place > 0:
            self.put(at or place, served)
        return taken


def copied(weights: Sequence[Tensor]) -> Weights:
    """The same numbers in memory of their own."""
    return [weight.detach().clone() for weight in weights]
