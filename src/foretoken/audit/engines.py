"""What can be audited, and how it is named on the command line.

    foretoken:METHOD[:key=value,...]   ours; verifier=, policy= and every option of `bench`
    hf                                 transformers' generate
    hf-prompt-lookup                   the same with prompt_lookup_num_tokens=10
    hf-assistant:FOLDER                the same with an assistant model
    python:MODULE:FUNCTION             any function, also python:FILE.py:FUNCTION
    http:URL                           an OpenAI-compatible completions endpoint
    peer:LABEL                         an engine of `foretoken bench setup`, in its environment
    vllm:FOLDER[:JSON]                 vLLM's LLM with these arguments, if it is installed

A name is checked before any model is loaded, and opened afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch

from foretoken.audit.reference import Reference
from foretoken.errors import ConfigError
from foretoken.types import Sampling

Output = list[int] | str  # token ids; or text, from engines that give nothing else


class Subject(Protocol):
    """An engine under audit. It may write less than asked after an end-of-text token. One that
    holds something (a process) has a method `close`."""

    name: str  # as it was asked for
    what: str  # version and settings, for the report
    cannot: Mapping[str, str]  # "greedy" or "sampling" -> why it cannot be asked for that

    @property
    def tokens_per_step(self) -> float | None:
        """Over all samples, where the engine tells; else None."""

    def greedy(self, prompt: Sequence[int], n: int) -> Output:
        """n tokens, chosen and not drawn."""

    def sample(self, prompt: Sequence[int], n: int, count: int, seed: int) -> list[Output]:
        """`count` independent texts of n tokens; seeds from `seed` to `seed + count - 1`."""


@dataclass
class Setup:
    """What engines are opened with."""

    reference: Reference
    tokenizer: Any
    sampling: Sampling
    model: str  # folder or hub name
    api_model: str | None = None
    api_key_env: str | None = None
    device: str = "auto"
    loaded: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def target(self) -> Any:
        """The model as foretoken's engine uses it, in the audited number format."""
        from foretoken.target.load import load

        name = str(self.reference.dtype).removeprefix("torch.")
        return load(self.model, dtype=name, device=self.device)

    @cached_property
    def transformers(self) -> Any:
        """The model as a user of transformers loads it."""
        if self.reference.dtype == torch.float32:
            return self.reference.model  # the very same object
        return self.open_transformers(self.model)

    def open_transformers(self, name: str) -> Any:
        """Another model of the same number format and place. Raises ConfigError."""
        from foretoken.audit.reference import load_reference

        loaded = load_reference(name, self.reference.dtype, self.reference.device)
        return loaded.model.to(self.reference.dtype)


Opener = Callable[[Setup], Subject]


def parse(name: str, policy: str) -> Opener:
    """Check a name and say how to open it. policy: of our methods that name none.

    Raises ConfigError for an unknown kind, or one of its parts that is not accepted.
    """
    from foretoken.audit import foreign, ours, peer, remote

    kind, _, rest = name.partition(":")
    if kind in ("http", "https") and rest.startswith("//"):  # the URL itself
        kind, rest = "http", name
    openers: dict[str, Callable[[str, str], Opener]] = {
        "foretoken": lambda name, rest: ours.parse(name, rest, policy),
        "hf": foreign.parse_generate,
        "hf-prompt-lookup": foreign.parse_generate,
        "hf-assistant": foreign.parse_generate,
        "python": foreign.parse_python,
        "peer": peer.parse_peer,
        "http": remote.parse_http,
        "vllm": remote.parse_vllm,
    }
    if kind not in openers:
        raise ConfigError("engine", name, f"one of {', '.join(openers)}; see --help")
    return openers[kind](name, rest)


def checked(name: str, output: Any) -> list[int]:
    """Token ids of an engine that is not ours. Raises ConfigError for anything else."""
    ids = output.tolist() if hasattr(output, "tolist") else output
    if not isinstance(ids, list | tuple) or not all(type(i) is int for i in ids):
        shown = repr(output)[:80]
        raise ConfigError("engine", name, f"one that returns a list of token ids, not {shown}")
    return list(ids)
