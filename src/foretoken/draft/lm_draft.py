"""One session's draft while a small model grows it, and what the model holds of the session."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foretoken.draft.growth import Growth, spelled
from foretoken.errors import ForetokenError, NoTokenLeftError
from foretoken.prompt.sampling import Warper
from foretoken.target.base import Job, KVCache
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Level, Scores, Session

if TYPE_CHECKING:  # transformers takes seconds to import, and listing methods needs none of it
    from foretoken.target.hf import HFTarget
    from foretoken.target.nested import NestedTarget


@dataclass
class Memory:
    """What the drafter holds of one session."""

    cache: KVCache
    warper: Warper
    # the last draft's scored nodes: (row of the parent, -1 for the root, token) -> row, counted
    # from the end of the committed text
    rows: dict[tuple[int, int], int] = field(default_factory=dict)


class Draft:
    """One session's growth, and the rows of it that the model has read."""

    def __init__(
        self, text: Sequence[int], memory: Memory, growth: Growth, wanted: frozenset[str]
    ) -> None:
        self.text, self.memory, self.growth, self.wanted = text, memory, growth, wanted
        self._tokens: list[int] = []  # of the nodes read so far: those that were in a frontier
        self._parents: list[int] = []
        self._row = {-1: -1}  # node of the growth -> row
        self._above: list[int] = []  # nodes of the level before the one that grows

    def job(self) -> Job:
        """What the model must read to continue the frontier."""
        cache, growth = self.memory.cache, self.growth
        if growth.frontier[0] == -1:
            return Job(cache, self.text[cache.length :], EMPTY)
        scored = len(self._tokens)
        for row, node in enumerate(growth.frontier, scored):
            parent, token = self._row[growth.parents[node]], growth.tokens[node]
            self._row[node] = self.memory.rows[parent, token] = row
            self._parents.append(parent)
            self._tokens.append(token)
        return Job(cache, (), DraftTree(self._tokens, self._parents), scored)

    def grow(
        self, scores: Scores, temperature: float | None, seconds: float, now: Callable[[], float]
    ) -> None:
        """One level more. scores: [len(frontier)] rows of the model. seconds: that they took, by
        the clock `now`."""
        begun = now()
        if not self._tokens:
            self.memory.cache.keep(())  # the root is committed text: no verdict can take it back
        try:
            logprobs = self.processed(scores.logits, temperature).log_softmax(dim=-1)
        except NoTokenLeftError:  # whether the text can go on there is the target's affair
            self.growth.stop()
            return
        if bool(logprobs[:, 0].isnan().any()):  # one such logit makes its whole row NaN
            raise ForetokenError(f"token {len(self.text)}: the drafter's logits contain NaN or inf")
        growth, read, first = self.growth, self.growth.frontier, len(self.growth.tokens)
        growth.grow(logprobs)
        # text was read for the first level: no later one takes so long
        seconds = seconds + now() - begun if read[0] >= 0 else 0.0
        go_on = growth.budget.go_on
        if go_on is not None and growth.frontier:
            entropy = entropies(logprobs) if "entropy" in self.wanted else ()
            hidden = scores.hidden.get("final") if "hidden" in self.wanted else None
            nodes = growth.fresh(first)
            if not go_on(self._level(read, nodes, entropy, hidden, seconds)):
                growth.stop()
            self._above = nodes

    def _level(
        self,
        read: list[int],
        nodes: list[int],
        entropy: Sequence[float],
        hidden: Tensor | None,
        seconds: float,
    ) -> Level:
        growth = self.growth
        row = {node: i for i, node in enumerate(read)}
        place = {node: i for i, node in enumerate(self._above)}
        return Level(
            growth.levels,
            [growth.q[node] for node in nodes],
            [math.exp(growth.joint[node]) for node in nodes],
            [row[growth.parents[node]] for node in nodes],
            entropy,
            hidden,
            [place[node] for node in read if node >= 0],
            seconds,
        )

    def processed(self, logits: Tensor, temperature: float | None) -> Tensor:
        """[m, V] float32: logits of q."""
        warper, growth = self.memory.warper, self.growth
        if growth.greedy and warper.trivial:
            return logits.float()
        if temperature is not None and not growth.greedy:
            return logits.float() / temperature
        paths = [spelled(node, growth.tokens, growth.parents) for node in growth.frontier]
        return warper.warp_rows(logits, self.text, paths)


def grow_together(
    target: HFTarget | NestedTarget, growing: Sequence[Draft], temperature: float | None
) -> None:
    """Grow drafts to their ends: a forward of the small model for each level of all; a draft that
    is finished drops out."""
    while growing:
        start = target.now()
        scores = target.score([draft.job() for draft in growing])
        target.wait()
        share = (target.now() - start) / len(growing)
        for draft, rows in zip(growing, scores, strict=True):
            draft.grow(rows, temperature, share, target.now)
        growing = [draft for draft in growing if draft.growth.frontier]


def entropies(logprobs: Tensor) -> list[float]:
    """[m] nats, of rows of log-probabilities [m, V]; a token ruled out adds nothing."""
    nats: list[float] = torch.special.entr(logprobs.exp()).sum(dim=-1).tolist()
    return nats


def own_warper(session: Session) -> Warper:
    """The session's own processing, without what the user wrote: such a processor may keep a state,
    and is to see the calls of plain decoding and no others."""
    sampling, limits = session.request.sampling, session.stop.limits
    if not sampling.processors:
        return session.warper
    ours = sampling.model_copy(update={"processors": ()})
    vocab, prompt = session.drafter.context.vocab, session.request.prompt
    return Warper(ours, prompt, session.stop.eos, limits.max_new_tokens, vocab)
