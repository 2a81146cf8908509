"""Drafts of a small model that branch as a policy asks (`Budget.shape`), in three kinds.

`InTurn` takes the slots of largest worth, level by level: fixed children are the likeliest ones,
drawn ones are drawn in turn, each from what its earlier siblings left of the row. More is grown
than is drafted: a slot that later levels outrank is left out at the end. Whether that happens never
hangs on the slot's own token, nor on what was drawn below it or after it beside it, because none of
these is worth more (see `shapes`): it is as if it had not been drawn. So every rule is exact that
tests siblings one by one.

`Independent` draws from the whole row each time, for rules that weigh the draws of a node as a set:
their number is settled before the first of them is drawn, and nothing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import NamedTuple

import torch
from torch import Tensor

from foretoken.draft.growth import Growth
from foretoken.draft.gumbel import Turns, independent
from foretoken.draft.shapes import ROOT, SURE, Place, Shape
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget


def shaped(
    kind: Kind,
    budget: Budget,
    generator: torch.Generator,
    greedy: bool,
    eos: Collection[int] = (),
) -> Growth:
    """A draft of this kind that branches as `budget.shape` says; see `Growth`.

    kind: "point", "without_replacement", or "sampled" (settled shapes only).
    """
    assert budget.shape is not None
    shape = budget.shape.within(budget.nodes, budget.depth)
    if kind == "sampled" and not greedy:
        return Independent(shape, budget, generator, greedy, eos)
    return InTurn(kind, shape, budget, generator, greedy, eos)


class _Slot(NamedTuple):
    """A child that was taken: whose (place in the frontier), which, and what it is worth."""

    at: int
    rank: int
    worth: float


class InTurn(Growth):
    """The worthiest slots; the nodes of `tree` are numbered anew."""

    def __init__(
        self,
        kind: Kind,
        shape: Shape,
        budget: Budget,
        generator: torch.Generator,
        greedy: bool,
        eos: Collection[int] = (),
    ) -> None:
        self.kind, self.shape, self.drawn = kind, shape, kind != "point" and not greedy
        if self.drawn and not shape.settled:
            # what was drawn must not decide whether something comes that outranks it
            budget = replace(budget, go_on=None)
        super().__init__(budget, generator, greedy, eos)
        self._worths: list[float] = []  # per node
        self._ranks: list[tuple[int, ...]] = []
        self._best: list[int] = []  # the worthiest nodes, at most budget.nodes, rising

    @property
    def room(self) -> int:
        """There is always room: what is outranked is left out at the end."""
        return self.budget.nodes

    def place(self, node: int) -> Place:
        """A node as the shape sees it."""
        return Place(math.exp(self.joint[node]), self._ranks[node]) if node >= 0 else ROOT

    def grow(self, logprobs: Tensor) -> None:
        """See the base class."""
        before, start = self._total(), len(self.tokens)
        if self.drawn:
            self._draw(logprobs.exp())
        else:
            self._fix(logprobs)
        self._select(start)
        if not self.drawn and self.frontier and not self.shape.goes_on(before, self._total()):
            self.stop()

    def _fix(self, logprobs: Tensor) -> None:
        choices = self.likeliest(logprobs, self.budget.nodes)
        rows = [[math.exp(log) for _, log in row] for row in choices]
        frontier = self.frontier
        for slot in self._open(rows, None):
            token, log = choices[slot.at][slot.rank]
            self.take(frontier[slot.at], [(token, log)])
            self._note(frontier[slot.at], slot)

    def _draw(self, rows: Tensor) -> None:
        likeliest = rows.topk(min(self.budget.nodes, rows.shape[-1]), dim=-1).values.tolist()
        turns = Turns(rows, self.generator)
        slots = self._open(likeliest, turns)
        tokens = [turns.token(slot.at, slot.rank) for slot in slots]
        q = rows[[slot.at for slot in slots], tokens].tolist()
        used = sorted({slot.at for slot in slots})
        first, frontier = self.keep(rows[used]), self.frontier
        row_of = {at: first + i for i, at in enumerate(used)}
        for slot, token, prob in zip(slots, tokens, q, strict=True):
            self.add(frontier[slot.at], token, prob, row_of[slot.at])
            self._note(frontier[slot.at], slot)

    def _open(self, rows: Sequence[Sequence[float]], turns: Turns | None) -> list[_Slot]:
        """The level's slots that may be among the best, worthiest first; of equals, those of the
        first node. rows: [frontier] the largest probabilities of each row, falling."""
        places = [self.place(node) for node in self.frontier]
        heap: list[tuple[float, int, int]] = []

        def offer(at: int, rank: int, most: float) -> None:
            if rank >= len(rows[at]):
                return
            left = turns.left(at, rank) if turns else None
            if left == 0.0:  # the row has run dry
                return
            worth = min(self.shape.worth(places[at], rank, rows[at], left), most)
            if worth > 0.0:
                heappush(heap, (-worth, at, rank))

        for at, node in enumerate(self.frontier):
            offer(at, 0, self._worths[node] if node >= 0 else math.inf)
        slots: list[_Slot] = []
        last = self._last()
        while heap and len(slots) < self.budget.nodes and -heap[0][0] > last:
            negative, at, rank = heappop(heap)
            slots.append(_Slot(at, rank, -negative))
            offer(at, rank + 1, -negative)
        return slots

    def _note(self, parent: int, slot: _Slot) -> None:
        self._worths.append(slot.worth)
        self._ranks.append((*(self._ranks[parent] if parent >= 0 else ()), slot.rank))

    def _select(self, start: int) -> None:
        """The best nodes with the new level (from `start`), and where to go on."""
        everyone = [*self._best, *range(start, len(self.tokens))]
        # stable: of equals the one that grew first, hence a parent or sibling before who needs it
        everyone.sort(key=lambda node: -self._worths[node])
        self._best = sorted(everyone[: self.budget.nodes])
        last = self._last()
        self.advance(n for n in self._best if n >= start and self._most_below(n) > last)
        # by worth and not by probability: a drawn node that is left out later must not have
        # taken the place of one whose children outrank it
        by_worth = sorted(self.frontier, key=lambda node: -self._worths[node])
        self.frontier = sorted(by_worth[: self.shape.width])

    def _most_below(self, node: int) -> float:
        """What a child can be worth at most."""
        left = 1.0 if self.drawn else None
        return min(self.shape.worth(self.place(node), 0, SURE, left), self._worths[node])

    def _last(self) -> float:
        """A slot must be worth more to enter the draft."""
        full = len(self._best) == self.budget.nodes
        return min(self._worths[node] for node in self._best) if full else 0.0

    def _total(self) -> float:
        return math.fsum(self._worths[node] for node in self._best)

    def fresh(self, first: int) -> list[int]:
        """Those that are among the best."""
        return [node for node in self._best if node >= first]

    def tree(self) -> DraftTree:
        """The worthiest nodes of all that grew."""
        best, at = self._best, {node: i for i, node in enumerate(self._best)} | {-1: -1}
        drawn = bool(self._rows)
        return DraftTree(
            tuple(self.tokens[n] for n in best), tuple(at[self.parents[n]] for n in best),
            tuple(self.q[n] for n in best), self.kind, torch.cat(self._rows) if drawn else None,
            tuple(self.row_of[n] for n in best) if drawn else (),
        )  # fmt: skip


class Below(NamedTuple):
    """A draw to be made: what it is worth, below which draw and node, and its ranks."""

    worth: float
    draw: int
    node: int
    ranks: tuple[int, ...]


class Independent(Growth):
    """So many draws below each draw; equal ones share a node (see `lm-iid-k`)."""

    kind = "sampled"

    def __init__(
        self,
        shape: Shape,
        budget: Budget,
        generator: torch.Generator,
        greedy: bool,
        eos: Collection[int] = (),
    ) -> None:
        super().__init__(budget, generator, greedy, eos)
        self.shape = shape
        self._next = self._children(-1, -1, math.inf, ())  # draws of the level to come
        if not self._next:
            self.stop()

    def _children(self, draw: int, node: int, most: float, ranks: tuple[int, ...]) -> list[Below]:
        out: list[Below] = []
        at = Place(0.0, ranks)  # a settled shape looks at ranks alone
        while len(out) < self.budget.nodes:
            most = min(self.shape.worth(at, len(out), SURE, 1.0), most)
            if most <= 0.0:
                break
            out.append(Below(most, draw, node, (*ranks, len(out))))
        return out

    def grow(self, logprobs: Tensor) -> None:
        """See the base class."""
        rows = logprobs.exp()
        place = {node: i for i, node in enumerate(self.frontier)}
        slots = sorted((s for s in self._next if s.node in place), key=lambda s: -s.worth)
        slots = sorted(slots[: self.budget.nodes - len(self.draw_nodes)], key=lambda s: s.ranks)
        which = [place[slot.node] for slot in slots]
        tokens = independent(rows, which, self.generator)
        q = rows[which, tokens].tolist()
        first, fresh = self.keep(rows), len(self.tokens)
        index: dict[tuple[int, int], int] = {}
        self._next = []
        for slot, at, token, prob in zip(slots, which, tokens, q, strict=True):
            if (slot.node, token) not in index:
                index[slot.node, token] = self.add(slot.node, token, prob, first + at)
            node, draw = index[slot.node, token], len(self.draw_nodes)
            self.draw_nodes.append(node)
            self.draw_parents.append(slot.draw)
            self._next += self._children(draw, node, slot.worth, slot.ranks)
        more = {s.node for s in self._next} if len(self.draw_nodes) < self.budget.nodes else ()
        self.advance(node for node in range(fresh, len(self.tokens)) if node in more)
