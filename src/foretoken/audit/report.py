"""What an audit found, as one document: `foretoken audit --json` prints it, pages are made of it.

A figure that was not measured is None, never 0.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from foretoken.types import Options

Verdict = Literal[
    "exact as far as tested", "a fault was found", "nothing was tested", "it broke off"
]


class Difference(Options):
    """A token that the reference would not have chosen, in greedy text."""

    prompt: int  # index of the prompt, from 0
    position: int  # among the new tokens, from 0
    before: str  # the last characters before it: prompt and the engine's own text
    expected: int  # the reference's choice after the engine's own text
    got: int | None  # None: the engine's text ended here, or is no text of tokens
    expected_text: str
    got_text: str
    gap: float | None  # best logit minus the logit of what the engine wrote
    near_tie: bool  # gap within the stated tolerance


class GreedyResult(Options):
    """Greedy text over the prompts."""

    prompts: int = 0
    tokens: int = 0  # compared
    same: int = 0  # prompts whose whole text is the reference's own
    near_ties: int = 0
    faults: int = 0
    differences: list[Difference] = Field(default_factory=list)  # the first ones of each prompt


class Test(Options):
    """One test of sampled text. It accuses if its p-value lies below the threshold."""

    what: str
    kind: str
    statistic: float
    g: float | None = None  # likelihood ratio of the same counts, for chi-square tests
    freedom: int  # degrees of freedom; 0: nothing to test
    p_value: float
    passed: bool


class SamplingResult(Options):
    """Sampled text of one prompt."""

    samples: int
    distinct: int  # different outcomes seen
    cells: int
    tests: list[Test]
    distance: float  # total variation over the cells, as observed (noise included)
    interval: tuple[float, float]  # of the true one, see `interval_in_words` of the report
    detectable: float | None  # least total variation over the cells seen with the wanted power
    impossible: list[str] = Field(default_factory=list)  # outcomes of probability 0, in words
    edge: int = 0  # tokens that top-k or top-p cuts off by no more than a near-tie
    short: int = 0  # texts that stopped early without an end-of-text token
    tokens_per_step: float | None = None  # of the engine, where it tells; 1: nothing was drafted

    @property
    def failed(self) -> bool:
        """Whether the text is not distributed as it should be."""
        return bool(self.impossible or self.short) or not all(test.passed for test in self.tests)

    @property
    def worst(self) -> Test:
        """The test with the least p-value."""
        return min(self.tests, key=lambda test: (test.p_value, -abs(test.statistic)))


class EngineResult(Options):
    """One engine."""

    engine: str
    what: str = ""  # version and settings, in the engine's own words
    greedy: GreedyResult | None = None
    sampling: SamplingResult | None = None
    skipped: dict[str, str] = Field(default_factory=dict)  # greedy or sampling -> why not
    error: str = ""  # what the engine said when it broke off; what follows was not tested

    @property
    def failed(self) -> bool:
        """Whether a fault was found."""
        greedy, sampling = self.greedy, self.sampling
        return bool(greedy and greedy.faults) or bool(sampling and sampling.failed)

    @property
    def verdict(self) -> Verdict:
        """In words."""
        if self.failed:
            return "a fault was found"
        if self.error:
            return "it broke off"
        tested = (self.greedy is not None and self.greedy.tokens) or self.sampling is not None
        return "exact as far as tested" if tested else "nothing was tested"


class Planted(Options):
    """A rule that is wrong on purpose (or the control, which is right), audited the same way."""

    name: str
    what: str
    lossy: bool
    found: bool  # whether the audit accuses it
    sampling: SamplingResult


class Plan(Options):
    """How sampled text is tested; fixed before the first sample is drawn."""

    prompt: int  # index of the prompt that is sampled
    tokens: int
    samples: int  # per engine
    asked: bool  # the number was given, not computed
    cells: int
    outcomes: str  # "enumerated", or how the cells were chosen
    effect: float  # total variation over the cells that must be seen
    wanted: float  # probability to see it
    power: float  # what the samples give at least
    detectable: float | None
    tests: int  # of the whole report
    threshold: float  # least p-value of a single test that passes


class AuditReport(Options):
    """The document."""

    model: str
    model_hash: str
    vocab: int
    dtype: str
    versions: dict[str, str]
    processor: str
    files: list[str]
    prompts: int
    max_new_tokens: int
    settings: dict[str, Any]  # how text is sampled
    false_alarms: float  # chance that a report on exact engines accuses one of them
    tolerance: str  # of near-ties, in words
    interval_in_words: str
    plan: Plan | None = None  # None: greedy text only
    prompt_text: str = ""  # the end of the sampled prompt
    engines: list[EngineResult] = Field(default_factory=list)
    self_test: list[Planted] = Field(default_factory=list)
    command: str = ""
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def blind(self) -> list[str]:
        """Planted faults that this audit did not find: against those it has no power."""
        return [p.name for p in self.self_test if p.lossy and not p.found]

    @property
    def unsound(self) -> bool:
        """Whether the control was accused: then no accusation of this report can be trusted."""
        return any(p.found and not p.lossy for p in self.self_test)

    @property
    def failed(self) -> bool:
        """Whether a fault was found, or an engine broke off."""
        return self.unsound or any(engine.failed or engine.error for engine in self.engines)
