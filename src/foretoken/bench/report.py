"""What a comparison found, as one document: `foretoken bench --json` and `demo --json` print it.

A figure that was not measured is None, never 0. Where text differed although it must not, no speed
is reported at all: every `tokens_per_s` and `ratio_to_plain` is None and `failed` is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from foretoken.types import Options

Mode = Literal["own text", "forced"]


class Seconds(Options):
    """Where the wall clock of a method went, over all measured runs."""

    draft: float  # proposing and learning
    target: float  # forwards, the prompt's included
    verify: float  # judging and committing
    other: float  # the rest of the wall clock: the engine's own bookkeeping

    @property
    def total(self) -> float:
        """Wall clock."""
        return self.draft + self.target + self.verify + self.other

    @property
    def overhead(self) -> float:
        """Draft, verify and other as a share of the target's time."""
        return (self.total - self.target) / self.target if self.target else 0.0


class Spread(Options):
    """Order statistics of a figure over its repeats."""

    count: int
    min: float
    q1: float
    median: float
    q3: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        at = np.quantile(np.asarray(values, dtype=np.float64), (0.0, 0.25, 0.5, 0.75, 1.0))
        return cls(**dict(zip(("min", "q1", "median", "q3", "max"), at.tolist(), strict=True)),
                   count=len(values))  # fmt: skip


class Divergence(Options):
    """The first place where a method's text left plain's."""

    prompt: int  # index among the prompts used, from 0
    position: int  # index in the new tokens, from 0
    expected: int | None  # plain's token id; None: plain's text ended here
    got: int | None  # the method's; None: its text ended here
    # plain's best logit minus its second best there, recomputed plainly; where text was drawn, the
    # probability between the random number and the farther of the two tokens
    gap: float
    near_tie: bool  # gap within the stated bound
    drawn: bool = False


class Result(Options):
    """One method, or one peer (another implementation on the same weights)."""

    method: str  # as it was asked for, options included: "aded:nodes=8"
    peer: bool = False
    guarantee: str = ""  # "exact" or "lossy: ..."; "" for peers
    tokens_per_s: float | None  # median over the repeats of new tokens / wall clock
    ratio_to_plain: float | None  # median over the repeats of the ratio of tokens per second
    tokens_per_step: float | None  # new tokens per target forward
    identical: bool | None  # to plain's text; None: cannot be compared (a peer that samples)
    first_divergence: Divergence | None
    seconds: Seconds | None  # None for peers: only their wall clock is known
    spread: Spread | None = None  # of the ratio, over every (prompt, repeat)
    per_repeat: list[float] = Field(default_factory=list)  # the ratio of each repeat
    # of the ratio: 95 % by a paired bootstrap over prompts (or groups that ride together); None for
    # fewer than two
    interval: tuple[float, float] | None = None
    own_plain: str | None = None  # a peer's mode: what it is without drafting
    ratio_to_own_plain: float | None = None  # over that, median of the repeats
    own_interval: tuple[float, float] | None = None  # as `interval`
    first_token_s: float | None = None  # from the start to a text's first token, median
    divergences: list[Divergence] = Field(default_factory=list)  # one a prompt at most
    differing_tokens: int = 0  # new tokens unlike plain's, over the prompts compared
    compared_tokens: int = 0
    near_ties: int = 0  # how many of `divergences` are near-ties
    distinct_4grams: float | None = None  # share of distinct 4-grams in the text, mean of prompts
    new_tokens: int = 0  # over all measured runs
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_by_depth: list[int] = Field(default_factory=list)  # [d]: steps that accepted >= d+1


class Machine(Options):
    """What the figures were measured on."""

    processor: str
    cores: int
    threads: int  # of PyTorch
    system: str
    python: str
    torch: str
    transformers: str
    foretoken: str
    commit: str | None = None  # of the working tree that foretoken runs from
    device: str = "cpu"
    how: str = ""  # attention implementation, packed weights, exactness


class Prompts(Options):
    """What was decoded."""

    files: list[str]
    read: int  # prompts in the files, after --limit
    used: int
    cut: int = 0  # used, but only up to where plain's text begins to loop
    dropped: int = 0  # not used by any method: too little text before the loop or the end
    rule: str = ""  # the rule for cutting and dropping, in words


class Memory(Options):
    """Bytes in MB (2**20)."""

    start_mb: float  # resident before the first run, model loaded
    peak_mb: float  # of the process, model included
    kv_mb: float  # reserved for keys and values at the end


class Floor(Options):
    """What reading the weights once takes: no forward of one session can be faster."""

    read_gb_per_s: float  # measured: the best of several passes over memory that no cache holds
    weight_mb: float  # bytes that a forward must read: all weights but the embedding table's rows
    seconds: float  # weight_mb / read_gb_per_s
    forwards: dict[int, float] = Field(default_factory=dict)  # scored rows -> measured seconds


class PeerFacts(Options):
    """What another engine was, beside its figures."""

    label: str
    what: str
    versions: dict[str, str]
    notes: list[str] = Field(default_factory=list)
    open_seconds: float | None = None  # loading; with the export of its format the first time
    peak_mb: float | None = None  # of its process; None: it ran in ours


class Report(Options):
    """The document."""

    model: str
    dtype: str
    machine: Machine
    parameters: int
    results: list[Result]
    mode: Mode = "own text"  # "forced": the text is a given one; never compared with own text
    widen: int = 1  # 1: as it is; else zero-padded to the cost of a larger model
    exact: str = "default"
    sampling: dict[str, Any] = Field(default_factory=dict)  # {}: greedy
    prompts: Prompts
    max_new_tokens: int
    repeats: int = 1
    batch: int = 1
    near_tie_bound: str = ""  # in words
    memory: Memory | None = None
    peers: list[PeerFacts] = Field(default_factory=list)
    missing: dict[str, str] = Field(default_factory=dict)  # peers that could not run -> why
    floor: Floor | None = None
    failed: bool = False  # text differed where it must not
    interrupted: bool = False  # Ctrl-C: the figures are those of what was finished
    command: str = ""  # that made it, and what is to be said of the run: filled by who keeps it
    note: str = ""

    def of(self, method: str) -> Result:
        """The result of a method. Raises KeyError if it is not in the report."""
        for result in self.results:
            if result.method == method:
                return result
        raise KeyError(method)
