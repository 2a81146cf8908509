"""Clusters of prompts: how many there are, which prompt belongs where, and that names stay."""

import itertools
import json

import numpy as np
import pytest

from foretoken.learn.online.clusters import (
    agreement,
    by_spread,
    distances,
    kmeans,
    matched,
    stable_count,
)
from foretoken.learn.online.routing import EVERY, PLACES, Router, features

VOCAB = 2000


def topic(which: int, count: int, seed: int = 0) -> list[list[int]]:
    """Prompts: words that all texts share, and words of the topic, by Zipf's law."""
    dice = np.random.default_rng((which, seed))
    words = np.random.default_rng(which).permutation(VOCAB)
    out = []
    for _ in range(count):
        rank = dice.zipf(1.3, 80).clip(1, VOCAB) - 1
        shared = dice.random(80) < 0.5
        out.append([int(r if s else words[r]) for r, s in zip(rank, shared, strict=True)])
    return out


class TestClusters:
    def test_kmeans_finds_the_best_split_of_few_points(self) -> None:
        points = np.random.default_rng(1).normal(size=(8, 2))
        best = min(
            sum(((points[g] - points[g].mean(0)) ** 2).sum() for g in (list(one), rest))
            for n in range(1, 5)
            for one in itertools.combinations(range(8), n)
            for rest in [[i for i in range(8) if i not in one]]
        )
        assert kmeans(points, 2).spread == pytest.approx(best)

    def test_fewer_clusters_than_asked_where_points_are_equal(self) -> None:
        found = kmeans(np.ones((5, 3)), 4)
        assert found.centres.shape == (1, 3)
        assert found.labels.tolist() == [0] * 5
        assert len(kmeans(np.eye(3)[[0, 0, 1, 1]], 4).centres) == 2

    def test_the_same_seed_gives_the_same(self) -> None:
        points = np.random.default_rng(2).normal(size=(40, 5))
        one, other = kmeans(points, 4, 7), kmeans(points, 4, 7)
        assert (one.labels == other.labels).all()
        assert one.labels.max() == 3

    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_as_many_as_the_spread_needs(self, k: int) -> None:
        centres = 10.0 * np.eye(6)[:k]
        noise = np.random.default_rng(3).normal(size=(60, 6))
        points = centres[np.arange(60) % k] + (noise if k > 1 else 0 * noise)
        found = by_spread(points, 8)
        assert len(found.centres) == k
        assert len({(a, b) for a, b in zip(found.labels, np.arange(60) % k, strict=True)}) == k

    def test_distances(self) -> None:
        a, b = np.random.default_rng(4).normal(size=(2, 3, 4))
        expected = [[((x - y) ** 2).sum() for y in b] for x in a]
        np.testing.assert_allclose(distances(a, b), expected)

    def test_agreement_is_above_chance_alone(self) -> None:
        dice = np.random.default_rng(5)
        one = dice.integers(0, 2, 400)
        assert agreement(one, 1 - one) == pytest.approx(1.0)
        assert abs(agreement(one, dice.integers(0, 2, 400))) < 0.3
        assert agreement(one * 0, one * 0) == 0.0

    def test_matched_is_the_best_pairing(self) -> None:
        alike = np.random.default_rng(6).normal(size=(3, 4))
        i, j = matched(alike)
        best = max(
            sum(alike[r, c] for r, c in enumerate(columns))
            for columns in itertools.permutations(range(4), 3)
        )
        assert alike[i, j].sum() == pytest.approx(best)

    @pytest.mark.parametrize("topics", [1, 2, 3])
    @pytest.mark.parametrize("seed", range(4))
    def test_as_many_topics_as_there_are(self, topics: int, seed: int) -> None:
        points = [features(p) for which in range(topics) for p in topic(which, 36 // topics, seed)]
        assert stable_count(np.array(points), 4) == topics
        assert stable_count(np.array(points[:31]), 4) == 1, "too few to tell"


def test_features() -> None:
    one = features([3, 3, 3, 7])
    assert np.linalg.norm(one) == pytest.approx(1.0)
    assert np.count_nonzero(one) == 2
    assert (features([3, 3, 7, 3]) == one).all(), "order does not matter"
    assert np.count_nonzero(features(range(VOCAB))) > PLACES // 2
    assert np.count_nonzero(features([150_000, 150_001])) == 2


class TestRouter:
    def test_two_topics_one_after_the_other(self) -> None:
        """A, then B, then both: each has its domain, and B's is new when it comes."""
        router = Router(4)
        a, b = topic(0, 60), topic(1, 60)
        first = [router.domain(p) for p in a[:40]]
        assert set(first) == {""}, "one topic needs one drafter"
        then = [router.domain(p) for p in b[:40]]
        late = [(router.domain(x), router.domain(y)) for x, y in zip(a[40:], b[40:], strict=True)]
        assert set(then[-EVERY:]) <= {"1", "2"}
        home = {"a": max(late, key=late.count)[0], "b": max(late, key=late.count)[1]}
        assert home["a"] != home["b"]
        assert "" not in home.values()
        right = [(x == home["a"]) + (y == home["b"]) for x, y in late]
        assert sum(right) / (2 * len(late)) > 0.9

    def test_what_is_unlike_all_goes_to_the_default(self) -> None:
        router = Router(2)
        for x, y in zip(topic(0, 32), topic(1, 32), strict=True):
            router.domain(x)
            router.domain(y)
        assert {router.domain(p) for p in topic(0, 4, 9)} == {router.domain(topic(0, 1, 8)[0])}
        strange = [[1999 - t for t in p] for p in topic(7, 8)]
        assert "" in {router.domain(p) for p in strange}

    def test_names_stay_when_clusters_are_found_anew(self) -> None:
        router = Router(3)
        names = []
        for start in range(0, 160, 32):
            for x, y in zip(topic(0, 32, start), topic(1, 32, start), strict=True):
                router.domain(x)
                router.domain(y)
            names.append((router.domain(topic(0, 1, 1)[0]), router.domain(topic(1, 1, 1)[0])))
        assert len(set(names)) == 1

    def test_there_are_no_more_than_allowed(self) -> None:
        router = Router(2)
        pool = [p for which in range(5) for p in topic(which, 32)]
        found = {router.domain(pool[i * 32 + j]) for j in range(32) for i in range(5)}
        assert len(found - {""}) <= 2

    def test_one_domain_is_the_default(self) -> None:
        router = Router(1, route=lambda _: 1 / 0)
        assert router.domain([1, 2]) == ""

    def test_the_users_own_function(self) -> None:
        router = Router(2, route=lambda prompt: "abc"[prompt[0]])
        assert [router.domain([i]) for i in (0, 1, 2, 0)] == ["a", "b", "", "a"]

    def test_state(self) -> None:
        router = Router(2)
        for x, y in zip(topic(0, 32), topic(1, 32), strict=True):
            router.domain(x)
            router.domain(y)
        twin = Router(2)
        twin.load(json.loads(json.dumps(router.state())))
        asked = [*topic(0, 7, 5), *topic(1, 7, 5)]
        assert [twin.domain(p) for p in asked] == [router.domain(p) for p in asked]
        assert len({twin.domain(p) for p in asked}) == 2
        Router(2).load(Router(2).state())
