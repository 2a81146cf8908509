"""Who compares what: the records of a comparison, what a contestant is, and who may look on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foretoken.bench.prompts import Prompt
from foretoken.errors import ConfigError
from foretoken.types import Sampling, Session, Stats, Step

ASIDE, WARM_UP = 16, 3  # tokens read and written by a warm-up


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    max_new_tokens: int = 128
    repeats: int = 3
    batch: int = 1  # prompts that ride together
    sampling: Sampling = field(default_factory=Sampling)
    forced: bool = False  # follow the prompts' reference texts
    cut_loops: bool = True

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "repeats", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "a whole number from 1")

    def sampling_of(self, prompt: Prompt) -> Sampling:
        """How this prompt's text is chosen: its seed is added to the run's."""
        if not prompt.seed:
            return self.sampling
        return self.sampling.model_copy(update={"seed": self.sampling.seed + prompt.seed})


@dataclass(frozen=True)
class Task:
    """One prompt as every method decodes it."""

    index: int  # among the prompts used
    prompt: Prompt
    limit: int  # tokens to write at most
    expected: list[int]  # plain's text up to its first loop, or the reference text


def aside(tasks: Sequence[Task]) -> Task:
    """A short text to warm up with: the end of the first prompt, backwards."""
    tokens = tasks[0].prompt.tokens[: -ASIDE - 1 : -1]
    return Task(0, Prompt("aside", tokens, ""), WARM_UP, [])


@dataclass(frozen=True)
class Run:
    """One method on one group of prompts, once. Lists are [tasks of the group]."""

    method: str
    tasks: list[Task]
    tokens: list[list[int]]  # what was written
    wall: float  # seconds, the prompt's forward included, the watcher's time excluded
    stats: list[Stats]  # [] for a peer
    forwards: int  # of the target; 0 from a peer that does not count them
    # [tasks of the group] seconds from the start to a text's first token; None: not known
    first: list[float | None] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Tokens written."""
        return sum(map(len, self.tokens))


class Watch:
    """Who looks on while it runs: override what you need. Its time is not counted."""

    def phase(self, name: str, total: int) -> None:
        """A phase of `total` runs begins: "plain text", "warm-up", "measuring"."""

    def start(self, method: str, tasks: Sequence[Task]) -> None:
        """A method begins a group."""

    def step(self, method: str, task: Task, session: Session, step: Step) -> None:
        """One step of one of our methods; peers have none."""

    def done(self, run: Run) -> None:
        """A run is finished."""


class Contestant(Protocol):
    """A method of ours or a peer."""

    label: str
    peer: bool
    guarantee: str
    merges: bool  # several drafters in one tree
    repeats_draws: bool  # with equal seeds, sampled text is plain's token for token

    def fresh(self) -> None:
        """Forget what was learned."""

    def warm(self, tasks: Sequence[Task], plan: Plan) -> None:
        """Write something short that is not these tasks' text, untimed: what the one before left of
        the processor's caches is nobody's merit."""

    def run(self, tasks: Sequence[Task], plan: Plan, watch: Watch) -> Run:
        """Decode a group of tasks, timed."""
