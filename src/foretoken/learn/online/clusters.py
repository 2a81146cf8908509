"""k-means, and how many clusters there are. Pure; the same seed gives the same clusters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from foretoken.learn.online.buffer import Ints
from foretoken.types import FloatArray

STARTS = 3  # of each k-means; the tightest stands
ROUNDS = 30  # at most
SPLITS = 5  # of the columns in halves
AGREE = 0.7  # mean kappa from which the halves are said to tell of the same clusters
FEWEST = 32  # points; of fewer, nothing is said


class Clusters(NamedTuple):
    """Points in groups."""

    centres: FloatArray  # [k, d]
    labels: Ints  # [n]
    spread: float  # sum of squared distances to the own centre


def kmeans(points: FloatArray, k: int, seed: int = 0) -> Clusters:
    """At most k clusters of points [n, d], n >= 1: fewer where points are equal."""
    random = np.random.default_rng(seed)
    found = [_kmeans(points, min(k, len(points)), random) for _ in range(STARTS if k > 1 else 1)]
    return min(found, key=lambda clusters: clusters.spread)


def _kmeans(points: FloatArray, k: int, random: np.random.Generator) -> Clusters:
    centres = _spaced(points, k, random)
    labels = distances(points, centres).argmin(axis=1)
    for _ in range(ROUNDS):
        for j in range(len(centres)):
            if (labels == j).any():
                centres[j] = points[labels == j].mean(axis=0)
        before, labels = labels, distances(points, centres).argmin(axis=1)
        if (labels == before).all():
            break
    used = np.unique(labels)
    centres, labels = centres[used], np.searchsorted(used, labels)
    return Clusters(centres, labels, float(((points - centres[labels]) ** 2).sum()))


def _spaced(points: FloatArray, k: int, random: np.random.Generator) -> FloatArray:
    """k-means++: the next centre is a point drawn by its squared distance to those before."""
    centres = [points[random.integers(len(points))]]
    while len(centres) < k:
        far = distances(points, np.array(centres)).min(axis=1)
        if far.sum() <= 0.0:
            break
        centres.append(points[random.choice(len(points), p=far / far.sum())])
    return np.array(centres, dtype=np.float64)


def distances(points: FloatArray, centres: FloatArray) -> FloatArray:
    """[n, k] squared distances."""
    found: FloatArray = ((points[:, None, :] - centres[None, :, :]) ** 2).sum(axis=-1)
    return found


def by_spread(points: FloatArray, most: int, share: float = 0.3, seed: int = 0) -> Clusters:
    """The fewest clusters of 1, 2, 4, 8 ... (at most `most`) whose spread is at most `share` of the
    whole's; else the most."""
    whole = kmeans(points, 1, seed)
    best, k = whole, 1
    while best.spread > share * whole.spread and k < min(most, len(points)):
        k = min(2 * k, most)
        best = kmeans(points, k, seed)
    return best


def stable_count(points: FloatArray, most: int, seed: int = 0) -> int:
    """How many clusters there are, 1 to `most`: the number for which halves of the columns, looked
    at alone, agree best which points belong together, if they do. Noise does not agree with itself;
    spread or silhouettes find clusters in it."""
    if len(points) < FEWEST:
        return 1
    random = np.random.default_rng(seed)
    agreed = np.zeros(most + 1)
    for _ in range(SPLITS):
        columns = random.permutation(points.shape[1])
        one, other = (principal(points[:, part]) for part in (columns[::2], columns[1::2]))
        for k in range(2, most + 1):
            agreed[k] += agreement(kmeans(one, k, seed).labels, kmeans(other, k, seed).labels)
    best = int(agreed.argmax())
    return best if agreed[best] >= AGREE * SPLITS else 1


def principal(points: FloatArray, most: int = 4) -> FloatArray:
    """[n, most] coordinates along the directions in which the points differ most."""
    centred = points - points.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    found: FloatArray = left[:, :most] * scale[:most]
    return found


def agreement(one: Ints, other: Ints) -> float:
    """Cohen's kappa of two groupings under the best match of their names; 0 is chance."""
    k = int(max(one.max(), other.max())) + 1
    table = np.zeros((k, k))
    np.add.at(table, (one, other), 1.0)
    table /= len(one)
    i, j = matched(table)
    chance = float((table.sum(axis=1)[i] * table.sum(axis=0)[j]).sum())
    return (float(table[i, j].sum()) - chance) / (1.0 - chance) if chance < 1.0 else 0.0


def matched(alike: FloatArray) -> tuple[Ints, Ints]:
    """Rows and columns paired one to one so that the sum of their entries is largest."""
    from scipy.optimize import linear_sum_assignment  # here: it takes a while to import

    i, j = linear_sum_assignment(-alike)
    return i, j
