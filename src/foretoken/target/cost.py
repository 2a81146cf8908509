"""T(rows, context): seconds of a target forward, measured once per model, machine and dtype."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from pydantic import BaseModel

from foretoken.target.base import Job, Target
from foretoken.target.shapes import Shapes, rounded
from foretoken.tree import DraftTree

ROWS = (1, 2, 3, 5, 9, 13, 17, 25, 33, 49, 65)
CONTEXTS = (64, 512)
REPEATS = 5


def cache_folder() -> Path:
    """Where measured facts of this machine are kept: $FORETOKEN_CACHE or the user's cache."""
    if chosen := os.environ.get("FORETOKEN_CACHE"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "foretoken"
    return Path.home() / ".cache" / "foretoken"


class CostCurve(BaseModel):
    """Median seconds of a forward for some rows and contexts; between them it is linear. Where a
    target rounds rows up to `buckets`, so does the curve: it has steps."""

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]  # [contexts][rows], rising in rows
    buckets: tuple[int, ...] = ()
    key: str = ""

    def __call__(self, rows: int, context: float = 0) -> float:
        """Seconds of a forward of `rows` rows over `context` committed tokens."""
        rows = rounded(rows, self.buckets)
        at = [_interpolate(self.rows, line, rows) for line in self.seconds]
        return _interpolate(self.contexts, at, context) if len(at) > 1 else at[0]


def processor_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _interpolate(xs: Sequence[int], ys: Sequence[float], x: float) -> float:
    """Linear between the points and beyond the last two; flat below the first."""
    if x <= xs[0] or len(xs) == 1:
        return ys[0]
    i = min(bisect_right(xs, x), len(xs) - 1)
    share = (x - xs[i - 1]) / (xs[i] - xs[i - 1])
    return max(ys[i - 1] + share * (ys[i] - ys[i - 1]), ys[0])


def machine_key(target: Any) -> str:
    """What a curve depends on: the model's shape, dtype, threads, processor, library version."""
    config = target.model.config.to_dict()
    shape = {k: v for k, v in config.items() if k[0] != "_" and k != "transformers_version"}
    gpu = torch.cuda.get_device_name(target.device) if target.device.type == "cuda" else ""
    facts = [
        gpu,
        processor_name(),
        json.dumps(shape, sort_keys=True, default=str), str(target.dtype), str(target.device),
        target.how, str(target.shapes), torch.__version__, str(torch.get_num_threads()),
        platform.machine(),
        platform.processor(), str(os.cpu_count()), torch.backends.cpu.get_cpu_capability(),
    ]  # fmt: skip
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]


def measure(
    target: Target,
    rows: Sequence[int] = ROWS,
    contexts: Sequence[int] = CONTEXTS,
    repeats: int = REPEATS,
    on_point: Callable[[int, int, float], None] | None = None,
) -> CostCurve:
    """Time forwards; medians of interleaved repeats, made to rise with the rows (isotonic)."""
    buckets = getattr(target, "shapes", Shapes()).buckets
    rows = sorted({rounded(n, buckets) for n in rows if n <= target.max_draft + 1})
    contexts = [c for c in contexts if c + max(rows) <= target.max_context] or [1]
    lines = []
    for context in contexts:
        cache = target.new_cache(context + max(rows))
        target.score([Job(cache, [0] * context, DraftTree())])
        cache.keep([])
        spent: dict[int, list[float]] = {n: [] for n in rows}
        for repeat in range(repeats + 1):
            for n in rows:
                job = Job(cache, [0], DraftTree([0] * (n - 1), [-1] * (n - 1)))
                start = perf_counter()
                target.score([job])
                target.wait()
                if repeat:  # the first round warms up
                    spent[n].append(perf_counter() - start)
        cache.release()
        line: list[float] = []
        for n in rows:
            line.append(max(median(spent[n]), line[-1] if line else 0.0))
            if on_point is not None:
                on_point(n, context, line[-1])
        lines.append(tuple(line))
    return CostCurve(
        rows=tuple(rows), contexts=tuple(contexts), seconds=tuple(lines), buckets=buckets
    )


def cost_curve(target: Any, on_point: Callable[[int, int, float], None] | None = None) -> CostCurve:
    """The curve of this target here: its own, from the cache folder, or measured now and kept."""
    own = getattr(target, "curve", None)
    if isinstance(own, CostCurve):  # a replayed model brings the curve that its clock runs by
        return own
    if not hasattr(target, "model"):  # a target of another kind: nothing to know it again by
        return measure(target, on_point=on_point)
    key = machine_key(target)
    path = cache_folder() / "cost" / f"{key}.json"
    try:
        return CostCurve.model_validate_json(path.read_text())
    except (OSError, ValueError):  # none yet, or not readable: measure again
        curve = measure(target, on_point=on_point).model_copy(update={"key": key})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(curve.model_dump_json())
        temporary.replace(path)
    except OSError:
        pass  # a read-only home costs a measurement per process, nothing else
    return curve
