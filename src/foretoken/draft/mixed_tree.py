"""A drawn and a fixed draft in one tree of kind "mixed"."""

from __future__ import annotations

from foretoken.tree import DraftTree


def fused(drawn: DraftTree, fixed: DraftTree, name: str) -> DraftTree:
    """Both trees in one of kind "mixed": drawn nodes first, then the fixed ones that are new."""
    tokens, parents = list(drawn.tokens), list(drawn.parents)
    q = list(drawn.q) if drawn.q else [0.5] * len(drawn)
    rows = list(drawn.dist_row) if drawn.dist_row else [-1] * len(drawn)
    sources = [name] * len(drawn)
    index = {(p, t): i for i, (p, t) in enumerate(zip(parents, tokens, strict=True))}
    new = {-1: -1}
    for i, (parent, token) in enumerate(zip(fixed.parents, fixed.tokens, strict=True)):
        at = index.setdefault((new[parent], token), len(tokens))
        if at == len(tokens):
            tokens.append(token)
            parents.append(new[parent])
            q.append(fixed.q[i])
            rows.append(-1)
            sources.append(fixed.sources[i])
        elif fixed.sources[i] not in sources[at]:
            sources[at] += "+" + fixed.sources[i]
        new[i] = at
    return DraftTree(tokens, parents, q, "mixed", drawn.dist, rows, sources)
