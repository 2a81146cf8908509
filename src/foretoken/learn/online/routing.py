"""Which domain a request belongs to, by a cheap look at its prompt.

A prompt's features are its tokens' counts, hashed to 512 places, damped and of length 1. Now and
then the last prompts are clustered; there are as many domains as two halves of the features agree
on (`clusters.stable_count`), and a prompt goes to the nearest centre. Prompts before the first
split, and those that are unlike every cluster, go to the default domain "". A domain keeps its name
when clusters are found anew. Or the user's own function names the domain.

A misroute changes no text: it only asks a drafter that knows the topic less.
Source: Liu et al. 2310.07177, sec. 5.3, routes by language or topic with a given classifier; the
clusters found online are ours. Cost: some microseconds per prompt, some 100 ms per clustering.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from foretoken.learn.online.clusters import kmeans, matched, principal, stable_count
from foretoken.learn.online.options import Route
from foretoken.types import FloatArray

DEFAULT = ""  # the domain of what is unlike all others
PLACES = 512  # of the hash; a power of 2
READ = 512  # tokens of a prompt, from its end
EVERY = 16  # prompts between two clusterings
RECENT = 96  # prompts that are clustered
SAME = 0.85  # cosine from which an old and a new centre are one domain
UNLIKE = 0.8  # of the least similarity among a cluster's own prompts: less is another topic


class Router:
    """Prompts to names of domains. domains: besides the default, at most. route: the user's own
    function, which need not know them before; names beyond `domains` get the default."""

    def __init__(self, domains: int, route: Route | None = None, seed: int = 0) -> None:
        self.domains, self.route, self.seed = domains, route, seed
        self._recent: deque[FloatArray] = deque(maxlen=RECENT)
        self._since = 0
        self._names: list[str] = []
        self._centres = np.zeros((0, PLACES))  # [k, PLACES] of length 1
        self._least = np.zeros(0)  # [k] similarity from which a prompt may be one of the cluster's

    def domain(self, prompt: Sequence[int]) -> str:
        """The prompt's domain. Learns from the prompt."""
        if self.domains == 1:
            return DEFAULT
        if self.route is not None:
            return self._given(self.route(prompt))
        found = features(prompt)
        self._recent.append(found)
        self._since += 1
        if self._since == EVERY:
            self._since = 0
            self._cluster()
        return self._nearest(found)

    def _given(self, name: str) -> str:
        if name not in self._names and name != DEFAULT and len(self._names) < self.domains:
            self._names.append(name)
        return name if name in self._names else DEFAULT

    def _nearest(self, point: FloatArray) -> str:
        if not self._names:
            return DEFAULT
        alike = self._centres @ point
        best = int(alike.argmax())
        return self._names[best] if alike[best] >= self._least[best] else DEFAULT

    def _cluster(self) -> None:
        """Look at the recent prompts anew; one cluster tells nothing, and changes nothing."""
        points = np.array(self._recent)
        k = stable_count(points, self.domains, self.seed)
        if k == 1:
            return
        labels = kmeans(principal(points), k, self.seed).labels
        groups = [points[labels == j] for j in range(int(labels.max()) + 1)]
        centres = np.array([_unit(group.mean(axis=0)) for group in groups])
        least = [
            UNLIKE * float((group @ centre).min())
            for group, centre in zip(groups, centres, strict=True)
        ]
        old = self._match(centres)
        for j, centre in enumerate(centres):
            at = old.get(j, len(self._names))
            if at == len(self._names):
                if at == self.domains:
                    continue  # no room for another domain: such prompts get the default
                self._names.append(str(at + 1))
                self._centres = np.vstack((self._centres, centre))
                self._least = np.append(self._least, 0.0)
            self._centres[at], self._least[at] = centre, least[j]

    def _match(self, centres: FloatArray) -> dict[int, int]:
        """New cluster -> the domain that it is, for those that are one of the old."""
        alike = centres @ self._centres.T
        pairs = zip(*matched(alike), strict=True) if alike.size else ()
        return {int(new): int(old) for new, old in pairs if alike[new, old] >= SAME}

    def state(self) -> dict[str, Any]:
        """The domains found, JSON-ready; hashed counts, not texts."""
        return {
            "names": self._names,
            "centres": self._centres.round(5).tolist(),
            "least": self._least.round(5).tolist(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self._names = [str(name) for name in state["names"]]
        self._centres = np.array(state["centres"], dtype=np.float64).reshape(-1, PLACES)
        self._least = np.array(state["least"], dtype=np.float64)


def features(prompt: Sequence[int]) -> FloatArray:
    """[PLACES] of length 1."""
    tokens = np.array(prompt[-READ:], dtype=np.uint64)
    # Knuth's multiplicative hash: the upper bits of 32
    places = (tokens * np.uint64(2654435761) % np.uint64(1 << 32)) >> np.uint64(23)
    return _unit(np.log1p(np.bincount(places.astype(np.int64), minlength=PLACES)))


def _unit(vector: FloatArray) -> FloatArray:
    found: FloatArray = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return found
