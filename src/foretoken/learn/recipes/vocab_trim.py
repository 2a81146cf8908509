"""How many of the target's tokens a drafter should score: counted, tried in all sizes, chosen.

Tokens are counted in answers that the target wrote, the prompts left out; for every size the k most
frequent ones are kept and the drafter is judged on answers that were not counted, with what serves:
q renormalised over the kept tokens, p over the whole vocabulary, at all positions. The size with
the greatest memory-bound speed-up MBSU = tau / (c g + 1) is the best; all tokens are one of the
sizes. Source: VocabTrim, Goel et al. 2506.22694, sec. 3; MBSU: Goel et al. 2403.00858.

Beyond them: tau is exact for the texts given (`worth`), not made from a mean acceptance; two
forwards serve all sizes, because dropping rows of the output layer changes no other logit.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foretoken.draft.trim import Counts
from foretoken.errors import ConfigError
from foretoken.learn.recipes.forward import logits_of, pieces
from foretoken.learn.recipes.losses import acceptance, log_probs
from foretoken.learn.recipes.reading import weights_read
from foretoken.learn.recipes.rows import Batch, Example
from foretoken.learn.recipes.simulate import mbsu
from foretoken.learn.recipes.worth import expected_steps, runs

Kind = Literal["digits", "punctuation", "bytes"]  # tokens that may be kept whatever was counted
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Size:
    """A drafter with k of its tokens, on held-out answers."""

    k: int
    coverage: float  # share of the answers' tokens that are kept
    mass: float  # mean P(kept tokens) under the target: the acceptance is at most this
    alpha: float  # mean sum min(p, q) over all positions, q renormalised over the kept tokens
    tau: float  # tokens per step of drafts of a fixed length
    cost: float  # c: parameters read per drafted token / per target forward
    mbsu: float  # tau / (c * length + 1)

    def rounded(self) -> dict[str, float]:
        """For documents."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def count_tokens(examples: Iterable[Example], vocab: int) -> npt.NDArray[np.int64]:
    """[V] how often each token stands where the target wrote. vocab: rows of the model's output,
    padded ids included. Raises ConfigError if nothing was written."""
    counts = np.zeros(vocab, np.int64)
    for example in examples:
        counts += np.bincount(example.ids[example.mask], minlength=vocab)
    if not counts.any():
        raise ConfigError("data", "no answers", "some that may be counted")
    return counts


def always_kept(
    tokenizer: Any, eos: Collection[int], counts: Counts, kinds: Collection[Kind] = ()
) -> list[int]:
    """Tokens that are kept whatever was counted, rising: ends of text, special tokens that the
    target wrote, and all tokens of the `kinds` asked for.

    Dropping an end of text would cost a rejection at the end of every answer. Raises ConfigError
    for an unknown kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError("always", kind, f"of {', '.join(KINDS)}")
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    own = {int(i) for i in eos} | {i for i in special if i < len(counts) and counts[i]}
    if kinds:
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        own |= {
            i for i, (name, text) in enumerate(zip(names, texts, strict=True))
            if i < len(counts) and any(_is(kind, str(name), text.strip()) for kind in kinds)
        }  # fmt: skip
    return sorted(own)


def _is(kind: Kind, name: str, text: str) -> bool:
    if kind == "bytes":  # <0x0A> of SentencePiece, or a letter of the byte-level alphabet
        return len(name) == 1 or (len(name) == 6 and name.startswith("<0x"))
    letters = string.digits if kind == "digits" else string.punctuation
    return bool(text) and all(letter in letters for letter in text)


@dataclass
class _Tally:
    """Sums over positions, for one size. keep: its tokens; place: [V], -1 for dropped ones."""

    keep: Tensor
    place: Tensor
    kept: int = 0
    mass: float = 0.0
    alpha: float = 0.0
    texts: list[list[float]] = field(default_factory=list)

    def add(self, log_p: Tensor, logits: Tensor, token: Tensor, at: Tensor, heat: float) -> None:
        """Positions [n] of a batch. log_p: the target's [n, V], one token's where text is greedy;
        logits: the drafter's [n, V]; heat: temperature, 0 for greedy text."""
        p, z = log_p[:, self.keep], logits[:, self.keep]
        log_q = log_probs(z, heat) if heat else _sure(z)
        self.mass += float(p.exp().sum())
        self.alpha += float(acceptance(p, log_q).sum())
        place = self.place[token]
        self.kept += int((place >= 0).sum())
        own = log_q.gather(1, place.clamp_min(0)[:, None])[:, 0]
        own = torch.where(place >= 0, own, -torch.inf)
        ratio = (own - log_p.gather(1, token[:, None])[:, 0]).clamp_max(0.0).exp()
        self.texts += runs(ratio.nan_to_num(0.0), at)


@torch.no_grad()
def sweep(
    target: Any,
    drafter: Any,
    held: Batch,
    keeps: Iterable[Sequence[int]],
    length: int = 5,
    temperature: float = 1.0,
    micro: int = 4,
) -> list[Size]:
    """What the drafter is worth with each choice of kept tokens, in order.

    target, drafter: transformers models of one vocabulary, the drafter whole. held: answers that
    were not counted, drawn at `temperature` (0: greedy), with at least one token that counts.
    length: tokens of a draft.
    """
    vocab = int(drafter.config.get_text_config().vocab_size)
    tallies = [_tally(keep, vocab, drafter.device) for keep in keeps]
    for piece in pieces(held, micro):
        rows = piece.to(drafter.device)
        at = rows.mask[:, 1:]
        p, logits = (logits_of(model, rows)[at].float() for model in (target, drafter))
        log_p = log_probs(p, temperature) if temperature else _sure(p)
        token = rows.ids[:, 1:][at]
        for tally in tallies:
            tally.add(log_p, logits, token, at, temperature)
    return [_size(tally, target, drafter, vocab, length) for tally in tallies]


def _tally(keep: Sequence[int], vocab: int, device: torch.device) -> _Tally:
    ids = torch.tensor(list(keep), dtype=torch.int64, device=device)
    place = torch.full((vocab,), -1, dtype=torch.int64, device=device)
    place[ids] = torch.arange(len(ids), device=device)
    return _Tally(ids, place)


def _size(tally: _Tally, target: Any, drafter: Any, vocab: int, length: int) -> Size:
    tokens, k = sum(map(len, tally.texts)), len(tally.keep)
    head = drafter.get_output_embeddings()
    row = head.weight.shape[1] + (head.bias is not None)
    cost = (weights_read(drafter) - (vocab - k) * row) / weights_read(target)
    tau = tokens / sum(expected_steps(text, length) for text in tally.texts)
    return Size(
        k, tally.kept / tokens, tally.mass / tokens, tally.alpha / tokens, tau, cost,
        mbsu(tau, cost, length),
    )  # fmt: skip


def best(sizes: Sequence[Size]) -> Size:
    """The one of the greatest MBSU; the smallest of equals."""
    return max(sizes, key=lambda size: (size.mbsu, -size.k))


def break_even(cost: float, trimmed: float, length: int) -> float:
    """The least tau' / tau at which a drafter that costs `trimmed` and not `cost` pays."""
    return (trimmed * length + 1) / (cost * length + 1)


def _sure(logits: Tensor) -> Tensor:
    """log of the point mass on the likeliest token, [n, k]."""
    out = torch.full_like(logits, -torch.inf)
    return out.scatter_(1, logits.argmax(dim=-1, keepdim=True), 0.0)
