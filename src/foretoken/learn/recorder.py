"""recorder: notes what a target writes, step by step, and makes a `Trace` of it.

Nothing is recorded unless someone gives a `Recorder` to `Engine.run` (or calls it after
`Engine.step`). Cost: one log-softmax and one top-k over the committed rows of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from foretoken.errors import ConfigError
from foretoken.learn.redact import Permuted, Redact
from foretoken.learn.trace import Ids, Logprobs, Trace, TracedRequest
from foretoken.target.cost import CostCurve
from foretoken.types import Limits, Sampling, Session, Step

TOP = 16  # entries of a recorded row: more than drafters that learn from rows read
LIMIT = 1_000_000  # tokens that a recorder holds; with 16 entries a row about 128 MB


@dataclass
class _Partial:
    """A request while it is written."""

    name: str
    prompt: list[int]
    sampling: Sampling
    limits: Limits
    tenant: str
    prediction: list[int] | None
    output: list[int] = field(default_factory=list)
    tokens: list[Ids] = field(default_factory=list)  # [k, m] of each step
    logprobs: list[Logprobs] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0

    def request(self) -> TracedRequest:
        """What there is by now."""
        return TracedRequest(
            self.name,
            self.prompt,
            list(self.output),
            # processors are code and cannot be written down
            self.sampling.model_dump(mode="json", exclude_defaults=True, exclude={"processors"}),
            self.tenant,
            self.prediction,
            np.concatenate(self.tokens),
            np.concatenate(self.logprobs),
            self.seconds,
            self.steps,
            self.limits.model_dump(mode="json", include=_LENGTHS),
        )


# stop strings and criteria are text and code; where they ended a text, the output ends
_LENGTHS = {"max_new_tokens", "ignore_eos", "eos_token_ids"}


class Recorder:
    """Give it to `Engine.run(..., on_step=recorder)`, or call it with what `Engine.step` gave.

    target: the one that is recorded. tokenizer_hash: of the engine's context. top: entries kept of
    each row; 0 keeps tokens only. redact: maps a finished request to what is kept of it, None to
    drop it. curve: the target's measured cost, if it is at hand. limit: tokens held (prompts and
    outputs); further requests are not recorded and counted in `skipped`, as are those that it did
    not see from their first token on. `dropped`: by the redaction, as of the last `trace()`.
    """

    def __init__(
        self,
        target: Any,
        tokenizer_hash: str = "",
        *,
        top: int = TOP,
        redact: Redact | None = None,
        curve: CostCurve | None = None,
        limit: int = LIMIT,
    ) -> None:
        if top < 0:
            raise ConfigError("top", top, "a whole number from 0")
        self.target, self.tokenizer_hash, self.curve = target, tokenizer_hash, curve
        self.top, self.redact, self.limit = min(top, target.vocab), redact, limit
        self.held = self.skipped = self.dropped = 0
        self._order: list[_Partial | TracedRequest | None] = []
        self._running: WeakKeyDictionary[Session, int | None] = WeakKeyDictionary()

    def __call__(self, session: Session, step: Step) -> None:
        """Note one step; the request's record is closed with its last one."""
        if session not in self._running:
            self._running[session] = self._open(session, step)
        at = self._running[session]
        partial = None if at is None else self._order[at]
        if at is not None and isinstance(partial, _Partial):
            self._note(partial, step)
            if session.finish_reason is not None:
                self._order[at] = self._closed(partial)

    def _open(self, session: Session, step: Step) -> int | None:
        if step.context != session.n_prompt or self.held >= self.limit:
            self.skipped += 1
            return None
        request = session.request
        wanted = request.prediction
        self.held += len(request.prompt)
        self._order.append(
            _Partial(
                request.id or f"request {len(self._order)}",
                list(request.prompt),
                request.sampling,
                request.limits,
                request.tenant,
                None if wanted is None else list(wanted),
            )
        )
        return len(self._order) - 1

    def _note(self, partial: _Partial, step: Step) -> None:
        tokens = step.committed.tokens
        ids, logprobs = top_rows(step.scores.logits[step.committed.rows], tokens, self.top)
        partial.output += tokens
        partial.tokens.append(ids)
        partial.logprobs.append(logprobs)
        partial.seconds += sum(step.seconds.values())
        partial.steps += 1
        self.held += len(tokens)

    def _closed(self, entry: _Partial | TracedRequest | None) -> TracedRequest | None:
        """A record as it may be given out."""
        if not isinstance(entry, _Partial):
            return entry
        request = entry.request()
        return request if self.redact is None else self.redact(request)

    def trace(self) -> Trace:
        """All that was recorded; a request that is not finished, as far as it got."""
        from foretoken.bench.machine import describe, model_name  # here: it imports a lot

        kept = [self._closed(entry) for entry in self._order]
        requests = [request for request in kept if request is not None]
        self.dropped = len(kept) - len(requests)
        target, eos, mark = self.target, tuple(self.target.eos), self.tokenizer_hash
        if isinstance(self.redact, Permuted):
            eos, mark = tuple(self.redact.ids(eos)), self.redact.mark(mark)
        return Trace(
            requests,
            target.vocab,
            eos,
            mark,
            model_name(target),
            str(target.dtype).removeprefix("torch."),
            self.curve,
            describe(target).model_dump(),
            target.max_context,
            target.max_draft,
        )


def top_rows(logits: torch.Tensor, tokens: Sequence[int], m: int) -> tuple[Ids, Logprobs]:
    """[k, m] likeliest tokens of k rows [k, V] and their log-probabilities at temperature 1, best
    first; `tokens` [k] stand in each row, in the last place if nowhere else."""
    if not m:
        return np.zeros((len(tokens), 0), np.int32), np.zeros((len(tokens), 0), np.float32)
    logprobs = logits.detach().float().log_softmax(dim=-1).cpu()
    values, ids = logprobs.topk(m, dim=-1)
    chosen = torch.tensor(list(tokens))[:, None]
    missing = ~(ids == chosen).any(dim=-1)
    ids[missing, -1] = chosen[missing, 0]
    values[missing, -1] = logprobs.gather(-1, chosen)[missing, 0]
    return ids.numpy().astype(np.int32), values.numpy().astype(np.float32)
