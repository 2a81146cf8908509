"""What a drafter is worth on texts that the target wrote: acceptance, tokens per step, MBSU.

Two forwards per text, no decoding. Given that the target writes token x where it does, a drafter
that draws its chain from q has x accepted with chance min(1, q(x) / p(x)); what is not accepted is
replaced, and the next draft begins after it. So the expected number of steps over a given text is a
sum over where drafts may begin, taken here exactly from the end of the text to its start. Texts
must have been drawn at `temperature`; other texts give an estimate. Own derivation; `simulate`
counts real drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from foretoken.learn.recipes.forward import logits_of, pieces
from foretoken.learn.recipes.losses import acceptance, forward_kl, log_probs
from foretoken.learn.recipes.rows import Batch
from foretoken.learn.recipes.simulate import mbsu

MICRO = 4  # rows per forward


@dataclass(frozen=True)
class Worth:
    """Figures of a drafter on held-out texts."""

    alpha: float  # mean chance that a drawn token is accepted: sum min(p, q)
    kl: float  # mean KL(p || q), nats
    tau: float  # tokens per step of drafts of a fixed length
    cost: float  # c: parameters read per drafted token / per target forward
    mbsu: float  # tau / (c * length + 1)

    def rounded(self) -> dict[str, float]:
        """For logs."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


@torch.no_grad()
def worth(
    model: Any,
    teacher: Any,
    held: Batch,
    cost: float,
    length: int,
    temperature: float = 1.0,
    keep: Sequence[int] | None = None,
) -> Worth:
    """Figures on the rows `held`, which must hold at least one token that counts; drafts of
    `length` tokens. keep: the tokens that the drafter scores (`vocab_trim`), None for all; its KL
    is that of the whole output layer, since it would be infinite."""
    training, pair = model.training, (teacher, model)
    model.eval()
    alphas: list[Tensor] = []
    divergences: list[Tensor] = []
    texts: list[list[float]] = []
    for piece in pieces(held, MICRO):
        rows = piece.to(model.device)
        at = rows.mask[:, 1:]
        log_p, log_q = (log_probs(logits_of(m, rows)[at], temperature) for m in pair)
        divergences.append(forward_kl(log_p, log_q))
        if keep is not None:
            log_q = _of_kept(log_q, keep)
        alphas.append(acceptance(log_p, log_q))
        token = rows.ids[:, 1:][at][:, None]
        ratio = (log_q.gather(1, token) - log_p.gather(1, token)).clamp_max(0).exp()
        texts += runs(ratio[:, 0], at)
    model.train(training)
    tau = sum(map(len, texts)) / sum(expected_steps(text, length) for text in texts)
    return Worth(
        float(torch.cat(alphas).mean()),
        float(torch.cat(divergences).mean()),
        tau,
        cost,
        mbsu(tau, cost, length),
    )


def _of_kept(log_q: Tensor, keep: Sequence[int]) -> Tensor:
    """Renormalised over the kept tokens, -inf for the others."""
    ids = torch.tensor(list(keep), device=log_q.device)
    out = torch.full_like(log_q, -torch.inf)
    return out.index_copy_(1, ids, log_q[:, ids].log_softmax(dim=-1))


def runs(values: Tensor, at: Tensor) -> list[list[float]]:
    """values [N] of the true places of at [B, L], as one list for each unbroken run of a row."""
    found: list[list[float]] = []
    listed = iter(values.tolist())
    for row in at.tolist():
        inside = False
        for counts in row:
            if counts and not inside:
                found.append([])
            if counts:
                found[-1].append(next(listed))
            inside = counts
    return found


def expected_steps(accepted: Sequence[float], length: int) -> float:
    """Expected steps over a text whose i-th token, if drafted, is accepted with chance accepted[i];
    drafts of `length` tokens, each step ends with a token of the target's own."""
    steps = [0.0] * (len(accepted) + length + 2)  # from each place to the end; 0 beyond it
    for start in range(len(accepted) - 1, -1, -1):
        total, reached = 1.0, 1.0
        for place in range(start, min(start + length, len(accepted))):
            total += reached * (1.0 - accepted[place]) * steps[place + 1]
            reached *= accepted[place]
        steps[start] = total + reached * steps[start + length + 1]
    return steps[0]
