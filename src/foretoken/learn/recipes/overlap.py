"""How much of the target's distribution a drafter covers on given texts: sum min(p, q), exactly.

Both models read the same texts as they read them when they serve (`Target.score` on their own KV
memory, so that a trimmed output layer counts as it is), p and q are processed as the request asks
(temperature, top-p, penalties ...), and at every position alpha = sum_x min(p(x), q(x)) is the
chance that a token drawn from q is accepted. A draft of likeliest tokens is accepted with
p(argmax q) instead. Source: Leviathan et al. 2211.17192, sec. 3. In greedy text both are 1 where
the two models name the same token, else 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foretoken.prompt.sampling import Warper, argmax_rows
from foretoken.target.base import Job
from foretoken.tree import DraftTree
from foretoken.types import Sampling

SPARE = 64  # rows of memory beside the text


@dataclass(frozen=True)
class Overlap:
    """Sums over positions; a mean is taken of them at the end."""

    positions: int = 0
    alpha: float = 0.0
    greedy: float = 0.0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.positions + other.positions, self.alpha + other.alpha, self.greedy + other.greedy
        )

    def means(self) -> tuple[float | None, float | None]:
        """(alpha, chance of a draft of likeliest tokens); None where nothing was read."""
        n = self.positions
        return (self.alpha / n, self.greedy / n) if n else (None, None)


def overlap(
    target: Any,
    small: Any,
    texts: Iterable[tuple[Sequence[int], Sequence[int]]],
    sampling: Sampling,
    temperature: float | None = None,
) -> Overlap:
    """Over every token of the answers in `texts` (prompt, answer).

    small: the drafter's model as a target of the same vocabulary; what its context cannot hold is
    left out. temperature: of q alone, instead of the request's processing (`lm`'s option).
    """
    total = Overlap()
    for prompt, answer in texts:
        room = min(target.max_context, small.max_context) - len(prompt)
        kept = list(answer[: max(room, 0)])
        if kept:
            total += _one(target, small, list(prompt), kept, sampling, temperature)
    return total


def _one(
    target: Any,
    small: Any,
    prompt: list[int],
    answer: list[int],
    sampling: Sampling,
    temperature: float | None,
) -> Overlap:
    warper = Warper(sampling, prompt, target.eos, len(answer), target.vocab)
    paths = [answer[:i] for i in range(len(answer))]
    p = warper.warp_rows(text_rows(target, prompt, answer), prompt, paths)
    q = text_rows(small, prompt, answer).to(p.device)
    if temperature is not None and not sampling.greedy:
        q = q.float() / temperature
    else:
        q = warper.warp_rows(q, prompt, paths)
    best = torch.tensor(argmax_rows(q)[0], device=p.device)
    if sampling.greedy:
        same = int((torch.tensor(argmax_rows(p)[0], device=p.device) == best).sum())
        return Overlap(len(answer), same, same)
    p, q = p.softmax(-1), q.softmax(-1)
    covered = torch.minimum(p, q).sum(-1).double().sum()
    likeliest = p.gather(-1, best[:, None]).double().sum()
    return Overlap(len(answer), float(covered), float(likeliest))


def text_rows(target: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """[len(answer), V]: the target's logits before each token of the answer."""
    cache = target.new_cache(len(prompt) + len(answer) + SPARE)
    rows, fresh = [], list(prompt)
    try:
        for start in range(0, len(answer), target.max_draft):
            part = answer[start : start + target.max_draft]
            tree = DraftTree.chain(list(part[:-1]))
            rows.append(target.score([Job(cache, fresh, tree)])[0].logits.clone())
            cache.keep(range(len(tree)))
            fresh = [part[-1]]
    finally:
        cache.release()
    return torch.cat(rows)
