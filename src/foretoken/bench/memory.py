"""Memory over a long run: many requests in sequence on one engine must not make it grow.

What may grow is the KV cache (reserved once for the longest request) and what a method learns.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from pydantic import Field

from foretoken.bench.machine import describe, model_name, parameters
from foretoken.bench.own import Own
from foretoken.bench.prompts import Prompt
from foretoken.bench.report import Machine
from foretoken.bench.spec import Spec
from foretoken.engine.engine import Engine
from foretoken.types import Limits, Options, Request, Sampling

EVERY = 1000  # tokens between two points
MB = 2**20


class Point(Options):
    """Memory after so many tokens."""

    tokens: int
    resident_mb: float
    kv_mb: float  # reserved for keys and values, part of the above


class MemoryResult(Options):
    """One method's run."""

    method: str
    points: list[Point] = Field(default_factory=list)  # the first: before any token
    interrupted: bool = False  # Ctrl-C: the points up to there

    @property
    def growth_mb(self) -> float | None:
        """From the second point (everything is warm) to the last, the KV cache's growth taken off;
        None if there are fewer than three points."""
        if len(self.points) < 3:
            return None
        first, last = self.points[1], self.points[-1]
        return (last.resident_mb - last.kv_mb) - (first.resident_mb - first.kv_mb)


class MemoryReport(Options):
    """The document of `foretoken bench --memory TOKENS --json`."""

    model: str
    dtype: str
    machine: Machine
    parameters: int
    tokens: int
    max_new_tokens: int  # of one request
    results: list[MemoryResult]
    growth_mb: dict[str, float | None]
    peak_mb: float  # of the process, since it started
    interrupted: bool = False


def resident() -> int:
    """Bytes of this process in memory now; its peak where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _most()


def peak() -> int:
    """Most bytes that this process ever held in memory."""
    return max(_most(), resident())  # the system notes its maximum a little late


def _most() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def long_run(
    engine: Engine,
    spec: Spec,
    prompts: Sequence[Prompt],
    *,
    tokens: int,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    on_point: Callable[[Point], None] = lambda _: None,
) -> MemoryResult:
    """Decode `tokens` tokens in all, request after request, the prompts in turn, past every end of
    text. on_point: called before the first token and after every EVERY tokens. Ctrl-C ends it with
    the points up to there."""
    own = Own(engine, spec)
    points: list[Point] = []
    written = 0

    def note() -> None:
        kv: Any = getattr(engine.target, "pool", None)
        held = kv.nbytes if kv is not None else 0
        points.append(Point(tokens=written, resident_mb=resident() / MB, kv_mb=held / MB))
        on_point(points[-1])

    note()
    turns = cycle(prompts)
    try:
        while written < tokens:
            prompt = next(turns).tokens
            room = min(max_new_tokens, tokens - written, engine.target.max_context - len(prompt))
            limits = Limits(max_new_tokens=max(room, 1), ignore_eos=True)
            request = Request(prompt, sampling or Sampling(), limits)
            before, written = written, written + len(engine.run([request], own.method)[0].tokens)
            if written // EVERY > before // EVERY or written >= tokens:
                note()
    except KeyboardInterrupt:
        return MemoryResult(method=spec.label, points=points, interrupted=True)
    return MemoryResult(method=spec.label, points=points)


def memory_report(
    engine: Engine, results: Sequence[MemoryResult], tokens: int, max_new_tokens: int
) -> MemoryReport:
    """The document."""
    target: Any = engine.target
    return MemoryReport(
        model=model_name(target),
        dtype=str(target.dtype).removeprefix("torch."),
        machine=describe(target),
        parameters=parameters(target.model),
        tokens=tokens,
        max_new_tokens=max_new_tokens,
        results=list(results),
        growth_mb={result.method: result.growth_mb for result in results},
        peak_mb=peak() / MB,
        interrupted=any(result.interrupted for result in results),
    )
