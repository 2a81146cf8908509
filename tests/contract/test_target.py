"""The laws of `foretoken.target.base` over every supported family; the reference is a plain forward.

Each node's logits equal a plain forward of its path; after `keep`, going on equals a fresh prefill;
whoever else rides along, wherever the slots move, however the pool grows; and whether a draft is
scored at once or grown in several calls.
"""

import copy
import random
from collections.abc import Sequence

import pytest
import torch

from foretoken.target.base import Job, KVCache, Target
from foretoken.target.compiled import CompiledTarget
from foretoken.target.hf import HFTarget
from foretoken.target.shapes import Shapes
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Scores
from tests import tiny

TOLERANCE = 2e-5  # float32, logits of size 1 to 10
TREE = DraftTree([3, 5, 7, 9, 11], [-1, -1, 0, 2, 1])
CHAIN = DraftTree([4, 6, 8], [-1, 0, 1])
WIDE = DraftTree([10, 12, 14, 16], [-1, -1, -1, -1])


class Rider:
    """One session by hand: its committed tokens, its cache, and the check of what it is told."""

    def __init__(self, target: HFTarget, tokens: Sequence[int], capacity: int = 64) -> None:
        self.target, self.tokens = target, list(tokens)
        self.cache = target.new_cache(capacity)

    def job(self, tree: DraftTree) -> Job:
        return Job(self.cache, self.tokens[self.cache.length :], tree)

    def check(self, tree: DraftTree, scores: Scores) -> None:
        assert scores.logits.shape == (len(tree) + 1, self.target.vocab)
        leaves = [-1, *range(len(tree))]
        for leaf in [i for i in leaves if not tree.children[i + 1]]:
            path = tree.path(leaf)
            plain = tiny.plain_logits(
                self.target.name, [*self.tokens, *(tree.tokens[i] for i in path)]
            )
            rows = [0, *(i + 1 for i in path)]
            torch.testing.assert_close(
                scores.logits[rows], plain[len(self.tokens) - 1 :], atol=TOLERANCE, rtol=1e-4
            )

    def keep(self, tree: DraftTree, path: Sequence[int], bonus: int) -> None:
        before = len(self.tokens)
        self.cache.keep(path)
        self.tokens += [*(tree.tokens[i] for i in path), bonus]
        assert self.cache.length == len(self.tokens) - 1 == before + len(path)


def forward(target: HFTarget, moves: Sequence[tuple[Rider, DraftTree, Sequence[int]]]) -> None:
    """Score, check every row against plain forwards, keep a path and a bonus of each."""
    lengths = [rider.cache.length for rider, _, _ in moves]
    scores = target.score([rider.job(tree) for rider, tree, _ in moves])
    assert [rider.cache.length for rider, _, _ in moves] == lengths, "score must change no length"
    for (rider, tree, _), found in zip(moves, scores, strict=True):
        rider.check(tree, found)
    for i, (rider, tree, path) in enumerate(moves):
        rider.keep(tree, path, 20 + i)


Growing = tuple[Rider, DraftTree, Sequence[int | None], Sequence[int]]


def grow(target: HFTarget, moves: Sequence[Growing]) -> list[torch.Tensor]:
    """Score drafts over several calls; afterwards check and keep as `forward` does.

    A move: rider, tree, the tree's nodes after each call that the rider is in (None: it sits that
    one out), path. Gives every rider's rows.
    """
    found: list[list[torch.Tensor]] = [[] for _ in moves]
    done: list[int | None] = [None] * len(moves)
    for call in range(max(len(counts) for _, _, counts, _ in moves)):
        jobs: dict[int, Job] = {}
        for i, (rider, tree, counts, _) in enumerate(moves):
            count = counts[call] if call < len(counts) else None
            if count is not None:
                fresh = rider.tokens[rider.cache.length :] if done[i] is None else []
                jobs[i] = Job(rider.cache, fresh, tree.first(count), done[i] or 0)
                done[i] = count
        for i, scores in zip(jobs, target.score(list(jobs.values())), strict=True):
            assert len(scores.logits) == len(jobs[i].tree) - jobs[i].scored + bool(jobs[i].fresh)
            found[i].append(scores.logits)
    rows = [torch.cat(parts) for parts in found]
    for i, (rider, tree, _, path) in enumerate(moves):
        rider.check(tree, Scores(rows[i]))
        rider.keep(tree, path, 20 + i)
    return rows


@pytest.fixture(params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest) -> HFTarget:
    return tiny.target(request.param)


def test_is_a_target(family: HFTarget) -> None:
    assert isinstance(family, Target)
    assert family.vocab == tiny.VOCAB
    cache = family.new_cache(10)
    assert isinstance(cache, KVCache)
    assert cache.capacity >= 10
    cache.release()
    cache.release()


def test_tree_rows_and_going_on(family: HFTarget) -> None:
    """Alone: prompt with a tree, a branch that jumps rows, a rejected draft, no draft, a chain."""
    rider = Rider(family, tiny.prompt(1, 13))
    for tree, path in ((TREE, [0, 2, 3]), (TREE, [1, 4]), (TREE, []), (EMPTY, []), (CHAIN, [0, 1])):
        forward(family, [(rider, tree, path)])
    rider.cache.release()


def test_company_joins_leaves_and_moves(family: HFTarget) -> None:
    """Own lengths and trees; one joins while others run; the first leaves; slots are swapped."""
    a = Rider(family, tiny.prompt(1, 13))
    b = Rider(family, tiny.prompt(2, 6))
    forward(family, [(a, TREE, [0, 2]), (b, CHAIN, [0])])
    c = Rider(family, tiny.prompt(3, 9))
    forward(family, [(c, WIDE, [2]), (b, TREE, [1, 4]), (a, EMPTY, [])])
    forward(family, [(a, CHAIN, [0, 1, 2]), (c, TREE, [])])  # not side by side: b makes room
    a.cache.release()
    forward(family, [(b, WIDE, [3]), (c, CHAIN, [0])])
    d = Rider(family, [7])  # a prompt of one token rides with the others from its first step
    forward(family, [(d, TREE, [0, 2]), (b, TREE, [0]), (c, EMPTY, [])])
    for rider in (b, c, d):
        rider.cache.release()


def test_truncate_then_going_on(family: HFTarget) -> None:
    rider = Rider(family, tiny.prompt(4, 12))
    forward(family, [(rider, TREE, [0, 2, 3])])
    rider.cache.truncate(5)
    rider.tokens = [*rider.tokens[:5], 30, 31]
    forward(family, [(rider, TREE, [1])])
    rider.cache.release()


def test_long_prompt_is_read_in_pieces(family: HFTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "shapes", Shapes(chunk=5))
    a, b = Rider(family, tiny.prompt(5, 23)), Rider(family, tiny.prompt(6, 10))
    forward(family, [(a, TREE, [0, 2]), (b, CHAIN, [0])])
    forward(family, [(a, CHAIN, [0]), (b, TREE, [1, 4])])
    a.cache.release()
    b.cache.release()


def test_rounded_row_counts(family: HFTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded rows change nothing: prompts, trees, in company and alone."""
    monkeypatch.setattr(family, "shapes", Shapes(buckets=(1, 4, 9, 16), chunk=16))
    a, b = Rider(family, tiny.prompt(5, 23)), Rider(family, tiny.prompt(6, 10))
    forward(family, [(a, TREE, [0, 2])])
    forward(family, [(a, EMPTY, []), (b, CHAIN, [0])])
    grow(family, [(a, TREE, (0, 2, 3, 5), [1, 4])])
    forward(family, [(b, WIDE, [3])])
    a.cache.release()
    b.cache.release()


@pytest.mark.parametrize("compiled", [False, True])
def test_hidden_states_are_those_of_the_rows(compiled: bool) -> None:
    """Of padded rows none: the output layer gives the logits from them."""
    model = copy.deepcopy(tiny.model("llama"))
    target = CompiledTarget(model, "llama", graphs=False) if compiled else HFTarget(model, "llama")
    if compiled:
        target._compiled = target._static  # the same code without the compiler's seconds
    target.shapes = Shapes(buckets=(1, 5, 16), chunk=16)
    target.watch_hidden()
    a, b = Rider(target, tiny.prompt(1, 3)), Rider(target, tiny.prompt(2, 9))
    for jobs in ([a.job(EMPTY)], [b.job(TREE)]):
        for scores in target.score(jobs):
            assert len(scores.hidden["final"]) == len(scores.logits)
            with torch.inference_mode():
                again = model.get_output_embeddings()(scores.hidden["final"])
            torch.testing.assert_close(again, scores.logits)
    a.cache.release()
    b.cache.release()


def test_a_draft_grows_node_by_node(family: HFTarget) -> None:
    """From the root's row or with it, level by level or not, with every kind of path kept."""
    rider = Rider(family, tiny.prompt(1, 13))
    grow(family, [(rider, TREE, (0, 2, 3, 4, 5), [0, 2, 3])])
    grow(family, [(rider, TREE, (2, 4, 5), [1, 4])])
    grow(family, [(rider, WIDE, (1, 4), [])])
    grow(family, [(rider, CHAIN, (1, 2, 3), [0, 1, 2])])
    forward(family, [(rider, TREE, [0])])
    rider.cache.release()


def test_drafts_grow_in_company(family: HFTarget) -> None:
    """At different levels, beside a prompt that is read, plain jobs and sessions that sit it out."""
    a, b = Rider(family, tiny.prompt(1, 13)), Rider(family, tiny.prompt(2, 3))
    c, d = Rider(family, tiny.prompt(3, 9)), Rider(family, [7])
    late, last = (None, None, 4), (None, None, None, 5)
    grow(family, [(a, TREE, (0, 2, 3, 5), [0, 2]), (b, CHAIN, (1, 2, 3), [0, 1, 2]),
                  (c, WIDE, late, [3]), (d, TREE, last, [1, 4])])  # fmt: skip
    grow(family, [(d, TREE, (0, None, 2, 5), [0, 2, 3]), (a, EMPTY, (0,), []),
                  (c, TREE, (None, 2, 5), [1]), (b, WIDE, (None, 0, 1, 4), [1])])  # fmt: skip
    forward(family, [(a, CHAIN, [0]), (b, TREE, [0, 2]), (c, WIDE, []), (d, CHAIN, [0, 1, 2])])
    for rider in (a, b, c, d):
        rider.cache.release()


class TestGrowth:
    """What may happen between two levels."""

    def test_the_root_may_be_kept_first(self) -> None:
        target = tiny.fresh_target("mistral")
        rider = Rider(target, tiny.prompt(1, 13))
        root = target.score([rider.job(EMPTY)])[0].logits
        rider.cache.keep(())
        first = target.score([Job(rider.cache, [], TREE.first(2))])[0].logits
        others = target.score([Job(rider.cache, [], TREE, 2)])[0].logits
        rider.check(TREE, Scores(torch.cat([root, first, others])))
        rider.keep(TREE, [0, 2, 3], 20)
        forward(target, [(rider, CHAIN, [0])])

    def test_slots_move_and_memory_grows(self) -> None:
        """Another session leaves (its slot is filled with the grown one), a large one joins."""
        target = tiny.fresh_target("llama")
        a, b, c = (Rider(target, tiny.prompt(i, 9), capacity=20) for i in range(3))
        forward(target, [(a, EMPTY, []), (b, EMPTY, []), (c, EMPTY, [])])
        rows = [target.score([c.job(TREE.first(2))])[0].logits]
        a.cache.release()
        d = Rider(target, tiny.prompt(4, 30), capacity=target.pool.rows + 50)
        rows.append(target.score([Job(c.cache, [], TREE.first(3), 2), d.job(CHAIN)])[0].logits)
        d.keep(CHAIN, [], 20)
        rows.append(target.score([d.job(EMPTY), Job(c.cache, [], TREE, 3)])[1].logits)
        c.check(TREE, Scores(torch.cat(rows)))
        c.keep(TREE, [0, 2, 3], 20)
        forward(target, [(c, CHAIN, [0]), (b, TREE, [1, 4])])

    def test_a_prompt_read_in_pieces(self) -> None:
        target = tiny.fresh_target("llama")
        target.shapes = Shapes(chunk=5)
        a, b = Rider(target, tiny.prompt(5, 23)), Rider(target, tiny.prompt(6, 10))
        grow(target, [(a, TREE, (0, 2, 5), [0, 2]), (b, CHAIN, (None, 1, 3), [0])])

    def test_the_bits_are_those_of_the_whole_tree(self) -> None:
        target = tiny.fresh_target("llama", "bitwise")
        a, b = Rider(target, tiny.prompt(1, 13)), Rider(target, tiny.prompt(1, 13))
        (grown,) = grow(target, [(a, TREE, (0, 2, 3, 5), [0, 2])])
        (whole,) = grow(target, [(b, TREE, (5,), [0, 2])])
        assert torch.equal(grown, whole)

    def test_in_static_shapes(self) -> None:
        """As compiled forwards run: padded rows and columns, places in tensors."""
        model = copy.deepcopy(tiny.model("mistral"))
        target = CompiledTarget(model, "mistral", graphs=False)
        target._compiled = target._static  # the same code without the compiler's seconds
        a, b = Rider(target, tiny.prompt(1, 13)), Rider(target, tiny.prompt(2, 3))
        grow(target, [(a, TREE, (0, 2, 3, 5), [0, 2]), (b, CHAIN, (1, 2, 3), [0])])
        grow(target, [(a, TREE, (2, 5), [1])])
        forward(target, [(a, CHAIN, [0]), (b, TREE, [0, 2])])

    def test_it_grows_from_where_it_ended(self) -> None:
        target = tiny.target("llama")
        rider = Rider(target, tiny.prompt(1, 6))
        target.score([rider.job(TREE.first(2))])
        for wrong in (Job(rider.cache, [], TREE, 3), Job(rider.cache, [1], TREE, 2)):
            with pytest.raises(ValueError, match="where the call before it ended"):
                target.score([wrong])
        rider.cache.release()


class TestLlama:
    """What does not depend on the family: memory and slots."""

    def test_pool_grows_in_slots_and_rows(self) -> None:
        target = tiny.fresh_target("llama")
        a = Rider(target, tiny.prompt(1, 13), capacity=20)
        forward(target, [(a, TREE, [0, 2])])
        rows = target.pool.rows
        b = Rider(target, tiny.prompt(2, 50), capacity=rows + 100)
        assert target.pool.rows > rows
        c = Rider(target, tiny.prompt(3, 7))
        forward(target, [(a, TREE, [1]), (b, TREE, [0]), (c, CHAIN, [0])])
        forward(target, [(a, TREE, [1]), (b, TREE, [0]), (c, CHAIN, [0])])

    def test_padding_beyond_capacity(self) -> None:
        """A short draft padded to its neighbour's length needs rows beyond its own capacity."""
        target = tiny.fresh_target("llama")
        a = Rider(target, tiny.prompt(1, 60), capacity=64)
        b = Rider(target, tiny.prompt(2, 4), capacity=64)
        big = DraftTree([i % 97 for i in range(40)], [-1] * 40)
        forward(target, [(a, EMPTY, []), (b, EMPTY, [])])
        forward(target, [(a, EMPTY, []), (b, big, [3])])
        forward(target, [(a, CHAIN, [0]), (b, TREE, [0, 2])])

    def test_growth_in_the_forward_that_a_prompt_was_read_for(self) -> None:
        """Prompts are read before the joint forward; its growth must not lose their rows."""
        target = tiny.fresh_target("llama")
        a, b = (Rider(target, tiny.prompt(i, n), 64) for i, n in ((1, 60), (2, 4)))
        forward(target, [(a, EMPTY, []), (b, EMPTY, [])])
        c = Rider(target, tiny.prompt(3, 9), 64)
        big = DraftTree([i % 97 for i in range(40)], [-1] * 40)
        forward(target, [(c, TREE, [0, 2]), (a, EMPTY, []), (b, big, [3])])
        forward(target, [(c, TREE, [0, 2]), (a, CHAIN, [0]), (b, CHAIN, [0])])

    def test_growth_while_a_prompt_is_read_in_pieces(self) -> None:
        target = tiny.fresh_target("llama")
        target.shapes = Shapes(chunk=30)
        a = Rider(target, tiny.prompt(1, 100), capacity=10)  # asks for too little memory
        forward(target, [(a, TREE, [0, 2])])
        forward(target, [(a, TREE, [1])])

    def test_swap_in_the_forward_that_a_prompt_was_read_for(self) -> None:
        """b's prompt lies between the slots of a and c, which have one token each and ride."""
        target = tiny.fresh_target("llama")
        a, b, c = Rider(target, [5]), Rider(target, tiny.prompt(2, 9)), Rider(target, [6])
        forward(target, [(a, TREE, [0, 2]), (b, TREE, [1, 4]), (c, CHAIN, [0])])
        forward(target, [(a, EMPTY, []), (b, TREE, [0]), (c, CHAIN, [0])])

    def test_random_traffic(self) -> None:
        """30 random moves of up to 5 sessions: join, score some of them, leave."""
        target, dice = tiny.fresh_target("llama"), random.Random(3)
        riders: list[Rider] = []
        for _ in range(30):
            if len(riders) < 5 and dice.random() < 0.5:
                n = dice.choice([1, 2, 5, 17])
                riders.append(
                    Rider(target, tiny.prompt(dice.randrange(99), n), dice.choice([8, 99]))
                )
            if riders and dice.random() < 0.2:
                riders.pop(dice.randrange(len(riders))).cache.release()
            some = dice.sample(riders, dice.randint(0, len(riders)))
            trees = [random_tree(dice) for _ in some]
            if some:
                paths = [tree.path(dice.randrange(-1, len(tree))) for tree in trees]
                forward(target, list(zip(some, trees, paths, strict=True)))
        assert target.pool.nbytes > 0


def random_tree(dice: random.Random) -> DraftTree:
    """Up to 6 nodes, each below a random earlier one."""
    n = dice.randint(0, 6)
    return DraftTree(
        [dice.randrange(tiny.VOCAB) for _ in range(n)], [dice.randrange(-1, i) for i in range(n)]
    )
