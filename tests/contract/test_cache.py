"""KVCache.keep as a state machine: after any moves, what is held equals a fresh prefill."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from foretoken.target.base import Job
from foretoken.target.cache import SlotCache
from foretoken.target.hf import HFTarget
from foretoken.tree import EMPTY, DraftTree
from tests import tiny

TREES = (
    EMPTY, DraftTree([3, 5, 7, 9, 11], [-1, -1, 0, 2, 1]), DraftTree.chain([4, 6, 8]),
    DraftTree([1, 2, 3, 4, 5, 6], [-1, -1, 1, 1, 3, 0]),
)  # fmt: skip


class Sessions(RuleBasedStateMachine):
    """Three sessions at most: open, score, keep, truncate, release, in any order."""

    @initialize()
    def start(self) -> None:
        self.target: HFTarget = tiny.fresh_target("small")
        self.open: list[tuple[SlotCache, list[int]]] = []

    @rule(
        seed=st.integers(0, 9), length=st.sampled_from([1, 2, 7]), capacity=st.sampled_from([4, 80])
    )
    def join(self, seed: int, length: int, capacity: int) -> None:
        if len(self.open) < 3:
            self.open.append((self.target.new_cache(capacity), tiny.prompt(seed, length, 32)))

    @rule(
        which=st.sets(st.integers(0, 2), min_size=1),
        tree=st.sampled_from(TREES),
        node=st.integers(-1, 5),
    )
    def step(self, which: set[int], tree: DraftTree, node: int) -> None:
        riders = [self.open[i] for i in sorted(which) if i < len(self.open)]
        path = tree.path(min(node, len(tree) - 1))
        if riders:
            self.target.score([Job(c, tokens[c.length :], tree) for c, tokens in riders])
        for cache, tokens in riders:
            cache.keep(path)
            tokens += [*(tree.tokens[i] for i in path), 20 + node]

    @rule(which=st.integers(0, 2), share=st.floats(0, 1))
    def truncate(self, which: int, share: float) -> None:
        if which < len(self.open):
            cache, tokens = self.open[which]
            cache.truncate(int(share * cache.length))
            del tokens[cache.length + 1 :]

    @rule(which=st.integers(0, 2))
    def release(self, which: int) -> None:
        if which < len(self.open):
            self.open.pop(which)[0].release()

    @invariant()
    def held_rows_are_a_fresh_prefill(self) -> None:
        for cache, tokens in getattr(self, "open", []):
            assert cache.length == 0 or cache.length == len(tokens) - 1
            assert cache.length <= cache.capacity
        slots = [cache.slot for cache, _ in getattr(self, "open", [])]
        assert sorted(slots) == list(range(len(slots))), "live slots are dense"

    def teardown(self) -> None:
        for cache, tokens in getattr(self, "open", []):
            (scores,) = self.target.score([Job(cache, tokens[cache.length :], EMPTY)])
            torch.testing.assert_close(
                scores.logits[0], tiny.plain_logits("small", tokens)[-1], atol=2e-5, rtol=1e-4
            )


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=25, stateful_step_count=12, derandomize=True, deadline=None
)


def test_truncate_refuses_what_is_not_held() -> None:
    cache = tiny.target("small").new_cache(8)
    with pytest.raises(ValueError, match="truncate"):
        cache.truncate(1)
    with pytest.raises(ValueError, match="truncate"):
        cache.truncate(-1)
    cache.release()


def test_another_targets_cache_is_refused() -> None:
    from foretoken.target.base import NoCache

    with pytest.raises(TypeError, match="another target"):
        tiny.target("small").score([Job(NoCache(4), [1], EMPTY)])
