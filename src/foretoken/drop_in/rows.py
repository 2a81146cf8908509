"""One row of a padded batch as a request: its processors and criteria see what transformers shows.

Each row is a session of its own, without the padding. Processors and criteria are called with one
row, [1, L], but L and the tokens before the prompt are those of the padded batch, because lengths
(max_length, min_length) and histories (no_repeat_ngram_size) count the padding in transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as hf
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from foretoken.types import Limits, Request, Sampling


@dataclass(frozen=True)
class Batch:
    """A prepared call of `generate`."""

    input_ids: Tensor  # [B, L], padded on the left
    starts: Sequence[int]  # [B], first real token of each row
    processors: Sequence[Any]
    criteria: StoppingCriteriaList
    sampling: bool
    seed: int
    samples: int  # rows per prompt (num_return_sequences)
    keep_scores: bool
    keep_logits: bool
    tenant: str = ""
    predictions: Sequence[Sequence[int] | None] = ()  # of each prompt; () is none at all

    @property
    def eos(self) -> tuple[int, ...]:
        """Tokens that end a row."""
        found = [c.eos_token_id.tolist() for c in self.criteria if isinstance(c, EosTokenCriteria)]
        return tuple(dict.fromkeys(token for ids in found for token in ids))

    @property
    def own_criteria(self) -> bool:
        """Whether anything but length and end-of-text tokens may stop a row."""
        return any(type(c) not in (MaxLengthCriteria, EosTokenCriteria) for c in self.criteria)

    @property
    def max_new_tokens(self) -> int:
        """Tokens that a row may get; transformers writes one before it first asks."""
        return max(1, (self.criteria.max_length or 0) - self.input_ids.shape[1])


class RowProcessors:
    """The prepared processors of one row; keeps what they return, by index of the token."""

    def __init__(self, batch: Batch, row: int) -> None:
        of_row = [for_row(p, row, batch) for p in batch.processors]
        self.processors = hf.LogitsProcessorList(of_row)
        self.padding = batch.input_ids[row : row + 1, : batch.starts[row]]
        self.eos = frozenset(batch.eos)
        self.n_prompt = batch.input_ids.shape[1] - batch.starts[row]
        self.ended = False
        self.keep = batch.keep_scores
        self.scores: dict[int, Tensor] = {}  # [V] each

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """ids [1, n] without padding, scores [1, V] -> scores [1, V]."""
        n, device = ids.shape[1], scores.device
        if n > self.n_prompt and int(ids[0, -1]) in self.eos:
            self.ended = True
        if self.ended:  # the draft went on behind the end of the text; transformers never asks
            return scores
        padded = torch.cat((self.padding, ids.to(self.padding.device)), dim=1)
        scores = self.processors(padded, scores.to(padded.device))
        if self.keep:
            self.scores[n] = scores[0]
        return scores.to(device)

    def written(self, n: int) -> tuple[Tensor, ...]:
        """Scores [V] of the first n tokens written."""
        return tuple(self.scores[self.n_prompt + i] for i in range(n))


class RowCriteria:
    """The criteria of one row, asked after every token with the padded history."""

    def __init__(self, batch: Batch, row: int, scores: RowProcessors | None) -> None:
        self.criteria, self.scores = batch.criteria, scores
        width, self.start = batch.input_ids.shape[1], batch.starts[row]
        self.n_prompt = width - self.start
        # a buffer: the history is not built anew for every token
        self.ids = batch.input_ids.new_zeros((1, width + batch.max_new_tokens))
        self.ids[:, :width] = batch.input_ids[row]

    def __call__(self, tokens: Sequence[int]) -> bool:
        """tokens: prompt and output, without padding; the last one is new."""
        n = self.start + len(tokens)
        self.ids[0, n - 1] = tokens[-1]
        scores = None
        if self.scores is not None and self.scores.keep:
            scores = tuple(s[None] for s in self.scores.written(len(tokens) - self.n_prompt))
        return bool(torch.as_tensor(self.criteria(self.ids[:, :n], scores)).any())


def request_of(batch: Batch, row: int) -> tuple[Request, RowProcessors | None]:
    """The row as a request, and where its processed scores will be found."""
    ids = batch.input_ids[row, batch.starts[row] :].tolist()
    rules = RowProcessors(batch, row) if batch.processors or batch.keep_scores else None
    sampling = Sampling(
        temperature=1.0 if batch.sampling else 0.0,  # warpers are among the processors
        processors=() if rules is None else (rules,),
        seed=batch.seed + row,
    )
    if batch.own_criteria:  # they are asked at every token, the end-of-text token included
        ends: dict[str, Any] = {"ignore_eos": True, "criteria": (RowCriteria(batch, row, rules),)}
    else:
        ends = {"eos_token_ids": batch.eos}
    limits = Limits(max_new_tokens=batch.max_new_tokens, **ends)
    request = Request(
        ids,
        sampling,
        limits,
        tenant=batch.tenant,
        prediction=batch.predictions[row // batch.samples] if batch.predictions else None,
        keep_logits=batch.keep_logits,
    )
    return request, rules


def for_row(processor: Any, row: int, batch: Batch) -> Any:
    """`processor` as it acts on one row.

    Those of transformers that hold something per row get a copy with that row's share; all others,
    the user's own among them, are shared by the rows.
    """
    make = _PER_ROW.get(type(processor))
    return processor if make is None else make(copy.copy(processor), row, row // batch.samples)


def _repetition(p: Any, row: int, prompt: int) -> Any:  # noqa: ARG001
    if isinstance(p.prompt_ignore_length, Tensor):
        p.prompt_ignore_length = p.prompt_ignore_length[row : row + 1]
    return p


def _encoder_penalty(p: Any, row: int, prompt: int) -> Any:  # noqa: ARG001
    p.encoder_input_ids = p.encoder_input_ids[prompt : prompt + 1]
    return p


def _encoder_ngrams(p: Any, row: int, prompt: int) -> Any:  # noqa: ARG001
    p.generated_ngrams, p.batch_size = [p.generated_ngrams[prompt]], 1
    return p


def _prefix(p: Any, row: int, prompt: int) -> Any:  # noqa: ARG001
    allowed = p._prefix_allowed_tokens_fn
    p._prefix_allowed_tokens_fn = lambda _, ids: allowed(row, ids)
    return p


def _guidance(p: Any, row: int, prompt: int) -> Any:  # noqa: ARG001
    context = dict(p.unconditional_context)
    for name in ("input_ids", "attention_mask"):
        if context[name] is not None:
            context[name] = context[name][prompt : prompt + 1]
    p.unconditional_context = context
    return p


def _stateful(p: Any, row: int, prompt: int) -> Any:  # noqa: ARG001
    return p


_PER_ROW: dict[type, Callable[[Any, int, int], Any]] = {
    hf.RepetitionPenaltyLogitsProcessor: _repetition,
    hf.EncoderRepetitionPenaltyLogitsProcessor: _encoder_penalty,
    hf.EncoderNoRepeatNGramLogitsProcessor: _encoder_ngrams,
    hf.PrefixConstrainedLogitsProcessor: _prefix,
    hf.UnbatchedClassifierFreeGuidanceLogitsProcessor: _guidance,
    hf.SynthIDTextWatermarkLogitsProcessor: _stateful,
}
