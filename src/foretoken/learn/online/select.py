"""Which of the observed texts are worth an update: Adapt-infinity on a drafter's buffer.

Texts are clustered by how they would move the output layer's input: W^T (q - p), averaged over the
rows where the draft was refused and randomly projected; no backward pass is needed for it. (Not by
its direction alone: a skill that is known little, or being forgotten, stands out by the length.)
Each cluster then picks the score that spreads its texts most (entropy of the score's histogram),
gets an equal share of the budget (what a small cluster does not use passes on), and gives texts
from all over the range of that score (CCS). Afterwards near-duplicates leave the pool for good.

Source: Maharana et al. 2410.10636, ICLR 2025, sec. 3, re-made from the description; our notes on
adapt-infty. Differences: gradients of the head in place of a middle layer's (notes, 5); scores are
z-scored before the histogram's edges are set (the public code's edges are those of the raw scores,
so that a score on a small scale looks concentrated by accident); k-means over the whole pool, which
is small; a text's traits are looked at anew every eighth time, and not every time.
Cost: one forward pass over each new text, and over an eighth of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from foretoken.learn.online.buffer import Ints, Sample
from foretoken.learn.online.clusters import by_spread
from foretoken.learn.online.loss import accepted, coarse
from foretoken.learn.online.update import Trainee
from foretoken.learn.recipes.losses import forward_kl
from foretoken.types import FloatArray

# What a text may be scored by: 1 - acceptance, where the first refusal is (as a share of the text),
# the entropies of drafter and target, and KL: what is left of the loss above the target's entropy
SCORES = ("tv", "first", "draft-entropy", "target-entropy", "kl")
BINS, REACH = 50, 4.0  # of a score's histogram, in standard deviations
EDGE = 0.05  # share of the lowest and of the highest scores that CCS leaves out
DIRECTIONS = 64  # of the random projection
CLUSTERS = 8  # at most
SAME = 0.9999  # cosine from which two texts are one
REFRESH = 8  # choices after which a text's traits are looked at anew


class Traits(NamedTuple):
    """What is known of a text when it is chosen or not."""

    feature: FloatArray  # [DIRECTIONS]
    scores: FloatArray  # [len(SCORES)]
    seen: int  # number of the choice for which it was looked at


class Selector:
    """Chooses texts for updates and prunes the pool. seed: of the projection and all draws."""

    def __init__(self, seed: int = 0, clusters: int = CLUSTERS) -> None:
        self.seed, self.clusters = seed, clusters
        self._traits: WeakKeyDictionary[Sample, Traits] = WeakKeyDictionary()
        self._projection: Tensor | None = None  # [H, DIRECTIONS]
        self._choices = 0

    def choose(self, trainee: Trainee, pool: Sequence[Sample], budget: int) -> list[Sample]:
        """At most `budget` texts of the pool, in its order."""
        self._choices += 1
        if len(pool) <= budget:
            return list(pool)
        features, scores = self._look(trainee, pool)
        labels = by_spread(features, self.clusters, seed=self.seed).labels
        random = np.random.default_rng((self.seed, self._choices))
        return [pool[i] for i in chosen(scores, labels, budget, random)]

    def prune(self, trainee: Trainee, pool: Sequence[Sample], room: int) -> list[Sample]:
        """At most `room` texts, the least like earlier ones of their cluster, in the pool's order;
        of equal ones the first."""
        if not pool:
            return []
        features, _ = self._look(trainee, pool)
        labels = by_spread(features, self.clusters, seed=self.seed).labels
        return [pool[i] for i in distinct(features, labels, room)]

    def _look(self, trainee: Trainee, pool: Sequence[Sample]) -> tuple[FloatArray, FloatArray]:
        """Features [n, DIRECTIONS] and scores [n, len(SCORES)]."""
        for sample in pool:
            known = self._traits.get(sample)
            if known is None or self._choices - known.seen >= REFRESH:
                self._traits[sample] = self._traits_of(trainee, sample)
        found = [self._traits[sample] for sample in pool]
        return np.array([t.feature for t in found]), np.array([t.scores for t in found])

    @torch.no_grad()
    def _traits_of(self, trainee: Trainee, sample: Sample) -> Traits:
        logits = trainee.logits(sample)
        ids = torch.from_numpy(sample.ids).to(logits.device)
        log_p = torch.from_numpy(sample.log_p).to(logits.device)
        log_q = coarse(logits, ids)
        wrong = torch.from_numpy(sample.wrong).to(logits.device)
        moved = movement(logits, ids, log_p, log_q)
        mean = moved[wrong].mean(dim=0) if bool(wrong.any()) else moved.mean(dim=0)
        weight = trainee.model.get_output_embeddings().weight.float()
        if self._projection is None:
            self._projection = directions(weight.shape[1], self.seed).to(weight)
        feature = (mean @ weight) @ self._projection
        scores = (
            1.0 - float(accepted(log_p, log_q).mean()),
            float(np.flatnonzero(sample.wrong)[0]) / len(sample) if sample.wrong.any() else 1.0,
            float(torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1).mean()),
            float(torch.special.entr(log_p.exp()).sum(dim=-1).mean()),
            float(forward_kl(log_p, log_q).mean()),
        )
        return Traits(feature.double().cpu().numpy(), np.array(scores), self._choices)


def movement(logits: Tensor, ids: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """[n, V]: gradient of the coarse KL in the logits: q - p, where p's rest is spread as q's."""
    share = 1.0 - (log_p[:, -1:] - log_q[:, -1:]).exp()
    q = logits.softmax(dim=-1)
    return (q * share).scatter(-1, ids, log_q[:, :-1].exp() - log_p[:, :-1].exp())


def directions(width: int, seed: int) -> Tensor:
    """[width, DIRECTIONS] of signs, scaled so that lengths stay (Rademacher)."""
    signs = np.random.default_rng(seed).integers(0, 2, (width, DIRECTIONS)) * 2.0 - 1.0
    return torch.from_numpy(signs / DIRECTIONS**0.5)


def chosen(scores: FloatArray, labels: Ints, budget: int, random: np.random.Generator) -> list[int]:
    """Indices, rising, of at most `budget` texts: by cluster, score and coverage."""
    groups = [np.flatnonzero(labels == j) for j in range(int(labels.max()) + 1)]
    shares = water_filled([len(group) for group in groups], budget)
    out: list[int] = []
    for group, share in zip(groups, shares, strict=True):
        spreads = [spread_of(column) for column in scores[group].T]
        best = spreads.index(max(spreads))
        out += group[covering(scores[group, best], share, random)].tolist()
    return sorted(out)


def spread_of(scores: FloatArray) -> float:
    """Shannon entropy (nats) of the scores' histogram; the same for any scale and origin."""
    sd = float(scores.std())
    if not sd > 1e-12 * max(1.0, float(np.abs(scores).max())):
        return 0.0
    z = ((scores - scores.mean()) / sd).clip(-REACH, REACH)
    counts = np.histogram(z, BINS, (-REACH, REACH))[0]
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def water_filled(sizes: Sequence[int], budget: int) -> list[int]:
    """Equal shares of the budget; who has less gives all, and what is left passes to the others.

    They sum to the budget, or to all there is. What cannot be shared out equally goes one each to
    some of those who have more, evenly along their order.
    """
    level, left = 0, budget
    while (more := sum(size > level for size in sizes)) and left >= more:
        level, left = level + 1, left - more
    shares = [min(size, level) for size in sizes]
    able = [i for i, size in enumerate(sizes) if size > level]
    for turn in range(left if able else 0):
        shares[able[(2 * turn + 1) * len(able) // (2 * left)]] += 1
    return shares


def covering(scores: FloatArray, take: int, random: np.random.Generator) -> list[int]:
    """CCS: indices, rising, of `take` scores from all over their range but its edges."""
    order = np.argsort(scores, kind="stable")
    edge = min(int(EDGE * len(order)), (len(order) - take) // 2)
    middle = order[edge : len(order) - edge]
    low, high = float(scores[middle[0]]), float(scores[middle[-1]]) if len(middle) else 0.0
    width = (high - low) / BINS
    at = ((scores[middle] - low) / width).astype(np.int64) if width > 0 else middle * 0
    bins = [middle[np.minimum(at, BINS - 1) == j] for j in range(BINS)]
    shares = water_filled([len(part) for part in bins], take)
    drawn = [random.permutation(part)[:n] for part, n in zip(bins, shares, strict=True)]
    found: list[int] = np.sort(np.concatenate(drawn)).tolist()
    return found


def distinct(features: FloatArray, labels: Ints, room: int) -> list[int]:
    """Indices, rising, of at most `room` texts: of each cluster those least like an earlier one."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    groups = [np.flatnonzero(labels == j) for j in range(int(labels.max()) + 1)]
    fresh: list[list[tuple[float, int]]] = []
    for group in groups:
        alike = np.tril(unit[group] @ unit[group].T + 2.0, -1)  # earlier ones, all above 0
        nearest = alike.max(axis=1) - 2.0 if len(group) > 1 else np.array([-2.0])
        fresh.append([
            (near, int(i)) for near, i in zip(nearest, group, strict=True) if near < SAME
        ])  # fmt: skip
    shares = water_filled([len(found) for found in fresh], room)
    return sorted(i for found, n in zip(fresh, shares, strict=True) for _, i in sorted(found)[:n])
