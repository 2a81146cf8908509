"""Is it the same text? Where not: where it left, and how close the target's two best tokens were.

A difference is a *near-tie* if the gap between the two best logits, recomputed by one plain forward
of the committed text, is at most NEAR_TIE_ULPS units in the last place of the model's number format
at the size of the best logit: what a sum taken in another order can move in a network of depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from foretoken.bench.report import Divergence
from foretoken.target.base import Job
from foretoken.tree import EMPTY

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


def top_two(target: Any, tokens: Sequence[int]) -> tuple[float, float]:
    """The two best logits after `tokens`, by one plain forward."""
    cache = target.new_cache(len(tokens))
    try:
        row = target.score([Job(cache, list(tokens), EMPTY)])[0].logits[-1]
    finally:
        cache.release()
    best, second = row.float().topk(2).values.tolist()
    return best, second


def divergence(
    target: Any,
    prompt: Sequence[int],
    expected: Sequence[int],
    got: Sequence[int],
    *,
    index: int,
    greedy: bool = True,
) -> Divergence | None:
    """The first difference of two continuations of a prompt; None if there is none.

    index: of the prompt, for the report. greedy: whether a small gap explains a difference.
    """
    at = first_difference(expected, got)
    if at is None:
        return None
    best, second = top_two(target, [*prompt, *expected[:at]])
    bound = NEAR_TIE_ULPS * torch.finfo(target.dtype).eps * max(1.0, abs(best))
    return Divergence(
        prompt=index,
        position=at,
        expected=expected[at] if at < len(expected) else None,
        got=got[at] if at < len(got) else None,
        gap=best - second,
        near_tie=best - second <= bound if greedy else None,
    )
