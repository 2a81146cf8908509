"""Is sampled text of a method distributed as the target's own? A test with a stated error rate.

One prompt is decoded very often, each time with a seed of its own, and the first three tokens are
counted: for every method on seeds that no other method uses, because with equal seeds the texts
would be the same. Each method's joint counts are compared with plain decoding's (G-test of two
samples, rare outcomes pooled) and the first token's with the target's exact probabilities (G-test
of one sample). The false-alarm rate of the whole report is shared out over its tests (Bonferroni).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import Field

from foretoken.bench.own import Own
from foretoken.bench.spec import PLAIN, Spec
from foretoken.engine.engine import Engine
from foretoken.prompt.sampling import Warper
from foretoken.target.base import Job
from foretoken.tree import EMPTY
from foretoken.types import Limits, Options, Request, Sampling

DEPTH = 3  # tokens of the joint distribution
POOL = 10  # outcomes expected less often are counted together
FALSE_ALARMS = 1e-3  # chance that a report of exact methods accuses one of them
TOGETHER = 64  # samples that ride in one forward


class LawTest(Options):
    """One comparison."""

    method: str
    what: str
    statistic: float  # G, distributed as chi-square with `freedom` if the laws are equal
    freedom: int
    p_value: float
    distance: float  # total variation between the pooled frequencies (0 to 1; noise included)
    passed: bool


class LawReport(Options):
    """The document of `foretoken bench --law SAMPLES --json`."""

    model: str
    sampling: Sampling
    samples: int  # per method
    false_alarms: float  # of the whole report
    threshold: float  # least p-value of a single test that passes
    distinct: dict[str, int] = Field(description="distinct outcomes seen, by method")
    tokens_per_step: dict[str, float]
    tests: list[LawTest]

    @property
    def failed(self) -> bool:
        """Whether some method was found not to be exact."""
        return not all(test.passed for test in self.tests)


def law_report(
    engine: Engine,
    specs: Sequence[Spec],
    prompt: Sequence[int],
    sampling: Sampling,
    samples: int,
    on_samples: Callable[[int], None] = lambda _: None,
) -> LawReport:
    """Sample and test. specs: plain may be among them; it is sampled in any case."""
    others = [spec for spec in specs if spec.label != PLAIN.label]
    counts: dict[str, Counter[tuple[int, ...]]] = {}
    speed: dict[str, float] = {}
    for i, spec in enumerate([PLAIN, *others]):
        seeds = range(sampling.seed + i * samples, sampling.seed + (i + 1) * samples)
        counts[spec.label], speed[spec.label] = _sample(
            engine, spec, prompt, sampling, seeds, on_samples
        )
    threshold = FALSE_ALARMS / (2 * len(others) + 1)
    first = _first_token(engine, prompt, sampling)
    tests = []
    for label, seen in counts.items():
        if label != PLAIN.label:
            joint = two_samples(seen, counts[PLAIN.label])
            tests.append(_test(label, f"first {DEPTH} tokens against plain", joint, threshold))
        heads: Counter[int] = Counter()
        for outcome, n in seen.items():
            heads[outcome[0]] += n
        exact = one_sample(heads, first)
        tests.append(_test(label, "first token against its probabilities", exact, threshold))
    return LawReport(
        model=engine.target.name if hasattr(engine.target, "name") else "",
        sampling=sampling,
        samples=samples,
        false_alarms=FALSE_ALARMS,
        threshold=threshold,
        distinct={label: len(seen) for label, seen in counts.items()},
        tokens_per_step=speed,
        tests=tests,
    )


def _sample(
    engine: Engine,
    spec: Spec,
    prompt: Sequence[int],
    sampling: Sampling,
    seeds: range,
    on_samples: Callable[[int], None],
) -> tuple[Counter[tuple[int, ...]], float]:
    own = Own(engine, spec)
    seen: Counter[tuple[int, ...]] = Counter()
    tokens = steps = 0
    for low in range(seeds.start, seeds.stop, TOGETHER):
        group = range(low, min(low + TOGETHER, seeds.stop))
        requests = [
            Request(
                prompt,
                sampling.model_copy(update={"seed": seed}),
                # one more than is counted: a drafted token may then stand at every counted place
                Limits(max_new_tokens=DEPTH + 1, ignore_eos=True),
            )
            for seed in group
        ]
        for done in engine.run(requests, own.method):
            seen[tuple(done.tokens[:DEPTH])] += 1
            tokens, steps = tokens + done.stats.tokens, steps + done.stats.steps
        on_samples(len(group))
    return seen, tokens / steps


def _first_token(engine: Engine, prompt: Sequence[int], sampling: Sampling) -> dict[int, float]:
    cache = engine.target.new_cache(len(prompt) + 1)
    try:
        row = engine.target.score([Job(cache, prompt, EMPTY)])[0].logits[0]
    finally:
        cache.release()
    warper = Warper(sampling, prompt, (), DEPTH + 1, engine.target.vocab)
    probs = torch.softmax(warper.warp(row, list(prompt)).double(), dim=-1)
    return {int(i): float(probs[i]) for i in probs.nonzero()[:, 0]}


def two_samples(
    a: Mapping[tuple[int, ...], int], b: Mapping[tuple[int, ...], int]
) -> tuple[float, int, float]:
    """(G, degrees of freedom, total variation) of two counts; rare outcomes are pooled."""
    total_a, total_b = sum(a.values()), sum(b.values())
    share = min(total_a, total_b) / (total_a + total_b)
    rows, rest = [], [0, 0]
    for outcome in sorted({*a, *b}):
        pair = (a.get(outcome, 0), b.get(outcome, 0))
        if sum(pair) * share >= POOL:
            rows.append(pair)
        else:
            rest = [rest[0] + pair[0], rest[1] + pair[1]]
    if sum(rest):
        rows.append((rest[0], rest[1]))
    g = 0.0
    for x, y in rows:
        mean = (x + y) / (total_a + total_b)
        g += _term(x, mean * total_a) + _term(y, mean * total_b)
    distance = sum(abs(x / total_a - y / total_b) for x, y in rows) / 2
    return g, len(rows) - 1, distance


def one_sample(seen: Mapping[int, int], law: Mapping[int, float]) -> tuple[float, int, float]:
    """The same against known probabilities. An outcome of probability 0 gives G = infinity."""
    total = sum(seen.values())
    if any(law.get(outcome, 0.0) == 0.0 for outcome in seen):
        return math.inf, 1, 1.0
    rows: list[tuple[float, float]] = []
    rest = [0.0, 0.0]
    for outcome, p in law.items():
        pair = (float(seen.get(outcome, 0)), p * total)
        if pair[1] >= POOL:
            rows.append(pair)
        else:
            rest = [rest[0] + pair[0], rest[1] + pair[1]]
    if rest[1] > 0:
        rows.append((rest[0], rest[1]))
    g = sum(_term(x, expected) for x, expected in rows)
    return g, len(rows) - 1, sum(abs(x - e) for x, e in rows) / (2 * total)


def _term(seen: float, expected: float) -> float:
    return 2 * seen * math.log(seen / expected) if seen else 0.0


def _test(label: str, what: str, result: tuple[float, int, float], threshold: float) -> LawTest:
    g, freedom, distance = result
    p = chi_square_tail(g, freedom)
    return LawTest(
        method=label, what=what, statistic=g, freedom=freedom, p_value=p, distance=distance,
        passed=p >= threshold,
    )  # fmt: skip


def chi_square_tail(x: float, freedom: int) -> float:
    """Probability that a chi-square variable with so many degrees of freedom exceeds x."""
    if freedom < 1:
        return 1.0
    if math.isinf(x):
        return 0.0
    half = torch.tensor([freedom / 2, max(x, 0.0) / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
