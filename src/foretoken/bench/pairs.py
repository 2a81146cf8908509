"""Every drafter with every rule that may judge it: which pair is best, at equal node budgets.

A pair is a method like any other (`lm-rsd-s:verifier=recursive`), so that this builds on the
comparison of `foretoken.bench.run`: same prompts, same process, interleaved, plain as the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from foretoken import registry
from foretoken.bench.interval import Mean
from foretoken.bench.report import Report, Result
from foretoken.bench.run import Measured
from foretoken.bench.spec import PLAIN, Spec, parse_methods
from foretoken.engine.build import check_kinds
from foretoken.errors import ConfigError, ForetokenError
from foretoken.registry import NULL_POLICY
from foretoken.types import Options

NODES = 16  # of every drafter, if none is asked for
GREEDY_RULE = "walk"  # greedy text has one right token a place: all rules are one
ALL = "all"
COINCIDE = "greedy: every rule follows the argmax, so that all are one; walk stands for them"


class Pair(Options):
    """One drafter with one rule."""

    drafter: str
    rule: str
    guarantee: str
    tokens_per_step: Mean | None  # over prompts
    tokens_per_s: float | None
    ratio_to_plain: float | None
    draft: float | None  # share of the wall clock
    target: float | None
    verify: float | None


class PairTable(Options):
    """The document of `foretoken bench --pairs --json`."""

    nodes: int
    pairs: list[Pair]  # plain first
    best_by_tokens_per_s: str | None  # "drafter with rule", the exact ones only
    best_by_tokens_per_step: str | None
    note: str = ""
    comparison: Report  # the same runs, as `foretoken bench` reports them


class Pairs:
    """Which pairs to measure; everything that needs no model is checked here.

    methods: as for `parse_methods`; None for every form of `lm`. verifiers: names, comma-separated,
    or "all". lossy: rules that change the distribution, too. Raises ConfigError, CapabilityError.
    """

    def __init__(
        self, methods: str | None, verifiers: str = ALL, nodes: int | None = None,
        settings: Sequence[str] = (), *, lossy: bool = False, greedy: bool = False,
    ) -> None:  # fmt: skip
        self.nodes = NODES if nodes is None else nodes
        names = ",".join(lm_forms()) if methods is None else methods
        rules = _rules(verifiers, lossy)
        specs = parse_methods(names, NULL_POLICY, self.nodes, settings)
        self.forms = {
            spec.label: (spec, _allowed(spec, rules, lossy)) for spec in specs if spec != PLAIN
        }
        self.note = COINCIDE if greedy else ""
        self.of: dict[str, tuple[str, str]] = {}  # label of a spec -> (drafter, rule)
        self.specs = [PLAIN]
        for label, (spec, allowed) in self.forms.items():
            for rule in [GREEDY_RULE] if greedy else allowed:
                self._add(label, spec, rule)
        if not self.of:
            raise ConfigError("methods", names, "a drafter whose drafts one of the rules accepts")

    def _add(self, label: str, spec: Spec, rule: str) -> None:
        part = f"verifier={rule}"
        named = label if part in label else f"{label}{',' if ':' in label else ':'}{part}"
        self.of[named] = (label, rule)
        self.specs.append(replace(spec, label=named, verifier=rule))

    def table(self, measured: Measured, report: Report) -> PairTable:
        """The figures of a comparison of `specs`."""
        pairs = [self._pair(measured, result) for result in report.results]
        exact = [
            pair for pair in pairs if pair.guarantee == "exact" and pair.drafter != PLAIN.label
        ]
        return PairTable(
            nodes=self.nodes,
            pairs=pairs,
            best_by_tokens_per_s=_best(exact, lambda pair: pair.tokens_per_s),
            best_by_tokens_per_step=_best(
                exact, lambda pair: pair.tokens_per_step and pair.tokens_per_step.mean
            ),
            note=self.note,
            comparison=report,
        )

    def _pair(self, measured: Measured, result: Result) -> Pair:
        drafter, rule = self.of.get(result.method, (result.method, ""))
        seconds = result.seconds
        shares: dict[str, float | None] = dict.fromkeys(("draft", "target", "verify"))
        if seconds is not None and seconds.total:
            shares = {part: getattr(seconds, part) / seconds.total for part in shares}
        return Pair(
            drafter=drafter,
            rule=rule,
            guarantee=result.guarantee,
            tokens_per_step=tokens_per_step(measured, result.method),
            tokens_per_s=result.tokens_per_s,
            ratio_to_plain=result.ratio_to_plain,
            **shares,
        )


def tokens_per_step(measured: Measured, method: str) -> Mean | None:
    """New tokens per target forward, with the error over prompts; repeats are added up."""
    tokens: dict[int, float] = {}
    steps: dict[int, float] = {}
    for row in measured.finished():
        for cell in row:
            run = cell[method]
            for task, stats in zip(run.tasks, run.stats, strict=True):
                tokens[task.index] = tokens.get(task.index, 0) + stats.tokens
                steps[task.index] = steps.get(task.index, 0) + stats.steps
    return Mean.of(list(tokens.values()), list(steps.values())) if tokens else None


def lm_forms() -> list[str]:
    """The registered drafters that run a language model."""
    from foretoken.draft.lm import LmDrafter

    found = []
    for name in registry.names("drafter"):
        try:
            cls = registry.find("drafter", name)
        except ForetokenError:
            continue  # `foretoken methods` lists it with its reason
        if issubclass(cls, LmDrafter) and not cls.testing:
            found.append(name)
    return found


def _rules(verifiers: str, lossy: bool) -> dict[str, Any]:
    """name -> class of the rules asked for; all: those that serve any vocabulary."""
    names = [name.strip() for name in verifiers.split(",") if name.strip()]
    every = names == [ALL]
    found = {name: registry.find("verifier", name) for name in (_known() if every else names)}
    for name, rule in found.items():
        if not every and not lossy and "sampling" not in rule.exact:
            raise ConfigError("verifiers", name, "exact rules; lossy ones with --lossy")
    if not found:
        raise ConfigError("verifiers", verifiers, f"{ALL}, or names of `foretoken methods`")
    return {
        name: rule for name, rule in found.items()
        if (lossy or "sampling" in rule.exact) and not (every and rule.max_vocab is not None)
    }  # fmt: skip


def _known() -> list[str]:
    """Registered rules that can be imported and are for users."""
    out = []
    for name in registry.names("verifier"):
        try:
            if not getattr(registry.find("verifier", name), "testing", False):
                out.append(name)
        except ForetokenError:
            continue
    return out


def _allowed(spec: Spec, rules: dict[str, Any], lossy: bool) -> list[str]:
    """The rules that accept this drafter's drafts; the one that the spec names, if it names one."""
    drafter = registry.find("drafter", spec.name)
    if spec.verifier is None:
        return [name for name, rule in rules.items() if rule.fits(drafter)]
    rule = registry.find("verifier", spec.verifier)
    check_kinds(drafter, rule)
    if not lossy and "sampling" not in rule.exact:
        raise ConfigError("methods", spec.label, "exact rules; lossy ones with --lossy")
    return [spec.verifier]


def _best(pairs: Sequence[Pair], figure: Any) -> str | None:
    measured = [pair for pair in pairs if figure(pair) is not None]
    if not measured:
        return None
    best = max(measured, key=figure)
    return f"{best.drafter} with {best.rule}"
