"""What `foretoken tune` found, as a document: every figure says what it was computed from."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from foretoken.tune.measures import Score

OPTIMUM, PLAIN = "optimum", "plain"
UCB, EXP3 = "bandit (UCB)", "bandit (EXP3)"


def full_name(method: str, policy: str) -> str:
    """A contestant as people read it."""
    return f"{method} / {policy}" if policy else method


class Source(BaseModel):
    """Where the figures come from."""

    model: str
    dtype: str = ""
    clock: str  # how the seconds came about, in words
    requests: int
    tokens: int  # written in the trace
    text: str  # "own": what the model wrote; "forced": reference texts
    distinct_4grams: float | None  # of what was written: text that loops flatters every drafter
    trace: str = ""  # file, if one was given
    machine: dict[str, Any] = Field(default_factory=dict)  # where the trace was recorded


class Row(BaseModel):
    """One method under one policy, on the whole trace. Seconds are the virtual clock's; reading the
    prompts is left out of all of them, since it takes every method the same time."""

    method: str
    policy: str
    tokens_per_step: float
    tokens_per_second: float
    ratio: float  # to plain decoding
    worst: float  # the same of the request that it served worst
    regret: float  # time over the hindsight optimum's, less 1
    draft_seconds: float  # per step, learning included: median processor time

    @property
    def name(self) -> str:
        """As people read it."""
        return full_name(self.method, self.policy)


class Advice(BaseModel):
    """What to use, why, and what to type."""

    method: str
    policy: str
    why: str
    command: str


class Lane(BaseModel):
    """One contestant in one scenario."""

    method: str
    policy: str  # "" for what is no drafter of its own
    score: Score

    @property
    def name(self) -> str:
        """As people read it."""
        return full_name(self.method, self.policy)


class Played(BaseModel):
    """One scenario."""

    name: str
    summary: str
    phases: list[tuple[str, int]]  # name, tokens
    lanes: list[Lane]  # the optimum, contestants in order of speed, plain decoding
    left_out: dict[str, str] = Field(default_factory=dict)  # method -> why


class Scorecard(BaseModel):
    """Scripted shifts on texts that come with the package."""

    clock: str
    window: int  # tokens
    seed: int
    scenarios: list[Played] = Field(default_factory=list)


class TuneReport(BaseModel):
    """The whole document. A list is shorter than asked for where `interrupted` is true."""

    source: Source
    rows: list[Row] = Field(default_factory=list)
    optimum: Row | None = None
    left_out: dict[str, str] = Field(default_factory=dict)  # method -> why it was not scored
    advice: Advice | None = None
    scorecard: Scorecard | None = None
    interrupted: bool = False
