"""Is it the same text? Where not: where it left, and how close the target's two best tokens were.

A difference is a *near-tie* if the gap between the two best logits, recomputed by one plain forward
of the committed text, is at most NEAR_TIE_ULPS units in the last place of the model's number format
at the size of the best logit: what a sum taken in another order can move in a network of depth.
Where text is drawn, the same share of probability is what rounding can move: the difference is a
near-tie if the random number lies so close to both tokens' parts of the cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.bench.report import Divergence
from foretoken.prompt.chance import PositionRandom
from foretoken.prompt.sampling import Warper
from foretoken.target.base import Job
from foretoken.tree import EMPTY
from foretoken.types import Sampling

NEAR_TIE_ULPS = 4


def bound_in_words(dtype: torch.dtype) -> str:
    """The stated bound."""
    eps = torch.finfo(dtype).eps
    return f"gap <= {NEAR_TIE_ULPS} x {eps:.3g} ({dtype} epsilon) x max(1, |best logit|)"


def first_difference(expected: Sequence[int], got: Sequence[int]) -> int | None:
    """Index of the first token that differs (or is missing on one side); None if equal."""
    both = enumerate(zip(expected, got, strict=False))
    at = next((i for i, (a, b) in both if a != b), min(len(expected), len(got)))
    return None if at == len(expected) == len(got) else at


def differing(expected: Sequence[int], got: Sequence[int]) -> int:
    """How many tokens differ, position by position; a missing one differs."""
    unequal = sum(a != b for a, b in zip(expected, got, strict=False))
    return unequal + abs(len(expected) - len(got))


def plain_row(target: Any, tokens: Sequence[int]) -> Tensor:
    """[V] float32: the logits after `tokens`, by one plain forward."""
    cache = target.new_cache(len(tokens))
    try:
        row: Tensor = target.score([Job(cache, list(tokens), EMPTY)])[0].logits[-1]
    finally:
        cache.release()
    return row.float()


def drawn_apart(
    row: Tensor, prompt: Sequence[int], text: Sequence[int], pair: Sequence[int],
    sampling: Sampling,
) -> float:  # fmt: skip
    """How much of the distribution lies between the random number and the farther of two tokens.

    row: [V] logits after prompt + text. 0: the number stands where both tokens' parts meet.
    """
    history = [*prompt, *text]
    warper = Warper(sampling, prompt, (), len(text) + 1, len(row))
    mass = warper.warp(row, history).double().softmax(dim=-1)
    ends = mass.cumsum(dim=-1)
    u = PositionRandom(sampling.seed).uniform(len(history)) * float(ends[-1])
    parts = [(float(ends[token] - mass[token]), float(ends[token])) for token in pair]
    return max(max(low - u, u - high, 0.0) for low, high in parts)


def divergence(
    target: Any,
    prompt: Sequence[int],
    expected: Sequence[int],
    got: Sequence[int],
    *,
    index: int,
    sampling: Sampling | None = None,
) -> Divergence | None:
    """The first difference of two continuations of a prompt; None if there is none.

    index: of the prompt, for the report. sampling: how both were drawn, None or greedy if chosen.
    """
    at = first_difference(expected, got)
    if at is None:
        return None
    row = plain_row(target, [*prompt, *expected[:at]])
    best, second = row.topk(2).values.tolist()
    bound = NEAR_TIE_ULPS * torch.finfo(target.dtype).eps * max(1.0, abs(best))
    drawn, gap = sampling is not None and not sampling.greedy, best - second
    pair = [text[at] for text in (expected, got) if at < len(text)]
    if sampling is not None and drawn:
        whole = len(pair) == 2
        gap = drawn_apart(row, prompt, expected[:at], pair, sampling) if whole else 1.0
    return Divergence(
        prompt=index,
        position=at,
        expected=expected[at] if at < len(expected) else None,
        got=got[at] if at < len(got) else None,
        gap=gap,
        near_tie=gap <= bound,
        drawn=drawn,
    )
