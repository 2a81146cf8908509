"""How long a verdict takes: every rule on every kind that it accepts, without any model.

Each figure is the median over fresh drafts. As in use, the target's rows come as logits, so that a
rule pays for the softmax of the rows that it asks for; and they are not in the processor's cache,
because the forward that made them has read all of the model's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np
import torch

from foretoken import registry
from foretoken.bench.machine import describe
from foretoken.bench.report import Machine
from foretoken.bench.run import rotated
from foretoken.bench.synthetic import CASES, CHAIN, Case, Draft, Synthetic
from foretoken.errors import ConfigError, ForetokenError, first_line
from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.prompt.sampling import TargetRows, Warper
from foretoken.tree import KINDS
from foretoken.types import Options, Sampling
from foretoken.verify.base import Verifier

VOCAB, NODES, DRAFTS = 128_000, 64, 15
ROOT = 1  # tokens before the draft
CACHE_BYTES = 1 << 27  # more than the processor's caches hold


class RuleTime(Options):
    """One rule on one kind of draft; milliseconds a verdict."""

    rule: str
    shape: str  # kind of the draft; "chain" is a sampled one of a single path
    case: str  # usual: drafter near target; worst: about everything is rejected
    drafts: int
    nodes: float | None = None  # mean; independent draws that coincide share one
    median_ms: float | None = None
    slowest_ms: float | None = None
    rows: float | None = None  # mean number of target rows that were normalised
    accepted: float | None = None  # mean number of accepted tokens
    refused: str = ""  # why there is no figure, in the rule's own words


class RuleTimes(Options):
    """The document of `foretoken bench --rules --json`."""

    machine: Machine
    vocab: int
    nodes: int
    results: list[RuleTime]
    interrupted: bool = False  # Ctrl-C: the figures are those of what was finished


class Counted(TargetRows):
    """Target rows that know how many of them were asked for."""

    @property
    def normalised(self) -> int:
        """Rows that became probabilities."""
        return len(self._probs)


class RuleBench:
    """Times verdicts; `report` can be taken at any time. vocab, nodes, drafts: from 1."""

    def __init__(self, vocab: int = VOCAB, nodes: int = NODES, drafts: int | None = None) -> None:
        drafts = DRAFTS if drafts is None else drafts
        for name, value, least in (("vocab", vocab, 8), ("nodes", nodes, 1), ("drafts", drafts, 1)):
            if value < least:
                raise ConfigError(name, value, f"a whole number from {least}")
        self.vocab, self.nodes, self.drafts = vocab, nodes, drafts
        self.interrupted = False
        self._seen: dict[tuple[str, str, Case], list[tuple[float, int, int, int]]] = {}
        self._refused: dict[tuple[str, str, Case], str] = {}
        self._warper = Warper(Sampling(temperature=1.0), [0] * ROOT, (), nodes + 1, vocab)
        self._flood = torch.zeros(CACHE_BYTES, dtype=torch.uint8)

    @property
    def total(self) -> int:
        """Drafts that `run` makes."""
        return len(CASES) * len(self._shapes()) * (self.drafts + 1)

    def run(self, on_draft: Callable[[], None] = lambda: None) -> None:
        """Time everything. Ctrl-C ends it with what was finished."""
        try:
            for case in CASES:
                for shape, rules in self._shapes().items():
                    for seed in range(self.drafts + 1):  # the first draft warms up
                        self._judge(shape, case, seed, rules)
                        on_draft()
        except KeyboardInterrupt:
            self.interrupted = True

    def _shapes(self) -> dict[str, list[Verifier]]:
        """Shape of the draft -> the rules that judge it."""
        out: dict[str, list[Verifier]] = {}
        for rule in known_rules():
            for kind in KINDS:
                if kind in rule.accepts:
                    out.setdefault(kind, []).append(rule)
        return {**out, CHAIN: out["sampled"]} if "sampled" in out else out

    def _judge(self, shape: str, case: Case, seed: int, rules: list[Verifier]) -> None:
        draft = self._draft(shape, case, seed)
        for rule in rotated(rules, seed):
            key = (rule.name, shape, case)
            try:
                spent, rows, accepted = self._time(rule, draft, seed)
            except ForetokenError as error:  # the rule does not judge such drafts, and says why
                self._refused[key] = first_line(error)
                continue
            seen = self._seen.setdefault(key, [])
            if seed:
                seen.append((spent, rows, accepted, len(draft.tree)))

    def _draft(self, shape: str, case: Case, seed: int) -> Draft:
        return Synthetic(self.vocab, seed).draft(shape, self.nodes, case)

    def _time(self, rule: Verifier, draft: Draft, seed: int) -> tuple[float, int, int]:
        """(milliseconds, rows normalised, tokens accepted); nothing is known from earlier."""
        tree = replace(draft.tree)  # without what it has derived from its fields
        rows = Counted(draft.logits, tree, [0] * ROOT, self._warper)
        coins = Coins(PositionRandom(seed), ROOT)
        self._flood.add_(1)
        start = perf_counter()
        verdict = rule.judge(tree, rows, coins)
        return 1000 * (perf_counter() - start), rows.normalised, len(verdict.path)

    def report(self) -> RuleTimes:
        """The document of what is finished."""
        order = [(rule.name, shape, case) for shape, rules in self._shapes().items()
                 for rule in rules for case in CASES]  # fmt: skip
        return RuleTimes(
            machine=describe(),
            vocab=self.vocab,
            nodes=self.nodes,
            results=[self._result(*key) for key in order],
            interrupted=self.interrupted,
        )

    def _result(self, rule: str, shape: str, case: Case) -> RuleTime:
        seen = self._seen.get((rule, shape, case), [])
        result = RuleTime(rule=rule, shape=shape, case=case, drafts=len(seen),
                          refused=self._refused.get((rule, shape, case), ""))  # fmt: skip
        if not seen:
            return result
        spent, rows, accepted, nodes = np.asarray(seen).T
        return result.model_copy(
            update={
                "nodes": float(nodes.mean()),
                "median_ms": float(np.median(spent)),
                "slowest_ms": float(spent.max()),
                "rows": float(rows.mean()),
                "accepted": float(accepted.mean()),
            }
        )


def known_rules() -> Iterator[Verifier]:
    """One of each registered rule that can be imported."""
    for name in registry.names("verifier"):
        try:
            rule: Verifier = registry.find("verifier", name)()
        except ForetokenError:
            continue  # `foretoken methods` lists it with its reason
        if not getattr(rule, "testing", False):
            yield rule
