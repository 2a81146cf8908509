"""The exact law of the first n tokens after a prompt, as far as somebody asks for it.

Probabilities come from the reference through the product's one chain of processors (transformers'
own, in the order of `generate`). An outcome is a tuple of n tokens, or of fewer if the last one
ends the text.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foretoken.audit.reference import Reference
from foretoken.audit.statistics import CELLS, POOL
from foretoken.prompt.sampling import Warper
from foretoken.types import Sampling

Outcome = tuple[int, ...]
ENUMERATED = 512  # laws of so few outcomes have a cell for each


@dataclass(frozen=True)
class Place:
    """What the reference says of one place that the sample reached."""

    probs: Mapping[int, float]  # of the tokens that were seen there
    edge: frozenset[int]  # impossible ones that a near-tie would have let in
    entropy: float  # nats
    variance: float  # of -log p
    ends: float  # probability that the text ends here


class Law:
    """After `prompt`, `n` tokens, under `sampling`."""

    def __init__(
        self, reference: Reference, prompt: Sequence[int], n: int, sampling: Sampling
    ) -> None:
        self.reference, self.prompt, self.n = reference, list(prompt), n
        self.texts = reference.after(prompt)
        self.warper = Warper(
            sampling, self.prompt, tuple(sorted(reference.eos)), n + 1, reference.vocab
        )
        self._best: dict[Outcome, list[tuple[int, float]]] = {}
        self._cells: dict[tuple[int, int], Cells] = {}

    def cut(self, tokens: Sequence[int]) -> Outcome:
        """What an engine wrote, as an outcome."""
        for i, token in enumerate(tokens[: self.n]):
            if token in self.reference.eos or not self._known(token):
                return tuple(tokens[: i + 1])
        return tuple(tokens[: self.n])

    def final(self, outcome: Outcome) -> bool:
        """Whether nothing follows that is asked for (or can be: behind what is no token)."""
        if not outcome:
            return self.n == 0
        last = outcome[-1]
        ended = last in self.reference.eos or not self._known(last)
        return ended or len(outcome) >= self.n

    def _known(self, token: int) -> bool:
        return 0 <= token < self.reference.vocab

    def probs(self, logits: Tensor, text: Outcome) -> Tensor:
        """[V] float64 of the token after `text`. logits: [V]."""
        return self.warper.warp(logits, [*self.prompt, *text]).double().softmax(dim=-1)

    def best(self, text: Outcome) -> list[tuple[int, float]]:
        """The likeliest tokens after `text`, best first, impossible ones left out."""
        if text not in self._best:
            [(_, rows)] = self.texts.rows([text])
            top = self.probs(rows[-1], text).topk(min(ENUMERATED + 1, self.reference.vocab))
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            self._best[text] = [(token, p) for token, p in pairs if p > 0]
        return self._best[text]

    @property
    def small(self) -> bool:
        """Whether every outcome can have a cell of its own."""
        return bool(len(self.best(())) ** self.n <= ENUMERATED)

    def cells(self, samples: int, depth: int) -> Cells:
        """The partition for so many samples, made once for all engines."""
        key = (samples, depth)
        if key not in self._cells:
            self._cells[key] = Cells(self, samples, depth)
        return self._cells[key]

    def places(self, outcomes: Iterable[Outcome]) -> dict[Outcome, Place]:
        """Every place that some outcomes pass, by what was written before it."""
        seen: dict[Outcome, set[int]] = {}
        for outcome in outcomes:
            for i, token in enumerate(outcome):
                seen.setdefault(outcome[:i], set()).add(token)
        inner = {text[:i] for text in seen for i in range(len(text))}
        found: dict[Outcome, Place] = {}
        for text, rows in self.texts.rows([text for text in seen if text not in inner]):
            for i in range(len(text) + 1):
                if text[:i] not in found:
                    found[text[:i]] = self._place(rows[i], text[:i], seen[text[:i]])
        return found

    def _place(self, logits: Tensor, text: Outcome, tokens: Iterable[int]) -> Place:
        p = self.probs(logits, text)
        positive = p[p > 0]
        logs = positive.log()
        entropy = float(-(positive * logs).sum())
        # a token outside the vocabulary has no probability either
        chances = {t: float(p[t]) if 0 <= t < len(p) else 0.0 for t in tokens}
        return Place(
            probs=chances,
            edge=frozenset(t for t, c in chances.items() if c == 0 and self._near(logits, text, t)),
            entropy=entropy,
            variance=max(0.0, float((positive * logs**2).sum()) - entropy**2),
            ends=float(p[sorted(self.reference.eos)].sum()) if self.reference.eos else 0.0,
        )

    def _near(self, logits: Tensor, text: Outcome, token: int) -> bool:
        """Whether a token is cut off by less than a near-tie: at the edge of top-k or top-p."""
        if not 0 <= token < len(logits):
            return False
        raised = logits.clone()
        raised[token] += self.reference.tolerance(float(logits.max()))
        return float(self.probs(raised, text)[token]) > 0


class Cells:
    """A partition of the outcomes, chosen by the reference and the sample size alone.

    The likeliest beginnings (of any length up to `depth`) have a cell each; a cell holds what
    begins like this and has no longer beginning with a cell. Cells that expect fewer than POOL
    are put together.
    """

    def __init__(self, law: Law, samples: int, depth: int, most: int | None = None) -> None:
        self.depth, self.samples = depth, samples
        most = most if most is not None else ENUMERATED if law.small else CELLS
        mass: dict[Outcome, float] = {(): 1.0}
        heap: list[tuple[float, Outcome, int]] = []

        def candidate(parent: Outcome, rank: int, weight: float) -> None:
            best = law.best(parent)
            if rank < len(best) and best[rank][1] * weight * samples >= POOL:
                token, p = best[rank]
                heapq.heappush(heap, (-p * weight, (*parent, token), rank))

        whole: dict[Outcome, float] = {(): 1.0}  # of all that begins so, longer cells included
        candidate((), 0, 1.0)
        while heap and len(mass) < most:
            negative, child, rank = heapq.heappop(heap)
            mass[child] = whole[child] = -negative
            mass[child[:-1]] -= -negative
            candidate(child[:-1], rank + 1, whole[child[:-1]])
            if len(child) < depth and not law.final(child):
                candidate(child, 0, whole[child])
        self.beginnings = frozenset(mass)
        self._group(mass)

    def _group(self, mass: Mapping[Outcome, float]) -> None:
        own = [key for key, m in mass.items() if m * self.samples >= POOL]
        rest = [key for key in mass if key not in set(own)]
        groups = [[key] for key in sorted(own, key=lambda key: -mass[key])]
        if rest:
            pooled = sum(max(mass[key], 0.0) for key in rest)
            if pooled * self.samples >= POOL or not groups:
                groups.append(rest)
            else:
                groups[-1] = [*groups[-1], *rest]
        self.masses = [sum(max(mass[key], 0.0) for key in group) for group in groups]
        total = sum(self.masses)
        self.masses = [m / total for m in self.masses]  # rounding of sums only
        self._cell = {key: i for i, group in enumerate(groups) for key in group}

    def __len__(self) -> int:
        return len(self.masses)

    def cell(self, outcome: Outcome) -> int:
        """Index of the cell that holds an outcome."""
        text = outcome[: self.depth]
        while text not in self.beginnings:
            text = text[:-1]
        return self._cell[text]

    def count(self, outcomes: Mapping[Outcome, int]) -> list[int]:
        """How many of some outcomes lie in each cell."""
        counts = [0] * len(self)
        for outcome, n in outcomes.items():
            counts[self.cell(outcome)] += n
        return counts


def choose_prompt(
    reference: Reference, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> int:
    """The prompt after which the next token is the least certain: faults show best there."""

    def entropy(prompt: Sequence[int]) -> float:
        p = Law(reference, prompt, 1, sampling)
        row = p.probs(p.texts.first, ())
        return float(torch.special.entr(row).sum())

    return max(range(len(prompts)), key=lambda i: entropy(prompts[i]))
