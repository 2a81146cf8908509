"""lm-slem: a small model of any vocabulary writes text, which is drafted in the target's tokens.

String-level exact match: the likeliest chain of the small model's own tokens is written out, and
the target's tokenizer encodes it behind the end of the known text. Nothing need be shared between
the two vocabularies. The draft is fixed, so the target's own token is drawn at each place and
followed as long as it was drafted: exact whatever was drafted.

Source: Timor et al. 2502.05202, algorithm 2. Done otherwise: text is bytes, so that a draft may end
inside a character; where the draft changes the target tokens before it, which stand already, it is
encoded apart from them; a target token's q is what the small model gave the tokens that reach over
it. Cost: one forward per token of the small model, and two short encodings. It learns nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from foretoken.draft.foreign import Foreign, ForeignDraft
from foretoken.draft.lm import GreedyChain
from foretoken.draft.spelling import Spelling
from foretoken.draft.transcript import common
from foretoken.draft.vocabularies import Vocabularies
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session

WINDOW = 32  # bytes of known text that the draft is encoded behind
_CONTINUES = bytes(range(0x80, 0xC0))  # never the first byte of a character
_BEFORE = (b"\n", b".", b"a", b"")  # what may stand before a text that is encoded by itself


class OwnDraft(ForeignDraft):
    """A draft of whatever the small model likes."""

    def processed(self, logits: Tensor, temperature: float | None) -> Tensor:
        """[1, drafter's rows] float32: its own logits, at the temperature of drawn text. Other
        processing speaks of the target's ids, and acts where they are the drafter's."""
        if self.pair.identical:
            return super().processed(logits, temperature)
        return logits.float() / (self.session.request.sampling.temperature or 1.0)


class LmSlem(Foreign):
    """The likeliest text of the small model."""

    name = "lm-slem"
    summary = "a small model of any vocabulary writes text that the target's tokenizer encodes"
    source = "Timor et al. 2502.05202, algorithm 2 (string-level exact match)"
    emits: Kind = "point"
    verifier = "walk"
    drafts = OwnDraft

    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> GreedyChain:
        """See the base class."""
        return GreedyChain(budget, generator, greedy, self.ends(session))

    def translate(self, draft: ForeignDraft) -> DraftTree:
        """See the base class."""
        growth, known = draft.growth, bytes(draft.transcript.text)
        return translated(self.pair, known, growth.tokens, growth.joint).first(draft.most)


def translated(
    pair: Vocabularies, known: bytes, tokens: Sequence[int], joint: Sequence[float]
) -> DraftTree:
    """A chain of the target's tokens for one of the drafter's.

    known: the text before. joint: log-probability of the chain up to each of its tokens. A special
    token that both have is the chain's last one, another one is left out with all behind it.
    """
    if pair.same:
        return chain(tokens, joint)
    text, reach, special = b"", [], -1
    for token, log in zip(tokens, joint, strict=True):
        piece = pair.drafter.piece(token)
        if piece is None:
            special = pair.to_target[token]
            break
        if not known and not text and pair.drafter.strips:
            piece = piece.removeprefix(b" ")
        text += piece
        reach.append((len(text), log))
    ids = encoded_behind(pair.target, known, text) if text else []
    logs, at = [], 0
    for i in ids:
        at = min(at + len(pair.target.piece(i) or b""), len(text))
        logs.append(next(log for end, log in reach if end >= at))
    if special >= 0 and at == len(text):
        ids, logs = [*ids, special], [*logs, joint[len(reach)]]
    return chain(ids, logs)


def encoded_behind(target: Spelling, known: bytes, text: bytes) -> list[int]:
    """The tokens of `text` where it follows `known`, as far as they write just that."""
    behind = known[-WINDOW:].lstrip(_CONTINUES)
    found = _after(target, behind, text, not known and target.strips)
    return found or list(_apart(target, text))


@lru_cache(maxsize=4096)
def _apart(target: Spelling, text: bytes) -> tuple[int, ...]:
    """The tokens of a text that begins where a token begins, whatever stands before."""
    found = (_after(target, before, text, False) for before in _BEFORE)
    return tuple(next(filter(None, found), ()))


def _after(target: Spelling, before: bytes, text: bytes, strips: bool) -> list[int]:
    """The tokens of `text` in before + text; none if the tokens of `before` are others there."""
    start, whole = target.encode(before), target.encode(before + text)
    if common(start, whole) < len(start):
        return []
    return _writing(target, whole[len(start) :], text, strips)


def first_behind(target: Spelling, known: bytes, texts: Sequence[bytes]) -> list[int | None]:
    """The first token of `encoded_behind` for each of many texts; None where there is none."""
    behind = known[-WINDOW:].lstrip(_CONTINUES)
    start, strips = target.encode(behind), not known and target.strips
    out: list[int | None] = []
    for text, whole in zip(texts, target.encode_all([behind + t for t in texts]), strict=True):
        found = whole[len(start) : len(start) + 1] if common(start, whole) == len(start) else []
        found = _writing(target, found, text, strips) or list(_apart(target, text))
        out.append(found[0] if found else None)
    return out


def _writing(target: Spelling, ids: Sequence[int], text: bytes, strips: bool) -> list[int]:
    """The leading tokens that write the start of `text`. strips: the first one's space does not
    count."""
    at = 0
    for n, i in enumerate(ids):
        piece = target.piece(i) or b""
        if n == 0 and strips:
            piece = piece.removeprefix(b" ")
        if not piece or text[at : at + len(piece)] != piece:
            return list(ids[:n])
        at += len(piece)
    return list(ids)


def chain(tokens: Sequence[int], joint: Sequence[float]) -> DraftTree:
    """A fixed chain. joint: log-probabilities down to each token."""
    steps = zip([0.0, *joint], joint, strict=False)
    return DraftTree.chain(tokens, [math.exp(min(now - above, 0.0)) for above, now in steps])
