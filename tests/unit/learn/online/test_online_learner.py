"""One domain's learner, and a tenant's domains: when it learns, what it keeps, how it fails."""

import itertools
import json
import logging
import math
import threading

import numpy as np
import pytest
import torch
from tests.unit.learn.online.toys import (
    alpha,
    drafter,
    feed,
    learner,
    options,
    published,
    same,
    store,
    table,
    text,
    texts,
)

from foretoken.errors import ArtifactError
from foretoken.learn.online.learner import LOG, Learner
from foretoken.learn.online.worker import Worker

A, B = table(1), table(2)


class TestFromAFixedTarget:
    """Check 1 of our notes."""

    def test_acceptance_rises(self) -> None:
        one = learner()
        seen = [alpha(one, A)]
        for start in range(0, 160, 32):
            feed(one, texts(A, range(start, start + 32)))
            seen.append(alpha(one, A))
        assert seen[-1] > seen[0] + 0.2
        assert all(b > a - 0.01 for a, b in itertools.pairwise(seen))
        log = one.facts.log
        assert len(log) == one.facts.updates == 40
        assert log[-1]["after"] > log[0]["before"] + 0.15
        assert one.facts.seconds > 0.0

    def test_never_learning_changes_nothing(self) -> None:
        before = [weight.clone() for weight in drafter().parameters()]
        one = learner(interval=0)
        feed(one, texts(A, range(20)))
        assert not one.learning
        assert (one.trainee, one.drafter, one.facts.updates) == (None, None, 0)
        assert same(before, list(drafter().parameters()))


class TestWhen:
    def test_every_so_many_requests(self) -> None:
        one = learner(interval=4)
        updates = []
        for sample in texts(A, range(12)):
            feed(one, [sample])
            updates.append(one.facts.updates)
        assert updates == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]

    def test_or_after_so_many_steps(self) -> None:
        one = learner(interval=100, patience=30)
        one.add(texts(A, range(3)), finished=False)
        for _ in range(29):
            one.step()
        one.advance()
        assert one.facts.updates == 0
        one.step()
        assert one.overdue
        one.advance()
        assert one.facts.updates == 1
        assert not one.overdue
        assert one.facts.requests == 0

    def test_patience_is_optional(self) -> None:
        one = learner(interval=100, patience=0)
        for _ in range(2000):
            one.step()
        assert not one.overdue

    def test_nothing_fresh_is_nothing_to_learn(self) -> None:
        one = learner(interval=1)
        feed(one, [text(A, 1)])
        assert one.facts.updates == 0, "the first text is held out"
        feed(one, [text(A, 2)])
        assert one.facts.updates == 1

    def test_time_is_bounded(self) -> None:
        one = learner(deadline=1e-9)
        feed(one, texts(A, range(8)))
        assert (one.facts.updates, one.facts.late, one.facts.kept) == (2, 2, 0)
        assert one.drafter is None
        assert not one.facts.failed


class TestWhatIsLearnedFrom:
    def test_old_texts_are_a_share_of_every_batch(self) -> None:
        one = learner(batch=8, replay=0.25, interval=12)
        batches = []
        original = one._batches
        one._batches = lambda *a: batches.extend(found := original(*a)) or found
        feed(one, texts(A, range(60)))
        fresh = {id(s) for s in texts(A, range(0))}
        assert not fresh
        assert [len(batch) for batch in batches[2:]] == [8] * len(batches[2:])
        for n, batch in enumerate(batches[2:], 2):
            newest = 12 * (n // 2)  # the first request of this update
            old = [s for s in batch if int(s.tokens[0]) != -1 and _request(s) < newest]
            assert len(old) == 2

    def test_without_replay_only_fresh_ones_are(self) -> None:
        one = learner(batch=8, replay=0.0, interval=12)
        batches = []
        original = one._batches
        one._batches = lambda *a: batches.extend(found := original(*a)) or found
        feed(one, texts(A, range(36)))
        assert all(_request(s) >= 12 * (n // 2) for n, batch in enumerate(batches) for s in batch)

    def test_refused_rows_alone(self) -> None:
        one = learner(rows="wrong")
        feed(one, texts(A, range(8)))
        assert one.facts.updates == 2
        assert all(s.wrong.all() for s in one.buffer.old)
        assert not all(s.wrong.all() for s in one.buffer.held_out)

    def test_a_chosen_pool_has_no_duplicates(self) -> None:
        one = learner(select=True, interval=8, steps=2, batch=3)
        again = [text(A, 5), text(A, 6)] * 12
        feed(one, again)
        assert one.facts.updates == 3
        assert 1 <= len(one.buffer.old) <= 3, "some came after the last choice"
        assert one.facts.kept >= 1


def _request(sample: object) -> int:
    """Which request of `texts(A, range(n))` this is."""
    tokens = sample.tokens.tolist()
    return next(i for i in range(60) if text(A, i).tokens.tolist()[: len(tokens)] == tokens)


class TestShift:
    """Check 5: A, then B; B is learned, and older texts keep A."""

    def run(self, **values: object) -> tuple[list[float], list[float]]:
        one = learner(interval=4, steps=2, **values)
        on_a, on_b = [alpha(one, A)], [alpha(one, B)]
        for target, start in ((A, 0), (B, 0)):
            feed(one, texts(target, range(start, start + 120)))
            on_a.append(alpha(one, A))
            on_b.append(alpha(one, B))
        return on_a, on_b

    def test_recovery_and_forgetting(self) -> None:
        without_a, without_b = self.run(replay=0.0)
        with_a, with_b = self.run(replay=0.5)
        for on_b in (without_b, with_b):
            assert on_b[2] > on_b[1] + 0.1, "B recovers"
        assert without_a[1] == pytest.approx(with_a[1], abs=0.05)
        lost = [a[1] - a[2] for a in (without_a, with_a)]
        assert lost[0] > 0.1, "without old texts A is forgotten"
        assert lost[1] < lost[0] - 0.03

    def test_a_rare_skill_falls_less_with_clusters(self) -> None:
        """Check (c), second part: both skills are known, 2 % of what is held is of B, then comes a
        burst of A. With the choice by cluster B falls less than with fresh texts alone, and less
        than with uniform replay."""
        fell = {}
        for name, how in (
            ("fifo", {"replay": 0.0}), ("uniform", {"replay": 0.5}), ("chosen", {"select": True}),
        ):  # fmt: skip
            one = learner(interval=4, steps=1, batch=8, **how)
            for seed in range(60):
                feed(one, [text(A, 1000 + seed), text(B, 2000 + seed)])
            before = alpha(one, B)
            one.buffer.keep([*texts(A, range(500, 598)), *texts(B, range(60, 62))])
            feed(one, texts(A, range(80)))
            fell[name] = before - alpha(one, B)
        assert fell["chosen"] < 0.8 * min(fell["fifo"], fell["uniform"])


class TestFailure:
    def boom(self, *_: object, **__: object) -> None:
        raise MemoryError("no room\nfor details")

    @pytest.mark.parametrize("where", ["learn", "accepted", "pair", "keep"])
    def test_it_is_said_once_and_drafting_goes_on(
        self, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = learner()
        feed(one, texts(A, range(8)))
        good = one.drafter
        weights = [w.clone() for w in one.trainee.kept]
        assert good is not None
        monkeypatch.setattr(type(one.trainee), where, self.boom)
        with caplog.at_level(logging.WARNING, LOG.name):
            feed(one, texts(A, range(8, 12)))
            feed(one, texts(A, range(12, 40)))
        assert one.facts.failed == "MemoryError: no room"
        assert [r.getMessage() for r in caplog.records] == [
            "online learning stopped, drafting goes on: MemoryError: no room"
        ]
        assert not one.learning
        assert one.drafter is good
        assert same(weights, one.trainee.weights)
        assert len(one.buffer) == 0
        assert json.loads(json.dumps(one.facts.report()))["failed"]

    def test_no_model_to_start_from(self) -> None:
        one = learner(base=self.boom)
        feed(one, texts(A, range(8)))
        assert one.facts.failed.startswith("MemoryError")
        assert one.drafter is None

    def test_an_interrupt_is_none_of_its_failures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = learner(base=lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            feed(one, texts(A, range(8)))
        assert not one.facts.failed

    def test_what_is_no_number_is_dropped(self) -> None:
        one = learner()
        feed(one, texts(A, range(8)))
        good, weights = one.drafter, [w.clone() for w in one.trainee.weights]
        poisoned = texts(A, range(8, 12))
        for sample in poisoned[1:]:
            sample.log_p[2] = math.nan
        feed(one, poisoned)
        assert (one.facts.dropped, one.facts.failed) == (1, "")
        assert one.drafter is good
        assert same(weights, one.trainee.weights)
        assert one.facts.log[-1]["after"] is None
        assert one.learning


class TestBeside:
    def test_weights_come_at_the_next_boundary(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While an update runs nothing changes; when it is done, the next boundary takes it."""
        gate, threads = threading.Event(), set()
        one = learner(worker=Worker(), interval=4)
        original = Learner._update

        def slow(self: Learner, *args: object) -> None:
            threads.add(threading.current_thread())
            assert torch.get_num_threads() == 1
            assert gate.wait(30)
            original(self, *args)

        monkeypatch.setattr(Learner, "_update", slow)
        before = torch.get_num_threads()
        feed(one, texts(A, range(4)))
        assert one._running is not None
        feed(one, texts(A, range(4, 7)))
        assert (one.drafter, one.facts.updates) == (None, 0)
        gate.set()
        one._running.result(30)
        assert one.drafter is None, "not before a boundary"
        one.advance()
        first = one.drafter
        assert first is not None
        assert threading.current_thread() not in threads
        assert torch.get_num_threads() == before
        feed(one, texts(A, range(7, 20)))
        one.wait()
        assert one.drafter is not first
        assert one._running is None

    def test_threads_that_come_later_are_not_limited(self) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            Worker().submit(lambda: None).result(30)
            seen: list[int] = []
            thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert seen == [2] == [torch.get_num_threads()]
        finally:
            torch.set_num_threads(before)

    def test_it_learns_what_it_learns_at_the_requests_end(self) -> None:
        """One update on the same texts gives the same weights, and the pool is pruned alike."""
        both = []
        for worker in (None, Worker()):
            one = learner(worker=worker, select=True, interval=8)
            feed(one, texts(A, range(8)))
            one.wait()
            both.append(one)
        assert same(both[0].trainee.kept, both[1].trainee.kept)
        assert [s.tokens.tolist() for s in both[0].buffer.old] == [
            s.tokens.tolist() for s in both[1].buffer.old
        ]

    def test_a_failure_there_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = learner(worker=Worker(), base=TestFailure().boom)
        feed(one, texts(A, range(8)))
        one.wait()
        assert one.facts.failed
        feed(one, texts(A, range(8)))


class TestDomains:
    def routed(self, domains: int) -> tuple[float, float]:
        """Acceptance on both topics after an even mixture of requests; tokens 0 to 7 begin A."""
        both = store(domains=domains, route=lambda prompt: "ab"[prompt[0] // 8], interval=6)
        for seed in range(150):
            for target, first in ((A, seed % 8), (B, 8 + seed % 8)):
                sample = text(target, seed, first=first)
                feed(both.of(sample.tokens.tolist()), [sample])
        held = [
            [text(target, seed, first=first + seed % 8, top=15) for seed in range(700, 712)]
            for target, first in ((A, 0), (B, 8))
        ]
        return tuple(
            both.of(samples[0].tokens.tolist()).trainee.acceptance(samples) for samples in held
        )

    def test_routed_drafters_beat_one_shared_of_the_same_size(self) -> None:
        """Check 6: the topics contradict each other, and all learn from the same requests."""
        shared, routed = self.routed(1), self.routed(2)
        assert np.mean(routed) > np.mean(shared) + 0.03

    def test_a_domain_starts_with_the_defaults_weights(self) -> None:
        both = store(domains=2, route=lambda prompt: "a" if prompt[0] else "")
        default = both.of([0])
        feed(default, texts(A, range(24)))
        one = both.of([5])
        assert one is not default
        assert (one.drafter, both.drafter(one)) == (None, default.drafter)
        one.add(texts(B, range(2)))
        one._finished = 99
        one.advance()
        assert one.drafter is not None
        start, now = default.trainee.weights, one.trainee.weights
        moved = [
            sum(float((a - b).norm()) for a, b in zip(origin, now, strict=True))
            for origin in (start, drafter().parameters())
        ]
        assert moved[0] < 0.5 * moved[1]

    def test_rows_are_shared_out(self) -> None:
        both = store(domains=3, route=lambda prompt: str(prompt[0]), max_rows=160)
        for seed in range(60):
            both.of([seed % 5]).add([text(A, seed)])
            assert len(both) <= 160
        assert len([name for name, _ in both]) == 4

    def test_shed(self) -> None:
        both = store()
        feed(both.of([1]), texts(A, range(8)))
        assert both.adapted
        both.shed()
        assert not both.adapted
        assert both.drafter(both.of([1])) is None
        feed(both.of([1]), texts(A, range(8)))
        assert both.adapted


class TestState:
    def learned(self, **values: object) -> object:
        both = store(domains=2, route=lambda prompt: "ab"[prompt[0] // 8], **values)
        for target, first in ((A, 1), (B, 9)):
            feed(both.of([first]), texts(target, range(16)))
        return both

    def test_weights_and_counts_go_through_json(self) -> None:
        one, twin = self.learned(), store(domains=2, route=lambda prompt: "ab"[prompt[0] // 8])
        state = json.loads(json.dumps(one.state()))
        twin.load(state)
        for (name, old), (other, new) in zip(one, twin, strict=True):
            assert name == other
            assert new.facts.kept == old.facts.kept > 0
            for a, b, start in zip(
                old.trainee.kept, new.trainee.kept, drafter().parameters(), strict=True
            ):
                torch.testing.assert_close(a - start, b - start, rtol=0.01, atol=1e-6)
            assert same(new.drafter, new.trainee.kept)
        assert len(twin) == 0, "texts are not saved"
        tokens = json.dumps(text(A, 3).tokens.tolist())
        assert tokens not in json.dumps(state)

    def test_the_size_is_bounded(self) -> None:
        whole = sum(map(len, self.learned().state()["domains"]["a"]["changes"]))
        one = self.learned(save_mb=1.5 * whole / 1e6)
        saved = [d["changes"] for d in one.state()["domains"].values()]
        assert sorted(map(bool, saved)) == [False, True]
        none = self.learned(save_mb=0.0).state()
        assert not any(d["changes"] for d in none["domains"].values())
        store(domains=2, route=lambda _: "a").load(none)

    def test_another_model_is_refused(self) -> None:
        from foretoken.learn.online.store import Learners

        other = Learners(options(), lambda: drafter(hidden=8), published, None)
        with pytest.raises(ArtifactError, match="another drafter model"):
            other.load(self.learned().state())

    def test_nobody_learned(self) -> None:
        one = store()
        one.of([1])
        state = one.state()
        assert state["base"] == ""
        store().load(json.loads(json.dumps(state)))
