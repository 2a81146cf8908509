"""A model's draft while it grows, level by level: one forward of the drafter gives one level.

How many children a node may have is settled before any of them is drawn: from its ancestors, from
the model's rows, and from earlier levels. A drawn token is never dropped for its own sake, which
would bias the text (methods such as RSD-S rank draws by numbers that say nothing about the token).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget

Choice = tuple[int, float]  # a token and its log-probability


class Growth(ABC):
    """One session's draft in the making. It sees log-probabilities and no model.

    budget: nodes and depth that must not be exceeded; a node whose joint probability is below
    `min_prob` gets no children (and, if nothing is drawn, is no part of the draft). generator: the
    chance of this draft. greedy: the request's text is the argmax, so nothing is drawn: the rows
    are the drafter's own at temperature 1, and the likeliest tokens take the place of draws.
    eos: tokens that end the text; nothing hangs below them.
    """

    kind: Kind

    def __init__(
        self,
        budget: Budget,
        generator: torch.Generator,
        greedy: bool,
        eos: Collection[int] = (),
    ) -> None:
        self.budget, self.generator, self.greedy, self.eos = budget, generator, greedy, eos
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.q: list[float] = []
        self.joint: list[float] = []  # per node: log-probability of its path under the drafter
        self.row_of: list[int] = []  # per node: the row it was drawn from, -1 for a fixed node
        self.draw_nodes: list[int] = []  # per draw: its node. Only where draws may share one
        self.draw_parents: list[int] = []  # per draw: the draw below which it was drawn
        self.levels = 0
        # nodes whose children come next, rising; -1 is the root. Empty: the draft is finished.
        self.frontier: list[int] = [-1] if budget.nodes > 0 and budget.depth > 0 else []
        self._rows: list[Tensor] = []  # [m, V] blocks of probability rows that were drawn from
        self._least = math.log(budget.min_prob) if budget.min_prob > 0 else -math.inf

    @abstractmethod
    def grow(self, logprobs: Tensor) -> None:
        """Add one level below the frontier and move the frontier there.

        logprobs: [len(frontier), V] float32, log q after each node of the frontier, any
        temperature taken. A token at -inf is never chosen; no row is all -inf.
        """

    def stop(self) -> None:
        """No level is added any more; what has grown stays."""
        self.frontier = []

    def fresh(self, first: int) -> list[int]:
        """The nodes of the level that was just grown, `first` being the next index before."""
        return list(range(first, len(self.tokens)))

    @property
    def room(self) -> int:
        """How many more nodes may be added."""
        return self.budget.nodes - len(self.tokens)

    def above(self, node: int) -> float:
        """Joint log-probability of a node; the root's is 0."""
        return self.joint[node] if node >= 0 else 0.0

    def add(
        self, parent: int, token: int, q: float, row: int = -1, logprob: float | None = None
    ) -> int:
        """Append a node; its index. q: > 0. logprob: for `joint`, where it is not log q."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.q.append(q)
        self.joint.append(self.above(parent) + (math.log(q) if logprob is None else logprob))
        self.row_of.append(row)
        return len(self.tokens) - 1

    def take(self, parent: int, choices: Iterable[Choice]) -> list[int]:
        """Append fixed children; their indices."""
        return [self.add(parent, t, math.exp(log), logprob=log) for t, log in choices]

    def keep(self, rows: Tensor) -> int:
        """Keep rows [m, V] that are drawn from; the index of the first, for `row_of`."""
        first = sum(map(len, self._rows))
        self._rows.append(rows)
        return first

    def likeliest(self, logprobs: Tensor, k: int) -> list[list[Choice]]:
        """Up to k tokens of each row that is to follow the frontier, best first.

        None that the row rules out, and none whose path is less likely than `min_prob`.
        """
        top = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
        values, ids = top.values.tolist(), top.indices.tolist()
        out: list[list[Choice]] = []
        for node, tokens, logs in zip(self.frontier, ids, values, strict=True):
            least = max(self._least - self.above(node), _UNDERFLOW)
            pairs = zip(tokens, logs, strict=True)
            out.append([(t, min(log, 0.0)) for t, log in pairs if log >= least])
        return out

    def advance(self, nodes: Iterable[int]) -> None:
        """A level is done: the frontier becomes those of its nodes that may have children."""
        self.levels += 1
        done = self.room <= 0 or self.levels >= self.budget.depth
        self.frontier = [] if done else [
            node for node in nodes
            if self.tokens[node] not in self.eos and self.joint[node] >= self._least
        ]  # fmt: skip

    def tree(self) -> DraftTree:
        """What has grown so far."""
        repeats = len(self.draw_nodes) > len(self.tokens)
        return DraftTree(
            tuple(self.tokens), tuple(self.parents), tuple(self.q), self.kind,
            torch.cat(self._rows) if self._rows else None,
            tuple(self.row_of) if self._rows else (), (),
            tuple(self.draw_nodes) if repeats else (), tuple(self.draw_parents) if repeats else (),
        )  # fmt: skip


_UNDERFLOW = -87.0  # exp of less is no normal float32: such a token is as good as ruled out


def spelled(node: int, tokens: Sequence[int], parents: Sequence[int]) -> tuple[int, ...]:
    """The tokens from below the root down to a node; () for -1, the root."""
    out: tuple[int, ...] = ()
    while node >= 0:
        out, node = (tokens[node], *out), parents[node]
    return out
