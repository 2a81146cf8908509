"""Parity: is the text the same, alone and in company? No clock, only differing tokens.

Plain decoding, each prompt alone, is the truth. Every method decodes every prompt alone, then in
batches: with `mixed`, neighbours have different methods and different lengths, and sessions join
and leave at any step, so that every method meets every prompt in changing company.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from foretoken.bench.compare import bound_in_words, differing, divergence
from foretoken.bench.machine import describe, model_name, parameters
from foretoken.bench.own import Own
from foretoken.bench.prompts import Prompt
from foretoken.bench.report import Divergence, Machine
from foretoken.bench.results import is_failure, set_fields
from foretoken.bench.spec import PLAIN, Spec
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.types import Limits, Options, Request, Sampling

LENGTHS = 4  # in mixed company, prompt i writes 4/4, 3/4, 2/4 or 1/4 of the tokens


class ParityResult(Options):
    """One method in one kind of company."""

    method: str
    company: str
    prompts: int = 0
    compared_tokens: int = 0
    differing_tokens: int = 0
    divergences: list[Divergence] = Field(default_factory=list)


class ParityReport(Options):
    """The document of `foretoken bench --parity --json`."""

    model: str
    dtype: str
    exact: str
    widen: int
    machine: Machine
    parameters: int
    prompts: int
    files: list[str]
    max_new_tokens: int
    batch: int
    mixed: bool
    sampling: dict[str, Any]
    near_tie_bound: str
    results: list[ParityResult]
    failed: bool = False
    interrupted: bool = False


class Parity:
    """Runs the comparison; `results` holds what is finished at any time."""

    def __init__(
        self, engine: Engine, specs: Sequence[Spec], prompts: Sequence[Prompt], *,
        max_new_tokens: int = 128, sampling: Sampling | None = None,
        on_text: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.engine, self.specs, self.prompts = engine, list(specs), list(prompts)
        self.max_new_tokens, self.sampling = max_new_tokens, sampling or Sampling()
        self.on_text = on_text  # called after every text
        self.plain: list[list[int]] = []
        self.results: dict[tuple[str, str], ParityResult] = {}
        self.interrupted = False

    def texts(self, batch: int) -> int:
        """How many texts `run` decodes."""
        return len(self.prompts) * (1 + len(self.specs) * (2 if batch > 1 else 1))

    def run(self, batch: int, mixed: bool) -> None:
        """Decode and compare everything. Ctrl-C ends it with what was finished."""
        try:
            self._alone()
            if batch > 1 and mixed:
                self._mixed(f"batches of {batch}, mixed")
            elif batch > 1:
                self._together(f"batches of {batch}")
        except KeyboardInterrupt:
            self.interrupted = True

    def _alone(self) -> None:
        own = {spec.label: Own(self.engine, spec) for spec in [PLAIN, *self.specs]}
        other = next((o for o in own.values() if not o.repeats_draws), None)
        if other is not None and not self.sampling.greedy:
            accepted = "greedy, or methods whose rule is walk: other rules draw another text"
            raise ConfigError("methods", other.label, accepted)
        for i in range(len(self.prompts)):
            self.plain.append(self._decode([(i, own["plain"], 1)])[0])
            self.on_text()
            for spec in self.specs:
                self._compare(spec.label, "alone", [(i, own[spec.label], 1)])

    def _together(self, company: str) -> None:
        for spec in self.specs:
            own = Own(self.engine, spec)
            self._compare(spec.label, company, [(i, own, 1) for i in range(len(self.prompts))])

    def _mixed(self, company: str) -> None:
        own = [Own(self.engine, spec) for spec in self.specs]
        for shift in range(len(own)):
            jobs = [
                (i, own[(i + shift) % len(own)], 1 + i % LENGTHS) for i in range(len(self.prompts))
            ]
            self._compare(None, company, jobs)

    def _compare(self, label: str | None, company: str, jobs: list[tuple[int, Own, int]]) -> None:
        """label None: each job counts for its own method."""
        for (i, own, part), got in zip(jobs, self._decode(jobs), strict=True):
            self._count(label or own.label, company, i, self.plain[i][: self._length(part)], got)
            self.on_text()

    def _count(self, label: str, company: str, i: int, expected: list[int], got: list[int]) -> None:
        before = self.results.get((label, company), ParityResult(method=label, company=company))
        found = divergence(
            self.engine.target, self.prompts[i].tokens, expected, got, index=i,
            sampling=self.sampling,
        )  # fmt: skip
        self.results[label, company] = before.model_copy(
            update={
                "prompts": before.prompts + 1,
                "compared_tokens": before.compared_tokens + max(len(expected), len(got)),
                "differing_tokens": before.differing_tokens + differing(expected, got),
                "divergences": before.divergences + ([found] if found is not None else []),
            }
        )

    def _length(self, part: int) -> int:
        return max(1, self.max_new_tokens * (LENGTHS + 1 - part) // LENGTHS)

    def _decode(self, jobs: Sequence[tuple[int, Own, int]]) -> list[list[int]]:
        """All jobs in the engine at once; it lets `max_sessions` of them ride together."""
        sessions = [
            self.engine.add(
                Request(
                    self.prompts[i].tokens,
                    self.sampling,
                    Limits(max_new_tokens=self._length(part)),
                ),
                own.method,
            )
            for i, own, part in jobs
        ]
        try:
            while any(session.finish_reason is None for session in sessions):
                self.engine.step()
        finally:
            for session in sessions:
                self.engine.cancel(session)
        return [session.output for session in sessions]

    def report(
        self, batch: int, mixed: bool, files: Sequence[str | Path], widen: int = 1
    ) -> ParityReport:
        """The document of what is finished."""
        target: Any = self.engine.target
        results = list(self.results.values())
        return ParityReport(
            model=model_name(target),
            dtype=str(target.dtype).removeprefix("torch."),
            exact=target.exact,
            widen=widen,
            machine=describe(target),
            parameters=parameters(target.model),
            prompts=len(self.prompts),
            files=[Path(file).name for file in files],
            max_new_tokens=self.max_new_tokens,
            batch=batch,
            mixed=mixed,
            sampling=set_fields(self.sampling),
            near_tie_bound=bound_in_words(target.dtype),
            results=results,
            failed=any(is_failure(result.divergences, target, False) for result in results),
            interrupted=self.interrupted,
        )
