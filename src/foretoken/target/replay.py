"""replay: a recorded trace in the place of the model.

Rows after text that was written hold what was recorded of them; nobody knows the others, and
`Scores.known` says so. Since the text does not depend on drafting, any drafter and policy can be
judged on a trace exactly, without a model. The rule `foretoken.verify.forced` makes the engine
write the recorded text where tokens were drawn, or chosen after processing; greedy text follows
from the rows alone.

The clock does not run by itself: a forward of n rows over c tokens takes what the cost curve says.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from foretoken.errors import ConfigError, ForetokenError
from foretoken.learn.trace import Trace, TracedRequest
from foretoken.target.base import Job, rows_together
from foretoken.target.cost import CostCurve
from foretoken.tree import DraftTree
from foretoken.types import Scores

ClockKind = Literal["virtual", "wall+virtual"]
Row = tuple[list[int], list[float]]  # tokens and probabilities, best first
_UNKNOWN: Row = ([], [])
_LEAST = 1e-9  # mass of all tokens that a recorded row does not name, at least


class ReplayCache:
    """Committed tokens in place of their keys and values."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens: list[int] = []
        self.fresh: list[int] = []  # read by the last score and not yet kept
        self.drafted: Sequence[int] = ()
        self.recorded: Recorded | None = None  # found by the prompt, in the first score

    @property
    def length(self) -> int:
        """See `KVCache`."""
        return len(self.tokens)

    def keep(self, path: Sequence[int]) -> None:
        """See `KVCache`."""
        self.tokens += [*self.fresh, *(self.drafted[node] for node in path)]
        self.fresh = []

    def truncate(self, n: int) -> None:
        """See `KVCache`; what goes on may be another request."""
        del self.tokens[n:]
        self.recorded = None

    def reserve(self, capacity: int) -> None:
        """See `KVCache`."""
        self.capacity = max(self.capacity, capacity)

    def release(self) -> None:
        """See `KVCache`."""
        self.tokens, self.fresh, self.recorded = [], [], None


class Recorded:
    """The rows of one request, ready to be looked up."""

    def __init__(self, request: TracedRequest) -> None:
        self.request = request
        self.start = len(request.prompt)
        self.tokens = request.tokens
        if request.m:
            self._ids = request.top_tokens.tolist()
            self._probs = request.top_logprobs.astype(float)
        else:  # only the token is known: it has all the mass
            self._ids = [[token] for token in request.output]

    def row(self, i: int) -> Row:
        """What output token i was chosen from, as far as it was recorded."""
        if not self.request.m:
            return self._ids[i], [1.0]
        return self._ids[i], [math.exp(value) for value in self._probs[i]]

    def follows(self, held: int, fresh: Sequence[int]) -> bool:
        """Whether these tokens stand in the text after its first `held` ones."""
        return self.tokens[held : held + len(fresh)] == list(fresh)

    def places(self, root: int, tree: DraftTree) -> list[int | None]:
        """[n+1] index of the output token that follows the root and each node; None where that
        was not recorded. root: the place of the text that follows the root."""
        after: list[int | None] = [root]
        for token, parent in zip(tree.tokens, tree.parents, strict=True):
            place = after[parent + 1]
            stands = place is not None and place < len(self.tokens) and self.tokens[place] == token
            after.append(place + 1 if stands and place is not None else None)
        return [
            None if place is None or place >= len(self.tokens) else place - self.start
            for place in after
        ]


@dataclass(frozen=True)
class ReplayedScores(Scores):
    """Scores that name no more tokens of a row than were recorded."""

    rows: Sequence[Row] = field(default=())  # [n+1], empty where the row is not known

    def top(self, m: int) -> tuple[list[list[int]], list[list[float]]]:
        """See `Scores`; a row has as many entries as were recorded, m at most."""
        return [ids[:m] for ids, _ in self.rows], [probs[:m] for _, probs in self.rows]


class ReplayTarget:
    """Implements `foretoken.target.base.Target` with a trace.

    A cache belongs to the recorded request that has its prompt, in recorded order among equal
    prompts, and over again after the last of them. curve: seconds of a forward, the trace's own if
    None; it may be replaced while it is used (`target.curve = ...`), which policies are not told.
    clock: "virtual" counts forwards and what is given to `spend`; "wall+virtual" adds the time
    that everything else really takes. Raises ConfigError if there is no curve or no request.
    """

    features = frozenset({"tokens", "logits"})

    def __init__(
        self, trace: Trace, curve: CostCurve | None = None, clock: ClockKind = "virtual"
    ) -> None:
        chosen = curve if curve is not None else trace.curve
        if chosen is None:
            raise ConfigError("curve", None, "a cost curve: the trace holds none")
        if clock not in ("virtual", "wall+virtual"):
            raise ConfigError("clock", clock, "virtual or wall+virtual")
        if not trace.requests:
            raise ConfigError("trace", 0, "a trace with at least one request")
        self.trace, self.curve = trace, chosen
        self.name, self.dtype = trace.model, trace.dtype
        self.device, self.how = torch.device("cpu"), "replayed"
        self.vocab, self.eos = trace.vocab, tuple(trace.eos)
        self.max_context, self.max_draft = trace.max_context, trace.max_draft
        self.prompt_seconds = 0.0  # of the last forward: what reading prompts added to it
        self._wall = clock == "wall+virtual"
        self._seconds = 0.0
        self._waiting: dict[tuple[int, ...], deque[TracedRequest]] = {}
        for request in trace.requests:
            self._waiting.setdefault(tuple(request.prompt), deque()).append(request)

    def new_cache(self, capacity: int) -> ReplayCache:
        """See `Target`."""
        return ReplayCache(capacity)

    def score(self, jobs: Sequence[Job]) -> list[Scores]:
        """See `Target`. Raises ForetokenError for text that was not recorded."""
        start = perf_counter()
        self._charge(jobs)
        out = [self._score(job) for job in jobs]
        if self._wall:  # looking up takes a replay's time, not a model's
            self._seconds -= perf_counter() - start
        return out

    def spend(self, seconds: float) -> None:
        """Let the clock advance, for work that is only modelled."""
        self._seconds += seconds

    def wait(self) -> None:
        """Nothing runs."""

    def now(self) -> float:
        """See `Target`: the replay's own clock."""
        return self._seconds + (perf_counter() if self._wall else 0.0)

    def _charge(self, jobs: Sequence[Job]) -> None:
        """The clock goes on by what the forward takes, over the mean context of its sessions."""
        held = sum(job.cache.length for job in jobs) / len(jobs)
        rows = sum(rows_together(jobs))
        prompts = sum(max(len(job.fresh) - 1, 0) for job in jobs)
        seconds = self.curve(rows, held)
        read = seconds - self.curve(rows - prompts, held + prompts / len(jobs))
        self.prompt_seconds = max(read, 0.0) if prompts else 0.0
        self.spend(seconds)

    def _score(self, job: Job) -> Scores:
        cache, tree = job.cache, job.tree
        if not isinstance(cache, ReplayCache):
            raise TypeError("this cache was made by another target")
        if job.fresh:
            cache.fresh = list(job.fresh)
        cache.drafted = tree.tokens
        recorded = self._recorded(cache)
        places = recorded.places(len(cache.tokens) + len(cache.fresh), tree)
        wanted = places[0 if job.fresh else job.scored + 1 :]  # the root's row comes once
        rows = [_UNKNOWN if place is None else recorded.row(place) for place in wanted]
        known = [place is not None for place in wanted]
        return ReplayedScores(_logits(rows, self.vocab), known=known, rows=rows)

    def _recorded(self, cache: ReplayCache) -> Recorded:
        """The request that is being written."""
        if cache.recorded is None or not cache.recorded.follows(cache.length, cache.fresh):
            text = (*cache.tokens, *cache.fresh)
            waiting = self._waiting.get(text)
            if waiting is None:
                raise ForetokenError(
                    f"this text of {len(text)} tokens was not recorded; a replay writes recorded "
                    "text only (judge by foretoken.verify.forced)"
                )
            cache.recorded = Recorded(waiting[0])
            waiting.rotate(-1)
        return cache.recorded


def _logits(rows: Sequence[Row], vocab: int) -> Tensor:
    """[n, V]: logits whose softmax gives the recorded probabilities; what a row does not name
    shares the rest evenly. Unknown rows are flat."""
    logits = torch.zeros(len(rows), vocab)  # untouched rows cost no memory
    for line, (ids, probs) in zip(logits, rows, strict=True):
        if not ids:
            continue
        others = vocab - len(ids)
        if others:
            line.fill_(math.log(max(1.0 - sum(probs), _LEAST) / others))
        line[ids] = torch.tensor(probs).clamp_min(_LEAST / vocab).log()
    return logits
