"""Two drafts for one context made one: gate, fusion and cut of `rasd` (our notes, 3B and 3C).

All trees are of kind "point". Evidence of what is retrieved is the class of its match, as in
`foretoken.draft.rest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from foretoken.draft.rest import match_class
from foretoken.tree import DraftTree
from foretoken.types import Budget

# evidence: 0 the model alone; 1, 2 both, match below 4 tokens and from 4; then retrieved alone
_RETRIEVED = (3, 4, 4, 5, 5, 6, 6, 7)  # by the class of the match
SURE = match_class(8)  # a match of this class passes whatever the model says


def gate(row: Tensor, retrieved: Sequence[DraftTree], k: int, least: float) -> dict[int, float]:
    """First tokens of retrieved paths that may stay, with the model's probability: those among the
    k likeliest of its row [V] of log-probabilities, those with at least the probability `least`,
    and those after so long a match that the model need not be asked."""
    if not retrieved:
        return {}
    sure = {tree.tokens[i]: False for tree in retrieved for i in tree.children[0]}
    for tree in retrieved:
        sure |= {tree.tokens[i]: True for i in tree.children[0] if tree.evidence[i] >= SURE}
    top = set(row.topk(min(k, len(row))).indices.tolist())
    probs = zip(sure, row[list(sure)].exp().tolist(), strict=True)
    return {t: p for t, p in probs if sure[t] or p >= least or (t in top and p > 0)}


class Trie(NamedTuple):
    """Both trees in one, parents before children."""

    tokens: list[int]
    parents: list[int]
    joint: list[float]  # probability of the whole path, never above the parent's
    drafted: int  # the first so many nodes are the model's
    evidence: list[int]


def fuse(
    draft: DraftTree, retrieved: Sequence[DraftTree], first: dict[int, float], weight: float
) -> Trie:
    """Lay retrieved trees over the model's, one after the other.

    first: token -> the model's probability, for the first tokens that may stay. A node's
    probability becomes w r + (1 - w R) q, r being the retrieved tree's, R what r sums to among its
    siblings, q what stood there before; w is `weight` where the model has children, else 1.
    """
    tokens, parents, q = list(draft.tokens), list(draft.parents), list(draft.q)
    evidence = [0] * len(tokens)
    index = {edge: node for node, edge in enumerate(zip(parents, tokens, strict=True))}
    below: dict[int, list[int]] = {}
    spoken = set(parents)
    for node, parent in enumerate(parents):
        below.setdefault(parent, []).append(node)
    for tree in retrieved:
        at = {-1: -1}
        given: dict[int, dict[int, float]] = {}  # parent -> child -> r
        for i, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True)):
            if parent not in at or (parent < 0 and token not in first):
                continue
            edge = at[parent], token
            node = index.setdefault(edge, len(tokens))
            if node == len(tokens):
                tokens.append(token)
                parents.append(edge[0])
                q.append(first[token] if edge[0] < 0 else 0.0)
                evidence.append(0)
                below.setdefault(edge[0], []).append(node)
            at[i] = node
            given.setdefault(edge[0], {})[node] = tree.q[i]
            match = tree.evidence[i]
            known = (1 if match < 3 else 2) if node < len(draft) else _RETRIEVED[match]
            evidence[node] = max(evidence[node], known)
        for parent, r in given.items():
            w = weight if parent < 0 or parent in spoken else 1.0
            left = max(1.0 - w * sum(r.values()), 0.0)
            for node in below[parent]:
                q[node] = min(w * r.get(node, 0.0) + left * q[node], 1.0)
    joint: list[float] = []
    for parent, p in zip(parents, q, strict=True):
        joint.append(p if parent < 0 else joint[parent] * p)
    return Trie(tokens, parents, joint, len(draft), evidence)


def cut(trie: Trie, budget: Budget, retrieved: int, least: float) -> DraftTree:
    """The likeliest nodes within the budget, likeliest first; of those that only the retrieval has,
    at most `retrieved`, none less likely than `least`. No child is likelier than its parent, so
    what is kept is a tree."""
    kept: list[int] = []
    for node in sorted(range(len(trie.tokens)), key=lambda node: (-trie.joint[node], node)):
        joint = trie.joint[node]
        if len(kept) == budget.nodes or joint < budget.min_prob or joint <= 0.0:
            break
        if node >= trie.drafted:
            if not retrieved or joint < least:
                continue
            retrieved -= 1
        kept.append(node)
    new = {node: i for i, node in enumerate(kept)} | {-1: -1}
    above = [trie.parents[node] for node in kept]
    q = [
        trie.joint[node] / (trie.joint[parent] if parent >= 0 else 1.0)
        for node, parent in zip(kept, above, strict=True)
    ]
    return DraftTree(
        [trie.tokens[node] for node in kept],
        [new[parent] for parent in above],
        [min(p, 1.0) for p in q],
        evidence=[trie.evidence[node] for node in kept],
    )
