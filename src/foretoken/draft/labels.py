"""What the target would write below each node of a step: what claims are judged by."""

from __future__ import annotations

import torch

from foretoken.types import Session, Step

LABELS = 8  # likeliest tokens of a row that give labels; the rest counts as 0


def labels(session: Session, step: Step) -> list[dict[int, float]]:
    """[n+1] token -> probability that the target would write it; {} for a row that is not known.

    For greedy text the argmax has 1. For drawn text the likeliest tokens at the request's
    temperature; other processing is left out: a label steers drafting, never the text.
    """
    temperature = session.request.sampling.temperature
    tokens, probs = step.scores.top(LABELS)
    if temperature == 0.0:
        return [{row[0]: 1.0} if row else {} for row in tokens]
    if temperature > 1.0:  # the tail matters: the head's share must be counted from whole rows
        head = torch.softmax(step.scores.logits.float() / temperature, dim=-1)
        at = [row or [0] * LABELS for row in tokens]
        found = head.gather(-1, torch.tensor(at, device=head.device)).tolist()
        return [dict(zip(t, p, strict=False)) for t, p in zip(tokens, found, strict=True)]
    out = []
    for row, chances in zip(tokens, probs, strict=True):
        powers = [p ** (1.0 / temperature) for p in chances]
        total = max(sum(powers), 1e-30) if temperature < 1.0 else 1.0
        out.append({t: p / total for t, p in zip(row, powers, strict=True)})
    return out
