"""The optimum: its closed forms and the clock integral against lists of drafts and a linear
programme; what large vocabularies add is compared with slower forms of the same."""

from __future__ import annotations

import itertools
from time import perf_counter

import numpy as np
import pytest

from foretoken.bound import clocks
from foretoken.bound.clocks import Prefixes, lowest_gap
from foretoken.bound.optimum import (
    SCHEMES,
    TAIL,
    _both_inside,
    _sorted,
    greedy_rate,
    optima,
    optimum,
    trim,
)
from foretoken.bound.rates import k_seq, multi_round, walk_with, walk_without
from foretoken.errors import ConfigError
from tests.unit.bound import oracles

CLOSE = 20 * TAIL


def language(rng, vocab, temperature=1.0, noise=1.0):
    """A pair as language models have it: few likely tokens and a long tail."""
    logits = -1.2 * np.log(np.arange(1, vocab + 1)) + 0.6 * rng.normal(size=vocab)
    rows = (logits + noise * rng.normal(size=vocab), logits)
    powers = [np.exp((row - row.max()) / temperature) for row in rows]
    return powers[0] / powers[0].sum(), powers[1] / powers[1].sum()


@pytest.mark.parametrize("scheme", ["with", "without", "greedy"])
def test_equals_all_subsets(scheme):
    rng = np.random.default_rng(1)
    for _ in range(150):
        p, q = oracles.laws(rng, int(rng.integers(1, 6)))
        k = int(rng.integers(1, 5))
        expected = oracles.by_subsets(p, oracles.LISTED[scheme](q, k))
        assert optimum(p, q, k, scheme) == pytest.approx(expected, abs=CLOSE), (p, q, k)


@pytest.mark.parametrize("scheme", ["with", "without", "greedy"])
def test_equals_the_transport_problem(scheme):
    rng = np.random.default_rng(2)
    for _ in range(15):
        p, q = oracles.laws(rng, int(rng.integers(2, 5)))
        k = int(rng.integers(1, 4))
        expected = oracles.by_flow(p, oracles.LISTED[scheme](q, k))
        assert optimum(p, q, k, scheme) == pytest.approx(expected, abs=1e-6)  # the solver's own


def test_q_is_convex_along_any_order():
    """What skipping blocks relies on, and the sorting theorem with it."""
    rng = np.random.default_rng(3)
    for _ in range(100):
        vocab, k = int(rng.integers(3, 7)), int(rng.integers(2, 5))
        q = rng.dirichlet(np.full(vocab, rng.choice([0.3, 1.0, 4.0])))
        order = rng.permutation(vocab).tolist()
        slopes = np.diff(list(oracles.prefix_laws(q, order, k))) / q[order]
        assert (np.diff(slopes) >= -1e-9).all()


def test_the_clocks_equal_the_listed_draws():
    rng = np.random.default_rng(4)
    for k in (2, 3, 4):
        q = rng.dirichlet(np.full(11, 0.5))
        table = Prefixes(np.zeros(11), q, k)
        expected = list(oracles.prefix_laws(q, range(11), k))
        found = table.inside(table.ends, table.outside_at_ends)[:, k - 1]
        assert found == pytest.approx([expected[0], expected[8], expected[11]], abs=1e-12)
        # p is 0, so that the least gap inside a block is its largest Q
        assert table.refined(0)[k - 1] == pytest.approx(-expected[7], abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0])
def test_two_draws_have_a_closed_form(temperature, monkeypatch):
    monkeypatch.setattr(clocks, "CHUNK", 1)  # block by block, so that late times drop out
    rng = np.random.default_rng(5)
    for vocab in (3, 40, 3000):
        p, q = _sorted(*trim(*language(rng, vocab, temperature), 2))
        closed = min(float((np.cumsum(p) - _both_inside(q)).min()), 0.0)
        assert lowest_gap(p, q, [2])[0] == pytest.approx(closed, abs=1e-12)


def test_skipped_blocks_hold_nothing_lower(monkeypatch):
    rng = np.random.default_rng(6)
    for noise in (0.3, 1.5):
        p, q = _sorted(*trim(*language(rng, 1500, 0.7, noise), 5))
        few = lowest_gap(p, q, [3, 5])
        with monkeypatch.context() as patch:
            patch.setattr(Prefixes, "hopeful", lambda self, *_: range(len(self.q)))
            assert few == pytest.approx(lowest_gap(p, q, [3, 5]), abs=1e-12)


def test_only_few_blocks_are_refined(monkeypatch):
    p, q = language(np.random.default_rng(7), 20_000)
    seen = []
    refined = Prefixes.refined
    monkeypatch.setattr(
        Prefixes, "refined", lambda self, block: seen.append(block) or refined(self, block)
    )
    optima(p, q, range(1, 9), "without")
    assert 0 < len(seen) < 20


def test_a_vocabulary_of_128k_takes_seconds():
    p, q = language(np.random.default_rng(8), 131_072)
    start = perf_counter()
    found = optima(p, q, [1, 2, 4, 8], "without")
    assert perf_counter() - start < 30  # about one, on a machine that does nothing else
    assert (np.diff(found) > 0).all()


def test_tokens_that_are_left_out_do_not_matter():
    p, q = language(np.random.default_rng(9), 30_000, 0.15)
    small_p, small_q = trim(p, q, 4)
    assert len(small_p) < 3_000
    assert small_p.sum() == pytest.approx(1.0)
    assert small_q.sum() == pytest.approx(1.0)
    for rate in (multi_round, k_seq, walk_with, walk_without):
        assert rate(small_p, small_q, 4) == pytest.approx(rate(p, q, 4), abs=CLOSE)
    # a nearly certain token does not hide those that later draws will find
    q = np.array([1.0 - 3e-12, 2e-12, 1e-12])
    p = np.array([0.5, 0.1, 0.4])
    assert optimum(p, q, 2, "without") == pytest.approx(0.5 + 0.1 + 1 / 3, abs=1e-4)


def test_ordering_of_the_ways_to_draft():
    rng = np.random.default_rng(10)
    for _ in range(200):
        p, q = oracles.laws(rng, int(rng.integers(2, 7)))
        without, independent = (optima(p, q, [1, 2, 3], s) for s in ("without", "with"))
        assert (without >= independent - CLOSE).all()
        assert (np.diff(without) >= -CLOSE).all()
        assert without[0] == pytest.approx(np.minimum(p, q).sum(), abs=CLOSE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_vocabulary_of_one_and_all_tokens_drafted(scheme):
    one = np.array([1.0])
    assert optimum(one, one, 3, scheme) == pytest.approx(1.0)
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.3, 0.1])
    if scheme != "with":
        assert optimum(p, q, 3, scheme) == pytest.approx(1.0)
        assert optimum(p, q, 7, scheme) == pytest.approx(1.0)


def test_exhausted_drafters_draft_what_they_have():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.0, 0.6, 0.4])
    assert optimum(p, q, 3, "without") == pytest.approx(0.8)
    certain = np.array([0.0, 1.0, 0.0])
    assert optimum(p, certain, 2, "without") == pytest.approx(0.5)
    # greedy drafting takes the next token by id where q has no mass left
    assert greedy_rate(p, certain, 2) == pytest.approx(0.7)


def test_the_wrong_direction_of_sorting_is_worse():
    """The pitfall of the method: any other order of the prefixes gives a value that is too large."""
    rng = np.random.default_rng(11)
    larger = 0
    for _ in range(50):
        p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
        wrong = np.argsort(-p / q)
        gap = (np.cumsum(p[wrong]) - np.cumsum(q[wrong]) ** 3).min()
        larger += 1.0 + min(gap, 0.0) > optimum(p, q, 3, "with") + 1e-6
    assert larger > 25


def test_bad_arguments_are_named():
    p = np.array([0.5, 0.5])
    with pytest.raises(ConfigError, match="drafts: 0"):
        optima(p, p, [0, 1], "with")
    with pytest.raises(ConfigError, match="scheme: 'sideways'"):
        optimum(p, p, 1, "sideways")  # type: ignore[arg-type]


def test_polynomials_are_cut_where_they_should_be():
    rng = np.random.default_rng(12)
    for n, m, k in itertools.product((1, 2, 4), (1, 3), (1, 2, 5)):
        a, b = rng.random(n), rng.random(m)
        whole = np.convolve(a, b)[:k]
        assert clocks.times_cut(a[:, None], b[:, None], k)[:, 0] == pytest.approx(whole)
