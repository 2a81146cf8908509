"""lm-slrs: a small model of any vocabulary, by the law of the first target token of its text.

String-level rejection sampling: psi(t) is the probability that what the small model writes begins
with the target's token t, when the target's tokenizer has encoded it. A token drawn from psi is
accepted with min(1, p / psi), so the chance to accept is the sum of min(p, psi): never less than
that of `lm-slem`'s rule for drawn text, the sum of p psi. psi takes every spelling of the text up
to the length of the longest target token, which is exponential in that length. So this is for small
vocabularies, and to check the others by: CapabilityError above LIMIT spellings.

Source: Timor et al. 2502.05202, algorithm 3. Done otherwise: whole psi is at hand anyway, so the
token is drawn from it, and the next one from psi after it; text is taken to be long enough once it
has as many bytes as the longest token (any fixed rule gives an exact method, since psi is the law
of what that rule gives); what the target's tokenizer cannot write is left out and psi renormalised;
the request's processing acts on psi. With the target's own tokenizer psi is the model's q. Cost per
drafted token: a forward for every token of the longest spelling. It learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from foretoken.draft.base import Context
from foretoken.draft.foreign import Foreign, ForeignDraft, ForeignMemory
from foretoken.draft.growth import spelled
from foretoken.draft.lm_sampled import Chain
from foretoken.draft.lm_slem import first_behind
from foretoken.draft.transcript import Transcript, common
from foretoken.draft.vocabularies import Vocabularies
from foretoken.errors import CapabilityError, NoTokenLeftError
from foretoken.prompt.chance import PositionRandom
from foretoken.target.base import Job
from foretoken.tree import EMPTY, DraftTree, Kind
from foretoken.types import Budget, Session

LIMIT = 512  # spellings
# tokens and parents of a tree of the drafter's tokens, how many of them are known -> [new nodes, V]
# log-probabilities after each new node; after the text so far, if there is no node yet
Rows = Callable[[Sequence[int], Sequence[int], int], Tensor]


class Spellings:
    """All texts of a drafter up to the length of the target's longest token, and what they begin
    with."""

    def __init__(self, pair: Vocabularies) -> None:
        self.pair, self.length = pair, pair.target.longest
        self.tokens = [  # that write something, and those that end a text
            i for i in range(pair.n_drafter)
            if pair.drafter.piece(i) or (i in pair.drafter.specials and pair.to_target[i] >= 0)
        ]  # fmt: skip
        sizes = [len(pair.drafter.piece(i) or b"") or self.length for i in self.tokens]
        self.count = _count(self.length, tuple(sizes))

    def law(self, known: bytes, rows: Rows) -> Tensor:
        """psi: [target's rows] float64 behind a known text; all 0 if nothing can be written."""
        weight: dict[tuple[bytes, int], float] = {}  # text, target token that ended it -> chance
        level = [(-1, b"", 1.0)]  # node, what it wrote, its chance
        tokens: list[int] = []
        parents: list[int] = []
        while level:
            known_nodes = len(tokens) - len(level) if tokens else 0
            chances = rows(tokens, parents, known_nodes)[:, self.tokens].softmax(-1).tolist()
            below = []
            for (node, text, chance), row in zip(level, chances, strict=True):
                for token, p in zip(self.tokens, row, strict=True):
                    piece = self.pair.drafter.piece(token) or b""
                    longer, joint = text + piece, chance * p
                    if piece and len(longer) < self.length:
                        below.append((len(tokens), longer, joint))
                        tokens.append(token)
                        parents.append(node)
                    else:
                        key = (longer, -1 if piece else self.pair.to_target[token])
                        weight[key] = weight.get(key, 0.0) + joint
            level = below
        psi = torch.zeros(self.pair.n_target, dtype=torch.float64)
        texts = list(dict.fromkeys(text for text, _ in weight if text))
        first = dict(zip(texts, first_behind(self.pair.target, known, texts), strict=True))
        for (text, end), chance in weight.items():
            begins = first[text] if text else end
            if begins is not None:
                psi[begins] += chance
        return psi / psi.sum() if psi.sum() > 0 else psi


@lru_cache(maxsize=16)
def _count(length: int, sizes: tuple[int, ...]) -> int:
    """Sequences of tokens of these sizes that reach the length with their last token."""
    reach = [1]  # [n]: that reach n more
    for n in range(1, length + 1):
        reach.append(min(sum(reach[max(n - size, 0)] for size in sizes), LIMIT + 1))
    return reach[-1]


class LmSlrs(Foreign):
    """A chain drawn from psi, token by token."""

    name = "lm-slrs"
    summary = "a small model of any small vocabulary, by the target tokens its text begins with"
    source = "Timor et al. 2502.05202, algorithm 3 (string-level rejection sampling)"
    emits: Kind = "sampled"
    verifier = "block"
    nodes = 2
    gives = frozenset()

    class Options(Foreign.Options):
        """The base's."""

        depth: int = Field(2, ge=1, le=16, description="tokens of the target's at most")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.spellings = None if self.pair.same else Spellings(self.pair)
        most = min(LIMIT, self.model.target.max_draft)
        if self.spellings is not None and self.spellings.count > most:
            raise CapabilityError(
                f"drafter {self.name!r} goes through all texts of {self.spellings.length} bytes, "
                f"which is for {most} spellings at most; lm-slem takes any vocabulary"
            )

    def propose_batch(self, asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        """One after the other."""
        return [self._propose(session, budget) for session, budget in asked]

    def _propose(self, session: Session, budget: Budget) -> DraftTree:
        nodes = min(budget.nodes, budget.depth, self.options.depth)
        if nodes < 1:
            return self.nothing
        with self.model.lock:
            memory, sampling = self.memory(session), session.request.sampling
            device = self.model.target.device
            growth = self.growth(
                session,
                replace(budget, nodes=nodes, depth=nodes),
                PositionRandom(sampling.seed).generator(len(session.tokens), device),
                sampling.greedy,
            )
            now = memory.transcript
            while growth.frontier:
                path = spelled(growth.frontier[0], growth.tokens, growth.parents)
                before, now = now, memory.transcript.ahead(path)
                stays = min(memory.cache.length, common(before.ids, now.ids), len(now.ids) - 1)
                memory.cache.truncate(max(stays, 0))
                row = self._law(session, memory, now, path)
                if row is None:
                    growth.stop()
                else:
                    growth.grow(row)
            stays = min(memory.cache.length, common(now.ids, memory.transcript.ids))
            memory.cache.truncate(stays)
        return growth.tree()

    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> Chain:
        """In the target's own tokens."""
        return Chain(budget, generator, greedy, session.warper.eos)

    def translate(self, draft: ForeignDraft) -> DraftTree:
        """Never asked for: the draft grows in the target's tokens."""
        raise NotImplementedError

    def _law(
        self, session: Session, memory: ForeignMemory, text: Transcript, path: Sequence[int]
    ) -> Tensor | None:
        """[1, target's rows] log psi after the text and path; None where there is no such law."""
        target, cache = self.model.target, memory.cache
        longest = 1 if self.spellings is None else self.spellings.length
        if not text.ids or text.broken or len(text.ids) + longest > target.max_context:
            return None

        def rows(tokens: Sequence[int], parents: Sequence[int], known: int) -> Tensor:
            if tokens:
                return score(Job(cache, (), DraftTree(tokens, parents), known))
            root = score(Job(cache, text.ids[cache.length :], EMPTY))
            cache.keep(())
            return root

        def score(job: Job) -> Tensor:
            return target.score([job])[0].logits.float()

        if self.spellings is None:
            logits = self.pair.lift(rows((), (), 0))
        else:
            psi = self.spellings.law(bytes(text.text), rows).float()
            logits = psi.log()[None].to(target.device)
        warper = memory.warper
        try:
            if not (session.request.sampling.greedy and warper.trivial):
                logits = warper.warp_rows(logits, session.tokens, [path])
        except NoTokenLeftError:
            return None
        return logits.log_softmax(-1) if bool(logits.isfinite().any()) else None
