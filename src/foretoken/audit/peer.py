"""Other engines in environments of their own, as the bench runs them: `peer:LABEL`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foretoken.audit.engines import Opener, Output, Setup
from foretoken.bench.peers.catalog import TRANSFORMERS, find
from foretoken.bench.peers.together import ELSEWHERE, remote
from foretoken.errors import ConfigError
from foretoken.types import Sampling


def parse_peer(name: str, rest: str) -> Opener:
    """`peer:onnx-ngram` and the like: see `foretoken bench setup --list`."""
    kind, _ = find(rest)
    if kind.name == TRANSFORMERS:
        raise ConfigError("engine", name, f"{rest}: it runs in this process")

    def open_it(setup: Setup) -> PeerEngine:
        given = {k for k, v in setup.sampling.model_dump().items()
                 if v != Sampling().model_dump()[k]}  # fmt: skip
        if odd := given - set(ELSEWHERE):
            raise ConfigError("engine", name, f"none with {', '.join(sorted(odd))}")
        reference, context = setup.reference, setup.target.target.max_context
        eos = sorted(reference.eos)
        peer = remote(rest, Path(setup.model), reference.dtype, context, eos)
        peer.open()
        return PeerEngine(name, peer, setup.sampling)

    return open_it


class PeerEngine:
    """A worker, asked for one text at a time."""

    cannot: Mapping[str, str] = {}
    tokens_per_step: float | None = None  # workers do not count forwards

    def __init__(self, name: str, remote: Any, sampling: Sampling) -> None:
        self.name, self.remote, self.sampling = name, remote, sampling
        versions = ", ".join(f"{n} {v}" for n, v in remote.facts.versions.items())
        self.what = f"{remote.kind.what}, {versions}; {', '.join(remote.facts.notes)}"

    def greedy(self, prompt: Sequence[int], n: int) -> Output:
        """See `Subject`."""
        return self._written(prompt, n, {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0})

    def sample(self, prompt: Sequence[int], n: int, count: int, seed: int) -> list[Output]:
        """See `Subject`. One token more than is counted, so that a drafted one may stand at every
        counted place."""
        words = {name: getattr(self.sampling, name) for name in ELSEWHERE if name != "seed"}
        return [
            self._written(prompt, n + 1, {**words, "seed": s}) for s in range(seed, seed + count)
        ]

    def close(self) -> None:
        """End its process."""
        self.remote.close()

    def _written(self, prompt: Sequence[int], n: int, words: Mapping[str, Any]) -> list[int]:
        texts: list[list[int]] = self.remote.write([list(prompt)], [n], words)["tokens"]
        return texts[0]
