"""The distribution test of the bench: right about exact methods, and able to accuse."""

from collections import Counter

import pytest
from scipy import stats

from foretoken.bench.law import POOL, chi_square_tail, law_report, one_sample, two_samples
from foretoken.bench.spec import parse_methods
from foretoken.engine.engine import Engine
from foretoken.registry import register
from foretoken.types import Sampling, Verdict
from foretoken.verify.walk import Walk
from tests import tiny


def test_statistics_equal_scipy():
    a, b = Counter({(1,): 40, (2,): 60, (3,): 100}), Counter({(1,): 55, (2,): 45, (3,): 100})
    g, freedom, distance = two_samples(a, b)
    table = [[40, 60, 100], [55, 45, 100]]
    known = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
    assert g == pytest.approx(known.statistic)
    assert freedom == known.dof
    assert chi_square_tail(g, freedom) == pytest.approx(known.pvalue)
    assert distance == pytest.approx(0.075)


def test_rare_outcomes_are_pooled_and_impossible_ones_accuse():
    seen = Counter({(i,): 1 for i in range(100)})
    assert two_samples(seen, seen)[1] == 0  # all in one pool: nothing to test
    assert one_sample({0: 50, 1: 50}, {0: 0.5, 1: 0.5 - 1e-3, 2: 1e-3})[1] == 2
    assert one_sample({0: 99, 3: 1}, {0: 1.0})[0] == float("inf")
    assert POOL >= 5  # the least that the chi-square approximation is usually trusted with


class Redraw(Walk):
    """The fault of several reference codes: when the draw was not drafted, draw once more."""

    name = "redraw"

    def judge(self, tree, rows, random):
        verdict = super().judge(tree, rows, random)
        if verdict.path or not tree.children[0]:
            return verdict

        class Again:
            def uniform(self, position, stream=0):
                return random.uniform(position, stream + 7)

        return super().judge(tree, rows, Again()) if len(tree) else Verdict((), verdict.bonus)


@pytest.fixture
def engine():
    return Engine(tiny.target("six"), method="plain", policy="fixed", max_sessions=64)


def run(engine, methods, samples=1000):
    specs = parse_methods(methods, "fixed", None, ())
    return law_report(engine, specs, [1, 2, 3, 1, 2], Sampling(temperature=1.0), samples)


def test_exact_methods_pass(engine):
    report = run(engine, "plain,aded,random")
    assert not report.failed
    assert report.tokens_per_step["random"] > 1.0  # drafts were accepted: something was tested


def test_a_wrong_rule_is_accused(engine):
    register("verifier", "redraw", f"{__name__}:Redraw")
    report = run(engine, "plain,random:verifier=redraw,nodes=2")
    assert report.failed
    assert {t.method for t in report.tests if not t.passed} == {"random:verifier=redraw,nodes=2"}
