"""trace: what a target wrote, with its own distributions, to be replayed without the model.

`foretoken.learn.recorder` makes one, for those who ask for it; `foretoken.target.replay` puts one
where the model would be. What a drafter proposed is not kept, since the text does not depend on it.
A trace holds users' text unless it was redacted (`foretoken.learn.redact`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foretoken.errors import ArtifactError, ConfigError
from foretoken.target.cost import CostCurve

VERSION = 1

Ids = np.ndarray[Any, np.dtype[np.int32]]
Logprobs = np.ndarray[Any, np.dtype[np.float32]]
Pair = tuple[Sequence[int], Sequence[int]]


def _no_ids() -> Ids:
    return np.zeros((0, 0), np.int32)


def _no_logprobs() -> Logprobs:
    return np.zeros((0, 0), np.float32)


@dataclass(frozen=True, eq=False)
class TracedRequest:
    """One request and what the target wrote. Raises ConfigError for an empty prompt or output, or
    rows of another length than the output."""

    name: str
    prompt: list[int]
    output: list[int]
    sampling: dict[str, Any] = field(default_factory=dict)  # fields of `Sampling`, JSON-ready
    tenant: str = ""
    prediction: list[int] | None = None
    # [n, m]: row i is the target's distribution at temperature 1, unprocessed, that output token i
    # was chosen from: the m likeliest, best first, the last one replaced by token i if it is not
    # among them. m = 0: only the token is known
    top_tokens: Ids = field(default_factory=_no_ids)
    top_logprobs: Logprobs = field(default_factory=_no_logprobs)
    seconds: float = 0.0  # of its steps, its share of each
    steps: int = 0  # target forwards it rode in
    limits: dict[str, Any] = field(default_factory=dict)  # of `Limits`: length and eos, JSON-ready

    def __post_init__(self) -> None:
        for part in ("prompt", "output"):
            if not getattr(self, part):
                raise ConfigError(f"trace: {self.name}.{part}", [], "at least one token")
        n = len(self.output)
        if not self.top_tokens.size:
            object.__setattr__(self, "top_tokens", np.zeros((n, 0), np.int32))
            object.__setattr__(self, "top_logprobs", np.zeros((n, 0), np.float32))
        shape = self.top_tokens.shape
        if len(shape) != 2 or shape[0] != n or self.top_logprobs.shape != shape:
            raise ConfigError(f"trace: {self.name}.top_tokens", shape, f"[{n}, m], as top_logprobs")

    @property
    def m(self) -> int:
        """Entries of a recorded row."""
        return int(self.top_tokens.shape[1])

    @property
    def tokens(self) -> list[int]:
        """Prompt and output."""
        return [*self.prompt, *self.output]


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in the order in which they began, and what is to be known of the target.

    Raises ConfigError for token ids outside the vocabulary.
    """

    requests: Sequence[TracedRequest]
    vocab: int
    eos: tuple[int, ...] = ()
    tokenizer_hash: str = ""
    model: str = ""
    dtype: str = ""
    curve: CostCurve | None = None  # seconds of a forward where it was recorded
    machine: dict[str, Any] = field(default_factory=dict)  # where it was recorded
    max_context: int = 1 << 30  # positions that the model knows
    max_draft: int = 511  # most nodes that one of its forwards takes
    version: int = VERSION

    def __post_init__(self) -> None:
        self._check("eos", self.eos)
        for request in self.requests:
            for part in ("prompt", "output", "prediction", "top_tokens"):
                self._check(f"{request.name}.{part}", getattr(request, part))

    def _check(self, name: str, ids: Any) -> None:
        array = np.asarray(() if ids is None else ids, dtype=np.int64)
        if array.size and (array.min() < 0 or array.max() >= self.vocab):
            worst = array.min() if array.min() < 0 else array.max()
            accepted = f"token ids from 0 to {self.vocab - 1}"
            raise ConfigError(f"trace: {name}", int(worst), accepted)

    @property
    def tokens(self) -> int:
        """Tokens written in all requests."""
        return sum(len(request.output) for request in self.requests)

    @classmethod
    def from_texts(cls, pairs: Iterable[Pair], vocab: int, **facts: Any) -> Trace:
        """A trace of text that no model wrote: pairs of prompt and reference, token ids.

        Its rows are unknown but for the token (m = 0). facts: further fields of a trace.
        """
        requests = [
            TracedRequest(f"text {i}", list(prompt), list(reference))
            for i, (prompt, reference) in enumerate(pairs)
        ]
        return cls(requests, vocab, **facts)

    def save(self, path: Path) -> None:
        """Write it whole or not at all. Raises ConfigError if the place cannot be written."""
        from foretoken.learn.trace_file import save

        save(self, path)

    @classmethod
    def load(cls, path: Path, tokenizer_hash: str | None = None) -> Trace:
        """Read a trace. tokenizer_hash: the only one accepted (None: any).

        Raises ArtifactError that names the file: missing, truncated, corrupt, of another version,
        or written with another tokenizer.
        """
        from foretoken.learn.trace_file import load

        trace = load(path)
        if tokenizer_hash is not None and trace.tokenizer_hash != tokenizer_hash:
            raise ArtifactError(
                f"{path}: recorded with the tokenizer {trace.tokenizer_hash or '(none)'}, the "
                f"model's is {tokenizer_hash or '(none)'}"
            )
        return trace
