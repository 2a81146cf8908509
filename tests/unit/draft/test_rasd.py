"""`rasd`: fusion, gates and cut by hand; then what it is for, with the bundled pair of models."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny

from foretoken.draft.ngram_index import NgramIndex
from foretoken.draft.rasd import LONGEST, Rasd, match
from foretoken.draft.rasd_fusion import SURE, cut, fuse, gate
from foretoken.draft.rest import match_class
from foretoken.engine.build import options
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.rest import build_store
from foretoken.prompt.samples import demo_model
from foretoken.target.load import load
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Limits, Request, Sampling
from foretoken.verify.forced import Forced

EVERY = Budget(1 << 20)
Path_ = tuple[int, ...]


def paths(tree: DraftTree) -> dict[Path_, float]:
    """Tokens from the root down -> joint probability; fails for a node that is there twice."""
    found = [
        (tuple(tree.tokens[n] for n in tree.path(i)), joint) for i, joint in enumerate(tree.joint)
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def some_tree(seed: int, nodes: int, retrieved: bool = False) -> DraftTree:
    """A random tree of few tokens, siblings distinct, whose q sum to less than 1."""
    dice = random.Random(seed)
    tokens: list[int] = []
    parents: list[int] = []
    q: list[float] = []
    left: dict[int, float] = {}
    for _ in range(nodes):
        parent, token = dice.randrange(-1, len(tokens)), dice.randrange(5)
        if (parent, token) in set(zip(parents, tokens, strict=True)):
            continue
        share = left.setdefault(parent, 1.0) * dice.uniform(0.1, 0.9)
        left[parent] -= share
        tokens.append(token)
        parents.append(parent)
        q.append(share)
    evidence = [dice.randrange(8) for _ in tokens] if retrieved else ()
    return DraftTree(tokens, parents, q, evidence=evidence)


def everything(draft: DraftTree, *retrieved: DraftTree, weight: float = 0.5) -> DraftTree:
    """Fused with nothing pruned. The model knows no first token that it did not draft."""
    first = dict.fromkeys(range(5), 0.0)
    return cut(fuse(draft, retrieved, first, weight), EVERY, 1 << 20, 0.0)


seeds = st.integers(0, 10_000)


class TestFusion:
    @given(seeds, seeds, st.integers(0, 25), st.integers(0, 25))
    @settings(max_examples=80, deadline=None)
    def test_every_node_of_both_once(self, one: int, two: int, n: int, m: int) -> None:
        """methods/rasd.md, checks 2 and 3: nothing is dropped where nothing is to be."""
        draft, found = some_tree(one, n), some_tree(two, m, retrieved=True)
        tree = everything(draft, found)
        assert set(paths(tree)) == set(paths(draft)) | set(paths(found))
        again = everything(draft, found, found)
        assert set(paths(again)) == set(paths(tree))
        mask = tree.mask()
        for i in range(len(tree)):
            assert np.flatnonzero(mask[i + 1]).tolist() == [0, *(n + 1 for n in tree.path(i))]

    @given(seeds, seeds, st.sampled_from([0.0, 0.3, 1.0]))
    @settings(max_examples=80, deadline=None)
    def test_q_stays_a_probability(self, one: int, two: int, weight: float) -> None:
        tree = everything(some_tree(one, 20), some_tree(two, 20, retrieved=True), weight=weight)
        for children in tree.children:
            assert sum(tree.q[child] for child in children) <= 1 + 1e-9
        assert all(a >= b - 1e-9 for a, b in zip(tree.joint, tree.joint[1:], strict=False))

    def test_nothing_retrieved_gives_the_models_tree(self) -> None:
        draft = some_tree(3, 20)
        assert paths(everything(draft)) == pytest.approx(paths(draft))
        assert paths(everything(draft, EMPTY)) == pytest.approx(paths(draft))

    def test_by_hand(self) -> None:
        draft = DraftTree([1, 2, 3], [-1, -1, 0], [0.5, 0.25, 0.5])
        found = DraftTree([1, 4, 4, 2], [-1, -1, 0, 2], [0.6, 0.2, 0.5, 0.9], evidence=[6, 1, 6, 6])
        tree = everything(draft, found, weight=0.5)
        one = 0.5 * 0.6 + 0.6 * 0.5  # w r + (1 - w R) q, with R = 0.8
        below = 0.5 * 0.5  # (1, 4): the model has children there, none of them 4
        assert paths(tree) == pytest.approx({
            (1,): one, (2,): 0.6 * 0.25, (4,): 0.5 * 0.2,
            (1, 3): one * (1 - 0.25) * 0.5, (1, 4): one * below, (1, 4, 2): one * below * 0.9,
        })  # fmt: skip
        kinds = dict(zip(paths(tree), tree.evidence, strict=True))
        assert kinds == {(1,): 2, (2,): 0, (4,): 4, (1, 3): 0, (1, 4): 6, (1, 4, 2): 6}

    def test_what_was_not_let_in_takes_its_subtree_along(self) -> None:
        found = DraftTree([1, 2, 4], [-1, 0, -1], [0.5, 0.5, 0.3], evidence=[6, 6, 6])
        trie = fuse(EMPTY, [found], {4: 0.1}, 0.5)
        assert trie.tokens == [4]
        assert trie.joint == pytest.approx([0.5 * 0.3 + (1 - 0.5 * 0.3) * 0.1])


class TestGate:
    ROW = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01]).log()

    @staticmethod
    def chain(token: int, length: int = 2) -> DraftTree:
        return DraftTree([token, 0], [-1, 0], [0.5, 0.5], evidence=[match_class(length)] * 2)

    def test_who_passes(self) -> None:
        found = [self.chain(token) for token in range(5)]
        assert gate(self.ROW, [], 5, 0.0) == {}
        assert list(gate(self.ROW, found, 2, 1.0)) == [0, 1]
        assert list(gate(self.ROW, found, 0, 0.1)) == [0, 1, 2]
        assert list(gate(self.ROW, found, 0, 1.0)) == []
        assert gate(self.ROW, found, 99, 0.0) == pytest.approx(
            {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.04, 4: 0.01}
        )

    def test_a_long_match_passes_anyway(self) -> None:
        assert list(gate(self.ROW, [self.chain(4, 8)], 1, 1.0)) == [4]
        assert list(gate(self.ROW, [self.chain(4, 7)], 1, 1.0)) == []
        assert match_class(8) == SURE

    def test_what_the_row_rules_out_is_not_among_the_likeliest(self) -> None:
        row = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]).log()
        assert list(gate(row, [self.chain(3), self.chain(0)], 5, 0.01)) == [0]


class TestCut:
    @given(seeds, seeds)
    @settings(max_examples=50, deadline=None)
    def test_stricter_keeps_less(self, one: int, two: int) -> None:
        """methods/rasd.md, check 3."""
        first = dict.fromkeys(range(5), 0.1)
        trie = fuse(some_tree(one, 15), [some_tree(two, 25, retrieved=True)], first, 0.5)
        before = None
        for least in (0.0, 0.01, 0.05, 0.2, 0.9):
            tree = cut(trie, EVERY, 1 << 20, least)
            found = zip(tree.evidence, tree.joint, strict=True)
            assert all(joint >= least for kind, joint in found if kind > 2)
            kept = set(paths(tree))
            assert before is None or kept <= before
            before = kept
        before = None
        for most in (20, 5, 1, 0):
            kept = set(paths(cut(trie, EVERY, most, 0.0)))
            assert before is None or kept <= before
            before = kept
        own = cut(trie, EVERY, 0, 0.0)
        assert len(own) == trie.drafted  # the model's nodes all stay
        assert set(own.evidence) <= {0, 1, 2}
        for nodes in (0, 1, 7):
            small = cut(trie, Budget(nodes, min_prob=0.02), 1 << 20, 0.0)
            assert len(small) <= nodes
            assert all(joint >= 0.02 for joint in small.joint)


class TestTheTextItself:
    def test_the_match_is_as_long_as_the_text_agrees(self) -> None:
        dice = random.Random(1)
        once = dice.choices(range(1000), k=60)
        for n in (2, 5, 8, 11, 16, 25):
            tokens = [*once, 1001, *once[30 - n : 30]]
            index = NgramIndex(8, 2)
            assert match(index, tokens) == (min(n, LONGEST), 30)
        assert match(NgramIndex(8, 2), [1, 2, 3]) == (0, 0)
        assert match(NgramIndex(8, 2), [7] * 30)[0] == LONGEST
        assert match(NgramIndex(8, 2), [5, 6, 5, 6]) == (2, 2)  # the text begins there


def rasd(**values: Any) -> Rasd:
    values = {"model": tiny.small_model(32), **values}
    return Rasd(options(Rasd.Options, values, "rasd"), tiny.context(32))


class TestInAnEngine:
    @pytest.fixture
    def begun(self) -> Any:
        """A session in its first step, begun by hand."""
        held = []

        def begin(drafter: Rasd, tokens: list[int], sampling: Sampling | None = None) -> Any:
            engine = Engine(tiny.target("small"), method="plain")
            method = engine.use(drafter, "fixed", None, None, {"nodes": 12})
            session = engine.add(tiny.request(tokens, 30, sampling), method)
            drafter.begin(session)
            held.append((engine, session))
            return session

        yield begin
        for engine, session in held:
            session.drafter.end(session)
            assert not [name for name in session.memo if name.startswith("rasd")]
            engine.cancel(session)

    def test_it_reaches_deeper_than_the_model_is_run(self, begun) -> None:
        tokens = [*range(3, 28), *range(3, 14)]  # a match of 11 tokens: it passes every gate
        deep = rasd(depth=2, first_prob=1.0, first_k=0)
        session = begun(deep, tokens)
        tree = deep.propose(session, Budget(20))
        copied = tuple(range(14, 24))
        assert copied in paths(tree)
        assert tree.depth == 10
        assert tree.evidence[tree.path(paths_index(tree, copied))[-1]] == 6
        again = deep.propose(session, Budget(20))  # the root's row alone is read: other rounding
        assert paths(again) == pytest.approx(paths(tree), rel=1e-5)
        assert deep.propose(session, Budget(20, depth=4)).depth == 4
        shy = rasd(depth=2, retrieved=0)
        session = begun(shy, tokens)
        assert shy.propose(session, Budget(20)).depth == 2

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_without_retrieval_it_is_the_models_tree(self, temperature: float, begun) -> None:
        from foretoken.draft.lm_top_k import LmTopK

        tokens = tiny.prompt(3, 9, 32)
        sampling = Sampling(temperature=temperature, top_k=7)
        fused, model = rasd(retrieved=0, weight=0.0), {"model": tiny.small_model(32)}
        plain = LmTopK(options(LmTopK.Options, model, "lm-top-k"), tiny.context(32))
        session = begun(fused, tokens, sampling)
        tree = fused.propose(session, Budget(12))
        want = plain.propose(session, Budget(12))
        plain.end(session)
        assert paths(tree) == pytest.approx(paths(want), rel=1e-5)

    def test_corpus_and_text_both_speak(self, tmp_path: Path, begun) -> None:
        build_store(tmp_path / "s", [np.array([1, 2, 3, 4, 20, 21, 22, 23])], 32, "")
        both = rasd(store=tmp_path / "s")
        session = begun(both, [3, 4, 9, 9, 9, 2, 3, 4])
        corpus, text = both.retrieve(session, Budget(16))
        assert list(corpus.tokens[:4]) == [20, 21, 22, 23]
        assert (text.tokens[0], text.q[0]) == (9, 2 / (2 + 3))
        assert text.q[1] == 3 / (3 + 3)
        assert set(text.evidence) == {match_class(2)}

    def test_bad_input(self, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"rasd.theta: 1 .* known options: model, domain, depth"
        ):
            rasd(theta=1)
        with pytest.raises(ConfigError, match=r"rasd.model: None"):
            rasd(model=None)
        (tmp_path / "s").write_text("nothing of ours")
        with pytest.raises(ArtifactError, match="not a datastore"):
            rasd(store=tmp_path / "s")


def paths_index(tree: DraftTree, path: Path_) -> int:
    return list(paths(tree)).index(path)


class TestWhatItIsFor:
    """methods/rasd.md, check 6, on the bundled models: as good as the better of its two parts."""

    @pytest.fixture(scope="class")
    def engine(self) -> Engine:
        loaded = load(str(demo_model()), dtype="float32", device="cpu")
        return Engine(loaded.target, loaded.tokenizer, method="plain", assets=demo_model())

    @staticmethod
    def tokens_per_step(
        engine: Engine, name: str, tasks: list[tuple[list[int], list[int]]]
    ) -> float:
        """Following given texts, 24 nodes a step."""
        method = engine.use(name, "fixed", None, None, {"nodes": 24})
        steps = written = 0
        for prompt, text in tasks:
            forced = Forced([*prompt, *text])
            limits = Limits(max_new_tokens=len(text), ignore_eos=True)
            request = Request(prompt, Sampling(), limits)
            done = engine.run([request], type(method)(name, method.drafter, method.policy, forced))
            steps += done[0].stats.steps
            written += done[0].stats.tokens
        return written / steps

    @staticmethod
    def novel(seed: int, n: int) -> list[int]:
        """Text that no model knows."""
        return random.Random(seed).choices(range(300, 4000), k=n)

    def test_copies_and_novel_text(self, engine: Engine) -> None:
        written = [(self.novel(1, 40), self.novel(2, 10))]
        code = engine.tokenizer.encode("def add(left, right):\n    return left + right\n")
        cases = {
            "copy": [(one + other + one[:8], one[8:]) for one, other in written],
            "code again": [(code + self.novel(9, 3) + code[:4], code[4:])],
            "novel": [(one, other) for one, other in written],
            "code": [(code[:6], code[6:])],
        }
        for tasks in cases.values():
            fused, model, copied = (
                self.tokens_per_step(engine, name, tasks)
                for name in ("rasd", "lm-top-k", "prompt-lookup")
            )
            assert fused >= max(model, copied) - 0.05
            assert math.isfinite(fused)
