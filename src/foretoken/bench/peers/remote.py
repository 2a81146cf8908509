"""A peer in a process of its own, with an environment of its own, as a contestant.

Its wall clock is the worker's: from the first token handed in to the last one out, without the
pipe. Tokens are counted on both sides. A peer that cannot be opened, or dies, raises PeerError; the
comparison goes on without it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from foretoken.bench.contest import Plan, Run, Task, Watch, aside
from foretoken.bench.peers.catalog import Kind
from foretoken.bench.peers.facts import Facts
from foretoken.bench.peers.setup import known, python_of
from foretoken.errors import PeerError

WORKERS = Path(__file__).parent / "workers"
TOLD = 400  # characters of what a worker said before it died


@dataclass(frozen=True)
class Models:
    """What a worker opens: folders of float32 weights, and how they are run."""

    target: str
    drafter: str
    work: str
    threads: int
    dtype: str
    context: int
    batch: int = 1


class Worker:
    """The process. Raises PeerError where it cannot be opened or answers with an error."""

    def __init__(self, python: Path, script: Path) -> None:
        self._said = TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._said, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, its reply. In between the process is stopped: threads that wait for work may
        spin for a while, on the cores that the next engine is measured on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal("SIGCONT")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise PeerError(f"its process ended ({self._process.wait()}): {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise PeerError(reply["error"])
        self._signal("SIGSTOP")
        return reply

    def _signal(self, name: str) -> None:
        """Stop the process or let it go on, where the system can."""
        if hasattr(signal, name):
            self._process.send_signal(getattr(signal, name))

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().splitlines() if line.strip()]
        return " ".join(lines)[-TOLD:]

    def close(self) -> None:
        """End it."""
        self._signal("SIGCONT")
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()


class Remote:
    """One peer in one mode. The worker starts with the first run, or with `open`."""

    peer = True
    merges = False
    guarantee = ""
    repeats_draws = False

    def __init__(
        self, label: str, kind: Kind, mode: str, models: Models, eos: Sequence[int]
    ) -> None:
        self.label, self.kind, self.mode, self.eos = label, kind, mode, list(eos)
        self.models, self.facts = models, Facts(label)
        self._worker: Worker | None = None

    def open(self) -> None:
        """Start the worker and load the models. Raises PeerError."""
        made = known(self.kind)
        if made is None:
            raise PeerError(f"no environment: foretoken bench setup {self.kind.name}")
        if made.error:
            raise PeerError(f"could not be installed: {made.error}")
        self._worker = Worker(python_of(self.kind), WORKERS / f"{self.kind.name}_worker.py")
        try:
            told = self._worker.ask(op="open", mode=self.mode, **asdict(self.models))
        except PeerError:
            self.close()  # nothing may be asked of an engine that is not open
            raise
        self.facts.versions, self.facts.notes = told["versions"], told["notes"]
        self.facts.open_seconds = told["seconds"]

    def fresh(self) -> None:
        """An engine that drafts from earlier answers is started anew: it has no way to forget."""
        if self.mode in self.kind.keeps:
            self.close()

    def warm(self, tasks: Sequence[Task], plan: Plan) -> None:
        """See `Contestant`. Raises PeerError. One that has just started needs it most."""
        task = aside(tasks)
        self.write([task.prompt.tokens], [task.limit], sampling_words(plan, tasks))

    def run(self, tasks: Sequence[Task], plan: Plan, watch: Watch) -> Run:  # noqa: ARG002
        """See `Contestant`. Raises PeerError."""
        made = self.write(
            [task.prompt.tokens for task in tasks], [task.limit for task in tasks],
            sampling_words(plan, tasks),
        )  # fmt: skip
        first = [None if s is None else float(s) for s in made["first"]]
        tokens: list[list[int]] = made["tokens"]
        return Run(
            self.label, list(tasks), tokens, made["seconds"], [], made["forwards"] or 0, first
        )

    def write(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the worker answers to `generate`. Raises PeerError."""
        if self._worker is None:
            self.open()
        assert self._worker is not None
        try:
            made = self._worker.ask(
                op="generate", prompts=[list(prompt) for prompt in prompts], limits=list(limits),
                eos=self.eos, **sampling,
            )  # fmt: skip
        except PeerError:
            self.close()  # the next suite may find it well again: memory may have been short
            raise
        self.facts.peak_mb = made["peak_mb"]
        return made

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def sampling_words(plan: Plan, tasks: Sequence[Task]) -> Mapping[str, Any]:
    """Sampling as workers are told it; the texts of a batch share the first one's seed."""
    sampling = plan.sampling_of(tasks[0].prompt)
    return {"temperature": sampling.temperature, "top_k": sampling.top_k,
            "top_p": sampling.top_p, "seed": sampling.seed + tasks[0].index}  # fmt: skip
