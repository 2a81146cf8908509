"""Sampled text against the reference's law: how many samples, which tests, what they say.

Every p-value is compared with the false-alarm rate of the whole report divided by the number of
its tests (Bonferroni). The plan is fixed before the first sample is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from foretoken.audit import statistics as st
from foretoken.audit.law import Cells, Law, Outcome, Place
from foretoken.audit.report import Plan, SamplingResult, Test
from foretoken.audit.words import REFERENCES, Speller, draw_texts, heads
from foretoken.errors import ConfigError

TESTS = 4  # of an engine that gives token ids; one that gives text has two of them
FEWEST = 200  # samples
SHOWN = 5  # impossible outcomes named in the report


def plan(
    law: Law, prompt: int, audited: int, *, false_alarms: float, wanted: float, effect: float,
    samples: int | None,
) -> Plan:  # fmt: skip
    """How many samples, and what they can see. audited: engines (and controls) with tests.

    Raises ConfigError if the wanted power would take more than `MOST_SAMPLES`.
    """
    alarm = false_alarms / (TESTS * max(audited, 1))

    def reached(n: int) -> tuple[Cells, float]:
        cells = Cells(law, n, law.n)
        return cells, st.power(n, len(cells) - 1, effect, alarm)

    n = samples if samples is not None else FEWEST
    cells, power = reached(n)
    while samples is None and power < wanted and n < st.MOST_SAMPLES and len(law.best(())) > 1:
        n = min(int(n * 1.1) + 1, st.MOST_SAMPLES)
        cells, power = reached(n)
    if samples is None and n == st.MOST_SAMPLES:
        raise ConfigError("effect", effect, f"one that {st.MOST_SAMPLES} samples can show")
    return Plan(
        prompt=prompt, tokens=law.n, samples=n, asked=samples is not None, cells=len(cells),
        outcomes="enumerated" if law.small else f"the {len(cells)} likeliest beginnings",
        effect=effect, wanted=wanted, power=power,
        detectable=st.detectable(n, len(cells) - 1, wanted, alarm),
        tests=TESTS * audited, threshold=alarm,
    )  # fmt: skip


def judge_ids(law: Law, written: Sequence[Sequence[int]], plan: Plan) -> SamplingResult:
    """Tests of token ids. written: what the engine drew, one list of ids a sample."""
    counts: Counter[Outcome] = Counter(law.cut(tokens) for tokens in written)
    samples = len(written)
    short = sum(n for outcome, n in counts.items() if not law.final(outcome))
    places = law.places(counts)
    impossible, edge = _impossible(counts, places)
    first, _ = _cells_test("first token", law, counts, samples, 1, plan)
    joint, cells = _cells_test(f"first {law.n} tokens", law, counts, samples, law.n, plan)
    tests = [joint, first, _surprise(counts, places, plan), _ends(law, counts, places, plan)]
    seen = cells.count(counts)
    distance = sum(abs(n / samples - m) for n, m in zip(seen, cells.masses, strict=True)) / 2
    return SamplingResult(
        samples=samples, distinct=len(counts), cells=len(cells), tests=tests, distance=distance,
        interval=st.interval(distance, len(cells), samples),
        detectable=st.detectable(samples, len(cells) - 1, plan.wanted, plan.threshold),
        impossible=impossible, edge=edge, short=short,
    )  # fmt: skip


def judge_texts(law: Law, written: Sequence[str], plan: Plan, speller: Speller) -> SamplingResult:
    """Tests of texts against texts drawn from the reference. See `words`."""
    texts = Counter(text.rstrip("\ufffd") for text in written)
    samples = len(written)
    truth = draw_texts(law, REFERENCES * samples, seed=20_000_003, speller=speller)
    joint, distance, cells = st.two_samples(texts, truth)
    first, _, _ = st.two_samples(heads(texts), heads(truth))
    tests = [
        _test(f"text of {law.n} tokens", "chi-square, two samples", joint, plan),
        _test("first character", "chi-square, two samples", first, plan),
    ]
    effective = samples * REFERENCES / (1 + REFERENCES)
    return SamplingResult(
        samples=samples, distinct=len(texts), cells=cells, tests=tests, distance=distance,
        interval=st.interval(distance, cells, effective),
        detectable=st.detectable(effective, cells - 1, plan.wanted, plan.threshold),
    )  # fmt: skip


def _test(what: str, kind: str, found: st.Outcome, plan: Plan, g: float | None = None) -> Test:
    return Test(
        what=what, kind=kind, statistic=found.statistic, g=g, freedom=found.freedom,
        p_value=found.p_value, passed=found.p_value >= plan.threshold,
    )  # fmt: skip


def _cells_test(
    what: str, law: Law, counts: Counter[Outcome], samples: int, depth: int, plan: Plan
) -> tuple[Test, Cells]:
    cells = law.cells(samples, depth)
    seen, expected = cells.count(counts), [m * samples for m in cells.masses]
    g = st.likelihood_ratio(seen, expected)
    return _test(what, "chi-square", st.chi_square(seen, expected), plan, g), cells


def _surprise(counts: Counter[Outcome], places: dict[Outcome, Place], plan: Plan) -> Test:
    """Is the text as likely as it should be? At every place, -log p of the token less its mean.

    It needs no cells, so that it sees the whole tail: temperature, thresholds, greedy habits. What
    is impossible is counted elsewhere.
    """
    from math import log

    total = variance = 0.0
    for outcome, n in counts.items():
        for i, token in enumerate(outcome):
            place = places[outcome[:i]]
            if place.probs[token] > 0:
                total += n * (-log(place.probs[token]) - place.entropy)
                variance += n * place.variance
    found = st.deviation(total, variance if variance > 1e-9 else 0.0)
    return _test("surprise of all tokens", "normal", found, plan)


def _ends(
    law: Law, counts: Counter[Outcome], places: dict[Outcome, Place], plan: Plan
) -> Test:  # fmt: skip
    """Does the text end as often as it should? (The law of its length, place by place.)"""
    seen, mean, variance = 0, 0.0, 0.0
    for outcome, n in counts.items():
        seen += n * bool(outcome and outcome[-1] in law.reference.eos)
        for i in range(len(outcome)):
            ends = places[outcome[:i]].ends
            mean, variance = mean + n * ends, variance + n * ends * (1 - ends)
    return _test("ends of text", "Poisson or normal", st.rare_count(seen, mean, variance), plan)


def _impossible(counts: Counter[Outcome], places: dict[Outcome, Place]) -> tuple[list[str], int]:
    """Tokens of probability 0, and how many more only a near-tie kept out."""
    found: Counter[tuple[Outcome, int]] = Counter()
    edge = 0
    for outcome, n in counts.items():
        for i, token in enumerate(outcome):
            place = places[outcome[:i]]
            if token in place.edge:
                edge += n
            elif place.probs[token] == 0:
                found[outcome[:i], token] += n
    shown = [
        f"token {token} after {list(text)}: {n} times" for (text, token), n in found.most_common()
    ]
    return shown[:SHOWN], edge
