"""Adapt-infinity's choices: the checks (a) to (e) of our notes, and each part by brute force."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.learn.online.toys import V, table, text, texts, trainee

from foretoken.learn.online.loss import coarse
from foretoken.learn.online.select import (
    DIRECTIONS,
    SCORES,
    Selector,
    chosen,
    covering,
    directions,
    distinct,
    movement,
    spread_of,
    water_filled,
)
from foretoken.learn.recipes.losses import forward_kl

A, B = table(1), table(2)


def watched(out: torch.Tensor, seen: list) -> None:
    """Its gradient can be read later."""
    out.retain_grad()
    seen.append(out)


def unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


class TestBudgets:
    """Check (a)."""

    @given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=9), budget=st.integers(0, 200))
    def test_they_sum_to_the_budget_and_exceed_no_cluster(
        self, sizes: list[int], budget: int
    ) -> None:
        shares = water_filled(sizes, budget)
        assert sum(shares) == min(budget, sum(sizes))
        assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))

    @given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), budget=st.integers(0, 40))
    def test_the_smallest_share_is_as_large_as_can_be(self, sizes: list[int], budget: int) -> None:
        """Max-min fair, up to the rounding of one: by brute force over the water's height."""
        shares = water_filled(sizes, budget)
        level = max(h for h in range(11) if sum(min(s, h) for s in sizes) <= budget)
        for share, size in zip(shares, sizes, strict=True):
            assert min(size, level) <= share + 1e-9
            assert share <= min(size, level + 1)


class TestCoverage:
    def test_it_takes_from_all_over_the_range(self) -> None:
        scores = np.arange(100) / 100.0
        found = covering(scores, 10, np.random.default_rng(0))
        assert len(found) == len(set(found)) == 10
        assert found == sorted(found)
        assert found[0] >= 5
        assert found[-1] < 95, "the edges are left out"
        assert max(np.diff(found)) < 50

    def test_a_crowded_bin_gets_no_more_than_its_share(self) -> None:
        scores = np.array([0.0] * 90 + [1.0] * 10)
        found = covering(scores, 8, np.random.default_rng(0))
        assert sum(i >= 90 for i in found) == 4

    def test_edges_are_taken_if_they_are_needed(self) -> None:
        assert covering(np.arange(20.0), 20, np.random.default_rng(0)) == list(range(20))
        assert covering(np.ones(5), 3, np.random.default_rng(0)) == sorted(
            covering(np.ones(5), 3, np.random.default_rng(0))
        )
        assert covering(np.array([2.0]), 1, np.random.default_rng(0)) == [0]
        assert covering(np.array([2.0, 3.0]), 0, np.random.default_rng(0)) == []


class TestEntropy:
    """Check (d)."""

    @settings(max_examples=60)
    @given(
        scores=st.lists(st.integers(-50, 50), min_size=2, max_size=60),
        scale=st.sampled_from([1e-6, 0.125, 1.0, 8.0, 1e5]), shift=st.sampled_from([0.0, 3.0, -64.0]),
    )  # fmt: skip
    def test_scale_and_origin_do_not_matter(
        self, scores: list[int], scale: float, shift: float
    ) -> None:
        # off the edges of the bins, where the last bit would decide
        raw = np.array(scores) + np.random.default_rng(0).normal(0, 0.3, len(scores))
        assert spread_of(raw * scale + shift * scale) == pytest.approx(spread_of(raw), abs=1e-9)

    def test_what_is_spread_is_above_what_is_not(self) -> None:
        even = np.linspace(0, 1, 100)
        lumped = np.array([0.0] * 98 + [0.5, 1.0])
        assert spread_of(even) > spread_of(lumped) > spread_of(np.ones(100)) == 0.0
        assert spread_of(np.full(9, 0.1)) == 0.0

    def test_each_cluster_goes_by_its_own_score(self) -> None:
        """Cluster 0 is told apart by score 1, cluster 1 by score 0: both are covered evenly."""
        n = 60
        lumped, even = np.zeros(n), np.linspace(0, 1, n)
        lumped[:2] = 1.0
        scores = np.vstack((np.stack((lumped, even), 1), np.stack((even, lumped), 1)))
        labels = np.repeat([0, 1], n)
        found = chosen(scores, labels, 40, np.random.default_rng(0))
        assert sum(i < n for i in found) == 20
        for part in ([i for i in found if i < n], [i - n for i in found if i >= n]):
            assert max(np.diff(part)) < 8


class TestDuplicates:
    """Check (b)."""

    def test_of_equal_texts_one_survives(self) -> None:
        dice = np.random.default_rng(1)
        points = unit(dice.normal(size=(6, DIRECTIONS)))
        features = points[[0, 1, 0, 2, 1, 0, 3]]
        found = distinct(features, np.zeros(7, dtype=np.int64), 7)
        assert found == [0, 1, 3, 6]

    def test_the_least_alike_stay(self) -> None:
        """By brute force over each text's nearest earlier one."""
        features = unit(np.random.default_rng(2).normal(size=(20, 5)))
        near = [max((features[i] @ features[j] for j in range(i)), default=-9.0) for i in range(20)]
        found = distinct(features, np.zeros(20, dtype=np.int64), 8)
        assert found == sorted(sorted(range(20), key=lambda i: near[i])[:8])

    def test_clusters_have_equal_room(self) -> None:
        features = unit(np.random.default_rng(3).normal(size=(30, 5)))
        labels = np.array([0] * 25 + [1] * 5)
        found = distinct(features, labels, 12)
        assert [sum(labels[i] == j for i in found) for j in (0, 1)] == [7, 5]

    def test_equal_samples_of_a_pool(self) -> None:
        one, samples = trainee(), texts(A, range(5))
        pool = [samples[0], *samples, replace(samples[2]), samples[4]]
        kept = Selector().prune(one, pool, 99)
        assert [kept[0], *kept[1:]] == [samples[0], *samples[1:]]
        assert Selector().prune(one, [], 5) == []


class TestTraits:
    def test_the_feature_is_the_gradient_of_the_heads_input(self) -> None:
        """W^T (q - p), averaged over the refused rows, against autograd."""
        one, sample = trainee(), text(A, 3, top=4)
        states = []
        hook = one.model.lm_head.register_forward_pre_hook(
            lambda _m, inputs: watched(inputs[0], states)
        )
        one.model.requires_grad_(True)
        log_p, log_q = one.pair(sample)
        forward_kl(log_p, log_q).sum().backward()
        hook.remove()
        one.model.requires_grad_(False)
        wrong = np.flatnonzero(sample.wrong)
        mean = states[0].grad[0, wrong].mean(0)
        expected = mean.double() @ directions(len(mean), 0)
        (feature, scores, _) = Selector()._traits_of(one, sample)
        np.testing.assert_allclose(feature, expected, atol=1e-6)
        assert len(scores) == len(SCORES)
        assert scores[0] == pytest.approx(1 - one.acceptance([sample]), abs=1e-6)
        assert scores[4] == pytest.approx(float(forward_kl(log_p, log_q).mean().detach()), rel=1e-5)

    def test_movement_sums_to_nothing(self) -> None:
        """It is a gradient in logits: a shift of all of them changes nothing."""
        dice = torch.Generator().manual_seed(1)
        p, q = (torch.randn(5, V, generator=dice) for _ in range(2))
        ids = p.topk(4).indices
        moved = movement(q, ids, coarse(p, ids), coarse(q, ids))
        torch.testing.assert_close(moved.sum(-1), torch.zeros(5), atol=1e-5, rtol=0)
        ids = p.topk(V - 1).indices
        moved = movement(q, ids, coarse(p, ids), coarse(q, ids))
        torch.testing.assert_close(moved, q.softmax(-1) - p.softmax(-1), atol=1e-6, rtol=1e-4)

    def test_directions_keep_lengths(self) -> None:
        points = torch.randn(40, 300, generator=torch.Generator().manual_seed(2)).double()
        ratio = (points @ directions(300, 1)).norm(dim=1) / points.norm(dim=1)
        assert 0.6 < float(ratio.min()) < float(ratio.max()) < 1.4

    def test_texts_are_looked_at_again_now_and_then(self, monkeypatch) -> None:
        one, pool, selector, looks = trainee(), texts(A, range(6)), Selector(), []
        original = Selector._traits_of
        monkeypatch.setattr(
            Selector, "_traits_of",
            lambda self, t, s: (looks.append(s), original(self, t, s))[1],
        )  # fmt: skip
        for _ in range(8):
            selector.choose(one, pool, 3)
        assert len(looks) == 6
        selector.choose(one, pool, 3)
        assert len(looks) == 12


def test_the_same_seed_chooses_the_same() -> None:
    """Check (e)."""
    one, pool = trainee(), texts(A, range(20))
    first, again = (
        [pool.index(s) for _ in range(3) for s in selector.choose(one, pool, 6)]
        for selector in (Selector(4), Selector(4))
    )
    assert first == again
    assert len(first) == 18
    other = Selector(5)
    assert [pool.index(s) for _ in range(3) for s in other.choose(one, pool, 6)] != first


def test_a_rare_skill_has_its_share() -> None:
    """Check (c), first part: after a burst of skill A, 2 texts of 100 are of skill B. Of them most
    are chosen, where a uniform choice of 20 would take a fifth."""
    one = trainee()
    one.learn([texts(A, range(i, i + 6)) for i in range(0, 240, 6)])
    pool = [*texts(A, range(300, 398)), *texts(B, range(2))]
    taken = 0
    for seed in range(5):
        found = Selector(seed).choose(one, pool, 20)
        assert len(found) == 20
        taken += len({*pool[98:]} & {*found})
    assert taken >= 7


def test_a_small_pool_is_taken_whole() -> None:
    one, pool = trainee(), texts(A, range(4))
    assert Selector().choose(one, pool, 9) == pool
    assert list(itertools.chain(Selector().choose(one, [], 9))) == []
