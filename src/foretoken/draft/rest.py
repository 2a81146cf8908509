"""rest: what followed the last tokens in a corpus on disk.

The corpus is any text, best of the kind that the model is to write; `foretoken train rest FILES
--model FOLDER` makes the datastore, which is taken up from the model's folder or named by `store`.
Without one nothing is drafted. It learns nothing; what it reads is the same for every session.

Source: He et al. 2024, REST, arXiv 2311.08252; our notes on rasd, 3A. With `back_off` off this is
REST: the places after the longest known tail are the draft, the likeliest prefixes first. Three
things differ even then. Places are taken at even strides and not from the front of the sorted ones,
which would all come after the same older text. The cut is a heap's, prefix-closed by itself. And
the order is by joint probability, which is REST's order by counts but for `trust`: a tail of l
tokens leaves (trust / l)^2 pseudo-places for what was never seen after it, so that one place after
three tokens says little and one after sixteen much.
With `back_off`, the default, what a longer tail leaves open is filled from the shorter ones, whose
places cost nothing more to find. Most longest tails occur once or twice, so that this drafts better
where REST has one guess. The defaults were set, and q is about right, on Python functions and on
grade-school maths.

Exact: the draft is fixed. Cost: a search of O(longest x log(corpus)) reads and a heap over `places`
places, far below a millisecond where the file is in memory; 6 bytes of disk a token (8 with a
vocabulary of 2^16 or more).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.rest_store import RestStore, open_beside
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session

OPEN_ENOUGH = 0.02  # probability that no shorter tail is asked for
# evidence: a class for every length of the longest match behind a node; the last is 12 and longer
_CLASS = (0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 6, 6, 7)


class Rest(Drafter):
    """A tree of continuations that a corpus knows."""

    name = "rest"
    summary = "what followed the last tokens in a corpus (`foretoken train rest` makes its file)"
    source = "He et al. 2024, REST, arXiv 2311.08252"
    nodes = 32

    class Options(types.Options):
        """Which corpus, and how its places are weighed."""

        store: Path | None = Field(
            None, description="datastore; None: rest.store of the model's folder, else no draft"
        )
        verify: bool = Field(True, description="compare the file's checksum, which reads all of it")
        longest: int = Field(16, ge=1, le=256, description="tokens of a tail at most")
        shortest: int = Field(1, ge=1, le=16, description="tokens of a tail at least")
        back_off: bool = Field(True, description="fill up from shorter tails; off: REST's own way")
        places: int = Field(128, ge=1, le=8192, description="places read per draft at most")
        length: int = Field(10, ge=1, le=256, description="tokens of a continuation at most")
        trust: float = Field(
            12.0, ge=0.0, description="tokens of a tail whose one place is right every other time"
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Rest.Options = options
        self.store = open_beside(
            options.store, context.assets, context.vocab, context.tokenizer_hash, options.verify
        )
        self._reading = Reading(
            options.longest, options.shortest, options.back_off, options.places, options.trust
        )

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """The likeliest continuations of the known tails."""
        if self.store is None or budget.nodes < 1 or budget.depth < 1:
            return EMPTY
        read = self._reading
        places = read.places(self.store, session.tokens[-read.longest :])
        depth = min(budget.depth, self.options.length)
        allowed = Budget(budget.nodes, depth, budget.min_prob)
        return continuations(self.store, places, allowed, self.context.eos, read)


def match_class(length: int) -> int:
    """The evidence class, 0 to 7, of a match of so many tokens."""
    return _CLASS[min(length, len(_CLASS) - 1)]


class Place(NamedTuple):
    """One place of the corpus that looks like the end of the context."""

    start: int  # where the text goes on
    weight: float  # probability that the context goes on as the text does; all sum to less than 1
    length: int  # tokens that agree before it


@dataclass(frozen=True)
class Reading:
    """How tails become weighted places; see the drafter's options."""

    longest: int = 16
    shortest: int = 1
    back_off: bool = True
    limit: int = 128
    trust: float = 12.0

    def places(self, store: RestStore, tokens: list[int]) -> list[Place]:
        """Places after the longest known tail, then after shorter ones for what is still open."""
        found: list[Place] = []
        inner, left = None, 1.0  # left: probability that no place so far shows how it goes on
        for tail in reversed(store.tails(tokens, self.longest)):
            if tail.length < self.shortest or len(found) >= self.limit or left < OPEN_ENOUGH:
                break
            starts = store.places(tail, self.limit - len(found), inner)
            inner = tail
            if not starts:
                continue
            unseen = self.unseen(tail.length)
            weight = left / (len(starts) + unseen)
            found += [Place(start, weight, tail.length) for start in starts]
            left *= unseen / (len(starts) + unseen)
            if not self.back_off:
                break
        return found

    def unseen(self, length: int) -> float:
        """Pseudo-places of what never followed a tail of this length."""
        return (self.trust / length) ** 2


def continuations(
    store: RestStore, places: list[Place], budget: Budget, eos: Collection[int], reading: Reading
) -> DraftTree:
    """The likeliest prefixes of what follows the places, by joint probability; of equal ones the
    shorter, then the smaller token. Nothing hangs below a separator or an `eos`."""
    text, separator = store.text, store.separator
    tokens: list[int] = []
    parents: list[int] = []
    joint: list[float] = []
    evidence: list[int] = []
    # (-joint, depth, token, serial, parent, places that agree): the serial ends every comparison
    heap: list[tuple[float, int, int, int, int, list[Place]]] = []
    serial = 0

    def push(parent: int, depth: int, agreeing: list[Place], scale: float) -> None:
        nonlocal serial
        groups: dict[int, list[Place]] = {}
        for place in agreeing:
            token = text[place.start + depth - 1]
            if token != separator:
                groups.setdefault(token, []).append(place)
        for token, group in groups.items():
            likely = scale * sum([place.weight for place in group])
            heappush(heap, (-likely, depth, token, serial, parent, group))
            serial += 1

    push(-1, 1, places, 1.0)
    while heap and len(tokens) < budget.nodes:
        negative, depth, token, _, parent, group = heappop(heap)
        if -negative < budget.min_prob or not negative:
            break
        node, longest = len(tokens), max([place.length for place in group])
        tokens.append(token)
        parents.append(parent)
        joint.append(-negative)
        evidence.append(match_class(longest))
        if depth < budget.depth and token not in eos:
            # the match has grown by what was drafted, and so has its word
            known = len(group) / (len(group) + reading.unseen(longest + depth))
            weight = sum([place.weight for place in group])
            push(node, depth + 1, group, -negative * known / weight)
    q = [p if at < 0 else min(p / joint[at], 1.0) for p, at in zip(joint, parents, strict=True)]
    return DraftTree(tokens, parents, q, evidence=evidence)
