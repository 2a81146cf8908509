"""Sessions of a batch back into what transformers gives back: tensors, streamer calls, outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.drop_in.rows import Batch, RowProcessors
from foretoken.types import Session


class Stream:
    """Hands columns of the batch to a streamer, as soon as every row has written that far.

    streamer: has put(ids [B] on the CPU) and end(), or None. The prompt was put by transformers.
    """

    def __init__(self, streamer: Any, pad: int) -> None:
        self.streamer, self.pad, self.given = streamer, pad, 0

    def push(self, sessions: Sequence[Session]) -> None:
        """Called after every step."""
        if self.streamer is None:
            return
        live = [len(s.output) for s in sessions if s.finish_reason is None]
        ready = min(live) if live else max(len(s.output) for s in sessions)
        rows = [s.output for s in sessions]
        for i in range(self.given, ready):
            column = [row[i] if i < len(row) else self.pad for row in rows]
            self.streamer.put(torch.tensor(column))
        self.given = ready

    def end(self) -> None:
        """Called after the last step."""
        if self.streamer is not None:
            self.streamer.end()


def as_output(
    config: Any,
    batch: Batch,
    sessions: Sequence[Session],
    rules: Sequence[RowProcessors | None],
    pad: int,
) -> Any:
    """[B, L + longest] int64, or a GenerateDecoderOnlyOutput if the config asks for it."""
    prompt = batch.input_ids
    outputs = [s.output for s in sessions]
    longest = max(map(len, outputs))
    sequences = torch.cat((prompt, prompt.new_full((len(prompt), longest), pad)), dim=1)
    for row, tokens in enumerate(outputs):
        at = prompt.shape[1]
        sequences[row, at : at + len(tokens)] = prompt.new_tensor(tokens)
    if not config.return_dict_in_generate:
        return sequences
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    scores = logits = None
    if batch.keep_scores:
        kept = [r.written(len(o)) for r, o in zip(rules, outputs, strict=True) if r is not None]
        scores = _columns(kept, longest, pad, prompt.device)
    if batch.keep_logits:
        logits = _columns([s.logits for s in sessions], longest, pad, prompt.device)
    out = GenerateDecoderOnlyOutput(sequences=sequences, scores=scores, logits=logits)
    out.stats = [s.stats for s in sessions]
    return out


def _columns(
    rows: Sequence[Sequence[Tensor]], longest: int, pad: int, device: torch.device
) -> tuple[Tensor, ...]:
    """One [B, V] float32 per token; a point mass on the pad token where a row has ended."""
    ended = torch.full_like(rows[0][0], -math.inf, dtype=torch.float32, device=device)
    ended[pad] = 0.0
    return tuple(
        torch.stack([row[i].float().to(device) if i < len(row) else ended for row in rows])
        for i in range(longest)
    )
