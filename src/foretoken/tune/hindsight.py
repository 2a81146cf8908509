"""The hindsight optimum: the least time in which a recorded text could have been written.

At every position of the text each drafter offers a tree. Of its n leading nodes (likeliest first) a
known number stands, since the text is known; so a choice of (drafter, n) at a position has a known
cost and a known next position, and the least time is a shortest path over the positions. It is the
bar for whoever chooses drafters and sizes without knowing the future; the regret of a run is its
time over the optimum's, less 1.

The offers are those of drafters that saw the text written plainly, token by token: a drafter whose
proposals depend on how the text was cut into steps (not one of the copying kind does much) may
offer something else in a run of its own, and a tree merged from several drafters may stand where
none of theirs does. So the optimum bounds choosing among these offers, not drafting as such.
Cost: O(positions x accepted lengths x drafters); only sizes at which one more token stands matter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from foretoken.tree import DraftTree

Cost = Callable[[int, int], float]  # (rows, tokens of context) -> seconds of a forward
PLAIN = ""  # the method of a step that drafts nothing


class Offer(NamedTuple):
    """One drafter's proposal at one position, held against what was written."""

    needs: tuple[int, ...] = ()  # [d] leading nodes to score so that d+1 tokens stand; rising
    nodes: int = 0  # proposed
    seconds: float = 0.0  # to draft

    def accepted(self, nodes: int) -> int:
        """How many tokens stand if so many leading nodes are scored."""
        return bisect_right(self.needs, nodes)


def offer(tree: DraftTree, following: Sequence[int], seconds: float = 0.0) -> Offer:
    """following: what was written below the root. Nodes are ranked by joint probability where the
    drafter says one (earlier first among equals), else by their order."""
    order = range(len(tree))
    if tree.q:
        joint = tree.joint
        order = sorted(order, key=lambda node: -joint[node])  # type: ignore[assignment]
    rank = {node: i for i, node in enumerate(order, start=1)}
    needs: list[int] = []
    at = -1
    for token in following:
        found = next((c for c in tree.children[at + 1] if tree.tokens[c] == token), None)
        if found is None:
            break
        # a child may outrank its parent where a drafter's q exceeds 1: it still needs the parent
        needs.append(max(rank[found], needs[-1] + 1 if needs else 1))
        at = found
    return Offer(tuple(needs), len(tree), seconds)


@dataclass(frozen=True)
class Text:
    """One recorded answer, and everything that was offered while it was written."""

    prompt: int  # tokens
    tokens: int  # tokens written
    cost: Cost  # of the machine it is written on
    offers: Mapping[str, Sequence[Offer]]  # method -> [tokens]: at each position

    def seconds(self, at: int, nodes: int) -> float:
        """Of a step at a position that scores so many nodes, without what drafting takes. Its
        context is what stands before the root."""
        return self.cost(1 + nodes, self.prompt + at - 1)


class Span(NamedTuple):
    """One step of a run: what it wrote and what it took. Reading the prompt is not counted."""

    tokens: int
    seconds: float
    nodes: int = 0
    method: str = PLAIN


def step(text: Text, at: int, method: str, nodes: int) -> Span:
    """What a step would give that scores the leading nodes of a method's offer."""
    if method == PLAIN:
        return Span(1, text.seconds(at, 0))
    made = text.offers[method][at]
    nodes = min(nodes, made.nodes)
    # a draft ends where the text may: its last token comes from the target
    stood = min(made.accepted(nodes), text.tokens - at - 1)
    return Span(stood + 1, text.seconds(at, nodes) + made.seconds, nodes, method)


def plain(text: Text) -> list[Span]:
    """The text token by token."""
    return [step(text, at, PLAIN, 0) for at in range(text.tokens)]


def optimum(text: Text, methods: Sequence[str] | None = None) -> list[Span]:
    """The fastest way to write the text: one of these methods (None: any), or none, at every step.

    Among equally fast ways the one with fewer nodes now, then the method named first.
    """
    names = list(text.offers) if methods is None else methods
    left = [0.0] * (text.tokens + 1)  # least seconds from a position to the end
    best: list[Span] = [Span(1, 0.0)] * text.tokens
    for at in reversed(range(text.tokens)):
        chosen, least = None, float("inf")
        for span in _choices(text, at, names):
            seconds = span.seconds + left[at + span.tokens]
            if seconds < least:
                chosen, least = span, seconds
        assert chosen is not None  # a plain step is always among the choices
        best[at], left[at] = chosen, least
    spans, at = [], 0
    while at < text.tokens:
        spans.append(best[at])
        at += best[at].tokens
    return spans


def _choices(text: Text, at: int, methods: Sequence[str]) -> list[Span]:
    """The plain step, and every size of every offer at which one more token stands."""
    out = [step(text, at, PLAIN, 0)]
    for method in methods:
        needs = text.offers[method][at].needs[: text.tokens - at - 1]
        out += [step(text, at, method, nodes) for nodes in needs]
    return sorted(out, key=lambda span: span.nodes)


def seconds(spans: Sequence[Span]) -> float:
    """Of a whole run."""
    return sum(span.seconds for span in spans)


def regret(run: Sequence[Span], best: Sequence[Span]) -> float:
    """Time lost to the hindsight optimum, as a share of its time. Below 0: see the module."""
    return seconds(run) / seconds(best) - 1.0
