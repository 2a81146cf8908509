"""commit: make the verdict real, token by token, and stop where the text stops."""

from __future__ import annotations

from dataclasses import dataclass

from foretoken.commit.stop import Stop
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import DraftTree
from foretoken.types import Committed, Session, Stats, Verdict


def commit(session: Session, tree: DraftTree, verdict: Verdict, rows: TargetRows) -> Committed:
    """Append the accepted tokens and the bonus up to the first stop; keep their KV rows.

    Afterwards `cache.length == len(tokens) - 1`: the last token given out is the next root, so
    where a stop cut inside the accepted run, only the nodes before its last token are kept. On any
    exception (a user's criterion may raise) the session is as it was before the step, and the
    exception goes on. Fills tokens, finish_reason, text_end, logprobs, origin, logits and the
    counts in stats; `given` belongs to who gives the tokens out.
    """
    tokens = [*(tree.tokens[node] for node in verdict.path), verdict.bonus]
    nodes = [-1, *verdict.path]  # the node whose row each token was read from
    before = _Before.of(session)
    try:
        stop = _append(session, tokens)
        n = len(session.tokens) - before.tokens
        tokens, nodes = tokens[:n], nodes[:n]
        logprobs = rows.logprobs(nodes, tokens)
        session.cache.keep(verdict.path[: n - 1])
    except BaseException:
        before.restore(session)
        raise
    accepted = min(n, len(verdict.path))
    session.logprobs += logprobs
    session.origin += [i < len(verdict.path) for i in range(n)]
    if session.request.keep_logits:  # copies: a view would keep every row of the step alive
        session.logits += [rows.logits[node + 1].clone() for node in nodes]
    if stop is not None:
        session.finish_reason, session.text_end = stop.reason, stop.text_end
    _count(session.stats, tree, accepted, n)
    return Committed(tokens, [node + 1 for node in nodes], accepted, session.finish_reason)


@dataclass(frozen=True)
class _Before:
    """What a failed step must give back."""

    tokens: int
    cached: int
    stop: object

    @classmethod
    def of(cls, session: Session) -> _Before:
        return cls(len(session.tokens), session.cache.length, session.stop.save())

    def restore(self, session: Session) -> None:
        del session.tokens[self.tokens :]
        session.stop.restore(self.stop)
        if session.cache.length > self.cached:
            session.cache.truncate(self.cached)


def _append(session: Session, tokens: list[int]) -> Stop | None:
    """Append tokens until one of them stops the text."""
    for token in tokens:
        session.tokens.append(token)
        stop = session.stop.check(session.tokens, session.n_prompt)
        if stop is not None:
            return stop
    return None


def _count(stats: Stats, tree: DraftTree, accepted: int, given: int) -> None:
    stats.steps += 1
    stats.drafted += len(tree)
    stats.accepted += accepted
    stats.tokens += given
    _add_depths(stats.drafted_by_depth, tree.depth)
    _add_depths(stats.accepted_by_depth, accepted)


def _add_depths(counts: list[int], depth: int) -> None:
    """One more step that reached this depth; counts[d] is the steps that reached d+1."""
    counts.extend([0] * (depth - len(counts)))
    for d in range(depth):
        counts[d] += 1
