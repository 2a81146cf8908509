"""A drafter beside a toy language model: real steps, greedy, without an engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from foretoken.draft.base import Drafter
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Committed, Scores, Step, Verdict

Rows = Callable[[list[int]], Tensor]  # the text so far -> [V] logits of what follows
_indices = itertools.count()


class Toy:
    """One session. rows: the model; every row of a step is really its own."""

    def __init__(
        self,
        drafter: Drafter,
        rows: Rows,
        prompt: Sequence[int],
        prediction: Sequence[int] | None = None,
        tenant: str = "",
    ) -> None:
        self.drafter, self.rows, self.steps = drafter, rows, 0
        request = SimpleNamespace(tenant=tenant, prediction=prediction)
        self.session: Any = Talk(request, list(prompt))
        drafter.begin(self.session)

    def step(
        self, budget: Budget, change: Callable[[DraftTree], DraftTree] = lambda tree: tree,
        known: Callable[[int], bool] = lambda row: True,
    ) -> Step:  # fmt: skip
        """Propose, change the draft as a policy or a mixture would, judge, commit, observe."""
        text = self.session.tokens
        tree = change(self.drafter.propose(self.session, budget))
        paths = [[], *([tree.tokens[n] for n in tree.path(i)] for i in range(len(tree)))]
        logits = torch.stack([self.rows(text + path) for path in paths])
        scores = Scores(logits, known=[known(row) for row in range(len(paths))])
        at, path, new = -1, [], []
        while True:
            new.append(int(logits[at + 1].argmax()))
            child = next((c for c in tree.children[at + 1] if tree.tokens[c] == new[-1]), None)
            if child is None:
                break
            path.append(at := child)
        context = len(text)
        text += new
        committed = Committed(new, [0, *(node + 1 for node in path)], len(path), None)
        done = Step(
            context, budget, tree, scores, Verdict(tuple(path), new[-1]), committed, {}, 1, 1
        )
        self.drafter.observe(self.session, done)
        self.steps += 1
        return done

    def run(self, tokens: int, budget: Budget) -> float:
        """Write at least so many tokens; tokens per step."""
        before, steps = len(self.session.tokens), self.steps
        while len(self.session.tokens) < before + tokens:
            self.step(budget)
        return (len(self.session.tokens) - before) / (self.steps - steps)


class Talk:
    """What drafters read of a session."""

    def __init__(self, request: Any, tokens: list[int]) -> None:
        self.request, self.tokens, self.n_prompt = request, tokens, len(tokens)
        self.memo: dict[str, Any] = {}
        self.index = next(_indices)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.n_prompt :]


def cut(nodes: int) -> Callable[[DraftTree], DraftTree]:
    """What a policy leaves of a draft."""
    return lambda tree: tree.first(nodes) if nodes else EMPTY


def fits(tree: DraftTree, budget: Budget) -> None:
    """The laws of a draft within its budget."""
    assert len(tree) <= budget.nodes
    assert tree.depth <= budget.depth
    assert len(tree.q) == len(tree.evidence) == len(tree)
    assert all(0 <= e < 8 for e in tree.evidence)
    assert all(joint >= budget.min_prob - 1e-12 for joint in tree.joint)
    for children in tree.children:
        assert sum(tree.q[c] for c in children) <= 1 + 1e-9
        assert len({tree.tokens[c] for c in children}) == len(children)


def one_hot(successor: Callable[[list[int]], int], vocab: int) -> Rows:
    """A model that is sure of what follows."""

    def rows(text: list[int]) -> Tensor:
        row = torch.full((vocab,), -20.0)
        row[successor(text)] = 0.0
        return row

    return rows


def markov(vocab: int, seed: int) -> tuple[Rows, Tensor]:
    """A model of the last token alone, and its logits [V, V]."""
    logits = 2.0 * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed))
    return lambda text: logits[text[-1]], logits
