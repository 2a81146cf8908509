"""Several drafts grown from rows that they share: no model here, one row of logits a level.

What a level does (our notes on superposed-decoding, section 3): every draft is extended by the
likeliest tokens of the shared row, scored by that row and by n-grams of the draft's own text, and
the best drafts of all go on. The q of a node is not that score: see `Beam._own`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foretoken.draft.ngram_counts import Smoothed
from foretoken.tree import DraftTree
from foretoken.types import Budget

Path = tuple[int, ...]  # tokens below the root
LEADS = 0.5  # share of the superposition from which a row is taken for the draft's own


@dataclass(frozen=True)
class Shape:
    """The paper's constants."""

    drafts: int = 3  # k
    alpha: float = 0.54  # weight of the n-grams' logarithm in a score, 0: none are asked
    tau: float = 0.06  # temperature of the shared row in a score
    keep: int = 9  # S: tokens of the shared row that are looked at
    delta: float = 200.0  # what a draft loses when its n-grams know none of them


@dataclass(frozen=True)
class Draft:
    """One path in the making."""

    path: Path
    score: float  # of the beam: no log-probability
    joint: float  # estimated probability that the target writes this path


class Beam:
    """The drafts of one step. Feed it rows: the first follows the root, the others `mixture`.

    smooth: (last tokens of a text, tokens) -> what n-grams say. text: committed tokens, the end of
    them is enough. temperature: of the probabilities that q is made of.
    """

    def __init__(
        self,
        shape: Shape,
        smooth: Callable[[Sequence[int], Sequence[int]], Smoothed],
        text: Sequence[int],
        eos: Collection[int] = (),
        temperature: float = 1.0,
    ) -> None:
        self.shape, self.eos, self.temperature = shape, eos, temperature
        self.alive = [Draft((), 0.0, 1.0)]
        self.finished: list[Draft] = []
        self.nodes: dict[Path, tuple[float, int]] = {}  # every draft's path -> (q, evidence)
        self._smooth, self._text = smooth, tuple(text)

    @property
    def shares(self) -> list[float]:
        """Weight of each alive draft in the superposition; they sum to 1."""
        best = max(draft.score for draft in self.alive)
        weights = [math.exp(draft.score - best) for draft in self.alive]
        total = sum(weights)
        return [weight / total for weight in weights]

    def mixture(self) -> dict[int, float]:
        """Last token -> weight of its embedding; drafts that end alike add up."""
        out: dict[int, float] = {}
        for draft, share in zip(self.alive, self.shares, strict=True):
            out[draft.path[-1]] = out.get(draft.path[-1], 0.0) + share
        return out

    def grow(self, logits: Tensor) -> None:
        """One level more. logits: [V], what follows the superposition of the alive drafts."""
        rows = torch.log_softmax(logits.float(), -1).topk(min(self.shape.keep, logits.shape[-1]))
        tokens, values = rows.indices.tolist(), rows.values
        tempered = torch.log_softmax(values / self.shape.tau, -1).tolist()
        honest = values if self.temperature == 1.0 else _at(logits, rows.indices, self.temperature)
        probs = honest.exp().tolist()
        said = [self._said(draft, tokens) for draft in self.alive]
        own = self._own(said, probs)
        candidates: list[tuple[float, int, int]] = []  # (score, draft, place of the token)
        for i, draft in enumerate(self.alive):
            gains = self._gains(said[i], tempered, first=not draft.path)
            candidates += [(draft.score + gain, i, x) for x, gain in enumerate(gains)]
        candidates = [c for c in candidates if c[0] > -math.inf]
        candidates.sort(key=lambda c: -c[0])  # stable: the earlier draft, the likelier token
        leads = [share >= LEADS for share in self.shares]
        alive: list[Draft] = []
        for score, i, x in candidates[: 2 * self.shape.drafts]:
            above, q = self.alive[i], own[i][x]
            draft = Draft((*above.path, tokens[x]), score, above.joint * q)
            ended = tokens[x] in self.eos
            if not ended and len(alive) == self.shape.drafts:
                continue
            (self.finished if ended else alive).append(draft)
            self.nodes[draft.path] = (q, evidence(said[i].known[x], leads[i]))
        self.alive = alive
        self.finished = sorted(self.finished, key=lambda d: -d.score)[: self.shape.drafts]

    def _said(self, draft: Draft, tokens: Sequence[int]) -> Smoothed:
        if not self.shape.alpha:
            return Smoothed([0.0] * len(tokens), [0] * len(tokens), 0.0)
        return self._smooth(self._text + draft.path, tokens)

    def _gains(self, said: Smoothed, tempered: Sequence[float], first: bool) -> list[float]:
        """f(x): what each token adds to the draft's score; -inf for one that is left out."""
        alpha = self.shape.alpha
        if first or not alpha:  # the first level is the model's own, whatever n-grams say
            return list(tempered)
        if not any(said.mass):
            return [(1.0 - alpha) * log - self.shape.delta for log in tempered]
        return [
            (1.0 - alpha) * log + alpha * math.log(mass) if mass else -math.inf
            for log, mass in zip(tempered, said.mass, strict=True)
        ]

    def _own(self, said: Sequence[Smoothed], probs: Sequence[float]) -> list[list[float]]:
        """[draft][token] an estimate of the target's probability after this draft.

        If a forward were linear, the shared row would be the mean of the drafts' own rows, weighed
        with their shares. So what a token has in it is dealt out among the drafts as their n-grams
        would have it, the model's row standing in for what no n-gram was seen of:
        q_i(x) = P(x) m_i(x) / sum_j share_j m_j(x), with m_i = N_i + (1 - weight_i) P.
        The draft that makes up nearly all of the superposition gets P, which is then its own row.
        """
        prior = [
            [n + (1.0 - s.weight) * p for n, p in zip(s.mass, probs, strict=True)] for s in said
        ]
        shares = self.shares
        out = []
        for mine in prior:
            q = []
            for x, p in enumerate(probs):
                mean = sum(share * m[x] for share, m in zip(shares, prior, strict=True))
                q.append(p * mine[x] / mean if mean else 0.0)
            total = max(1.0, sum(q))
            out.append([value / total for value in q])
        return out

    def tree(self, budget: Budget, ends_only: bool) -> DraftTree:
        """The trie of the drafts, likeliest nodes first, cut to the budget.

        ends_only: the best drafts alone, by score per token; else also what fell out of the beam.
        """
        paths: Collection[Path] = self.nodes
        if ends_only:
            ends = sorted(
                [*self.alive, *self.finished], key=lambda d: -d.score / max(len(d.path), 1)
            )[: self.shape.drafts]
            paths = {d.path[:n] for d in ends for n in range(1, len(d.path) + 1)}
        joint: dict[Path, float] = {(): 1.0}
        for path in sorted(paths, key=len):
            joint[path] = joint[path[:-1]] * self.nodes[path][0]
        del joint[()]
        best = sorted(joint, key=lambda path: (-joint[path], len(path), path))
        chosen = [path for path in best if joint[path] >= budget.min_prob][: budget.nodes]
        at = {(): -1} | {path: i for i, path in enumerate(chosen)}
        return DraftTree(
            [path[-1] for path in chosen],
            [at[path[:-1]] for path in chosen],
            [self.nodes[path][0] for path in chosen],
            evidence=[self.nodes[path][1] for path in chosen],
        )


def evidence(known: int, leads: bool) -> int:
    """Class of a node: how long a context its n-gram had (0, 1, 2, more), and whether the row that
    it came from was mostly its own draft's."""
    return min(known, 3) + (0 if leads else 4)


def _at(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of some tokens at a temperature."""
    return torch.log_softmax(logits.float() / temperature, -1)[tokens]
