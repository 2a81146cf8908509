"""Statistics: equal to scipy's, fair under the null, and as sharp as they promise."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from foretoken.audit import statistics as st
from foretoken.audit.law import Cells
from foretoken.audit.report import Plan
from foretoken.audit.sampling import judge_ids, plan
from tests.unit.audit.helper import law, table


def test_chi_square_equals_scipy() -> None:
    seen, expected = [40, 60, 100], [50.0, 55.0, 95.0]
    known = stats.chisquare(seen, expected)
    found = st.chi_square(seen, expected)
    assert (found.statistic, found.p_value) == pytest.approx((known.statistic, known.pvalue))
    assert found.freedom == 2
    g = stats.power_divergence(seen, expected, lambda_="log-likelihood")
    assert st.likelihood_ratio(seen, expected) == pytest.approx(g.statistic)
    assert st.chi_square([5], [5.0]) == (0.0, 0, 1.0)


def test_two_samples_equal_scipy_and_pool_what_is_rare() -> None:
    a, b = Counter({1: 40, 2: 60, 3: 100}), Counter({1: 55, 2: 45, 3: 100})
    found, distance, cells = st.two_samples(a, b)
    known = stats.chi2_contingency([[40, 60, 100], [55, 45, 100]], correction=False)
    assert (found.statistic, found.p_value) == pytest.approx((known.statistic, known.pvalue))
    assert (found.freedom, cells) == (2, 3)
    assert distance == pytest.approx(0.075)
    rare = Counter(dict.fromkeys(range(100), 1))
    assert st.two_samples(rare, rare)[0].freedom == 0  # all in one pool: nothing to test
    many = Counter(dict.fromkeys(range(50), 100))
    assert st.two_samples(many, many, cells=8)[2] == 8


def test_power_is_reached_even_in_the_worst_direction() -> None:
    """The law that is TV 0.1 away and hardest to see moves every cell by the same share."""
    cells, n, alarm = 20, 1500, 1e-3
    p = np.full(cells, 1 / cells)
    q = p * np.where(np.arange(cells) % 2, 1.2, 0.8)
    dice = np.random.default_rng(0)
    wanted = st.power(n, cells - 1, 0.1, alarm)
    seen = dice.multinomial(n, q, size=400)
    rate = np.mean([st.chi_square(s, n * p).p_value < alarm for s in seen])
    assert wanted > 0.8
    assert rate == pytest.approx(wanted, abs=0.06)


def test_the_detectable_effect_has_the_wanted_power() -> None:
    effect = st.detectable(4000, 30, 0.99, 1e-4)
    assert effect is not None
    assert st.power(4000, 30, effect, 1e-4) == pytest.approx(0.99, abs=2e-3)
    assert st.detectable(4000, 0, 0.99, 1e-4) is None
    assert st.detectable(10, 30, 0.99, 1e-4) is None


def test_the_interval_covers_the_true_distance() -> None:
    dice, n = np.random.default_rng(1), 500
    p = np.full(10, 0.1)
    for q in (p, p * np.where(np.arange(10) % 2, 1.3, 0.7)):
        true, hit = abs(p - q).sum() / 2, 0
        for seen in dice.multinomial(n, q, size=200):
            low, high = st.interval(abs(seen / n - p).sum() / 2, 10, n)
            hit += low <= true <= high
        assert hit >= 190


def test_rare_counts() -> None:
    assert st.rare_count(0, 0.0, 0.0).freedom == 0
    assert st.rare_count(3, 2.5, 2.4).p_value > 0.5
    assert st.rare_count(20, 2.5, 2.4).p_value < 1e-6
    assert st.rare_count(0, 20.0, 19.0).p_value < 1e-6
    assert st.rare_count(100, 100.0, 90.0).p_value == pytest.approx(1.0)
    assert st.rare_count(160, 100.0, 90.0).p_value < 1e-6


def test_exact_text_is_accused_as_often_as_stated() -> None:
    """200 samples of size 400 from the exact law, all tests of each: p-values look uniform."""
    given, exact = law(), table()
    chosen = plan(given, 0, 1, false_alarms=1e-3, wanted=0.9, effect=0.2, samples=400)
    outcomes, masses = list(exact), np.array(list(exact.values()))
    dice, low = np.random.default_rng(2), Counter[str]()
    rounds = 200
    places = given.places(outcomes)
    given.places = lambda _: places  # type: ignore[method-assign]  the same every time: asked once
    for counts in dice.multinomial(400, masses / masses.sum(), size=rounds):
        written = [text for text, n in zip(outcomes, counts, strict=True) for _ in range(n)]
        result = judge_ids(given, written, chosen)
        for test in result.tests:
            low[test.what] += test.p_value < 0.1
    for what in ("first token", "first 3 tokens", "surprise of all tokens"):
        assert 0.04 < low[what] / rounds < 0.17, what
    assert low["ends of text"] == 0  # this model's text never ends


def test_the_plan_has_the_power_that_was_wanted() -> None:
    given = law()
    made = plan(given, 0, 2, false_alarms=1e-3, wanted=0.99, effect=0.1, samples=None)
    assert isinstance(made, Plan)
    assert made.power >= 0.99
    assert made.threshold == pytest.approx(1e-3 / 8)
    fewer = int(made.samples / 1.2)
    cells = Cells(given, fewer, 3)
    assert st.power(fewer, len(cells) - 1, 0.1, made.threshold) < 0.99, "no more than is needed"
    asked = plan(given, 0, 2, false_alarms=1e-3, wanted=0.99, effect=0.1, samples=300)
    assert asked.asked
    assert asked.power < 0.99
    assert asked.detectable is None or asked.detectable > 0.1
