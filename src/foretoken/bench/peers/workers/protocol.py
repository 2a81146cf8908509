"""How a peer's process is spoken with: one JSON object a line, a reply for each.

    {"op": "open", "mode", "target", "drafter", "work", "threads", "dtype", "context"}
        -> {"versions": {...}, "seconds", "notes": [...]}
    {"op": "generate", "prompts": [[ids]], "limits": [n], "eos": [ids], "temperature", "top_k",
     "top_p", "seed"}
        -> {"tokens": [[ids]], "seconds", "first": [s or null], "forwards": n or null, "peak_mb"}

Whatever goes wrong becomes {"error": text}. What an engine prints goes to stderr. These files run
in the peers' own environments, where foretoken is not installed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any


@dataclass
class Asked:
    """What `open` is told. Folders are of Hugging Face models; `work` is for what is made of
    them."""

    mode: str  # "" is plain
    target: str
    drafter: str
    work: str
    threads: int
    dtype: str  # of the target's weights: "float32" or "bfloat16"
    context: int  # tokens of prompt and text together
    batch: int = 1


@dataclass
class Sampling:
    """How tokens are chosen; temperature 0 is greedy."""

    eos: Sequence[int]
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Texts:
    """What was written. forwards: of the target, None if the engine does not say."""

    tokens: list[list[int]]
    first: list[float | None] = field(default_factory=list)  # seconds to the first token
    forwards: int | None = None


class Engine:
    """One engine in one mode."""

    versions: dict[str, str]
    notes: Sequence[str] = ()  # what a reader of its figures must know

    def generate(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Sampling
    ) -> Texts:
        """Continue every prompt by at most so many tokens."""
        raise NotImplementedError


def serve(opened: Callable[[Asked], Engine]) -> None:
    """Answer until stdin ends, or whoever asks dies."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: Engine | None = None
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        operation = asked.pop("op")
        try:
            start = perf_counter()
            if operation == "open":
                engine = opened(Asked(**asked))
                reply = {"versions": engine.versions, "seconds": perf_counter() - start,
                         "notes": list(engine.notes)}  # fmt: skip
            else:
                assert engine is not None
                reply = _generated(engine, asked)
        except Exception as error:  # noqa: BLE001  (told to who asked)
            lines = f"{type(error).__name__}: {error}".splitlines()
            reply = {"error": " ".join(part.strip() for part in lines if part.strip())[:500]}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def _die_with_parent() -> None:
    """A stopped process does not see its stdin end. Linux alone can promise it."""
    if sys.platform.startswith("linux"):
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _generated(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    prompts, limits = asked.pop("prompts"), asked.pop("limits")
    sampling = Sampling(**asked)
    start = perf_counter()
    made = engine.generate(prompts, limits, sampling)
    seconds = perf_counter() - start
    return {"tokens": made.tokens, "seconds": seconds, "first": made.first,
            "forwards": made.forwards, "peak_mb": peak_mb()}  # fmt: skip


def peak_mb() -> float:
    """Most memory that this process held. Linux says it of the program itself; `getrusage` may
    count what was held before the program was started."""
    try:
        status = Path("/proc/self/status").read_text().splitlines()
        found = next(line for line in status if line.startswith("VmHWM:"))
        return float(found.split()[1]) / 1024
    except (OSError, StopIteration):
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def made_once(out: Path, command: Sequence[str]) -> Path:
    """A folder that a command writes: made beside its place and renamed, so that none is half
    made. "{out}" in the command stands for where it writes."""
    if not out.exists():
        part = out.with_name(f"{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        words = [word.replace("{out}", str(part)) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"export: {done.stderr[-400:]}")
        part.rename(out)
    return out


def ended(tokens: Sequence[int], eos: Sequence[int], limit: int) -> list[int]:
    """The tokens up to the limit, or to the first end of text, which is one of them."""
    out = [int(token) for token in tokens[:limit]]
    end = next((i for i, token in enumerate(out) if token in eos), len(out) - 1)
    return out[: end + 1]
