"""`rest`: the draft is what brute force finds, its q is a probability, the text stays the target's."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny

from foretoken.draft.base import Context
from foretoken.draft.rest import Reading, Rest, match_class
from foretoken.draft.rest_store import ASSET
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.rest import build_store
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget

V, EOS = 12, 0
PLAIN_REST = {"back_off": False, "trust": 0.0, "shortest": 2}


def store(folder: Path, *texts: list[int], vocab: int = V) -> Path:
    build_store(folder / "made.store", map(np.array, texts), vocab, "")
    return folder / "made.store"


def rest(path: Path | None, assets: Path | None = None, **values: Any) -> Rest:
    return Rest(Rest.Options(store=path, **values), Context(V, (EOS,), "", assets))


def draft(drafter: Rest, tokens: list[int], *budget: Any) -> DraftTree:
    return drafter.propose(SimpleNamespace(tokens=tokens), Budget(*(budget or (64,))))


def paths(tree: DraftTree) -> dict[tuple[int, ...], float]:
    """Tokens from the root down -> joint probability."""
    return {
        tuple(tree.tokens[n] for n in tree.path(i)): joint for i, joint in enumerate(tree.joint)
    }


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    dice = random.Random(4)
    return [[dice.choice((1, 2, 3, 4, dice.randrange(V))) for _ in range(700)] for _ in range(3)]


@pytest.fixture(scope="module")
def path(texts, tmp_path_factory) -> Path:
    return store(tmp_path_factory.mktemp("rest"), *texts)


def brute(texts: list[list[int]], context: list[int], depth: int) -> tuple[int, Counter]:
    """(length of the longest known tail of 16 to 2 tokens, counts of the prefixes that follow)."""
    ends = [(text, end) for text in texts for end in range(1, len(text) + 1)]
    found = []
    for length in range(1, min(16, len(context)) + 1):
        ends = [(t, e) for t, e in ends if e >= length and t[e - length] == context[-length]]
        if not ends:
            break
        found.append(ends)
    if len(found) < 2:
        return 0, Counter()
    counts: Counter[tuple[int, ...]] = Counter()
    for text, end in found[-1]:
        for d in range(1, depth + 1):
            prefix = tuple(text[end : end + d])
            if len(prefix) == d and EOS not in prefix[:-1]:
                counts[prefix] += 1
    return len(found), Counter({p: c / len(found[-1]) for p, c in counts.items()})


def test_without_extras_it_is_rest(texts, path) -> None:
    """methods/rasd.md, check 1: longest tail, prefix counts; then the heap's order and its cut."""
    drafter, dice = rest(path, places=8192, **PLAIN_REST), random.Random(8)
    lengths = set()
    for i in range(200):
        text = dice.choice(texts)
        at = dice.randrange(3, 690)
        context = dice.choices(range(V), k=12) + text[max(0, at - dice.randrange(12)) : at]
        length, share = brute(texts, context, 10)
        want = sorted(share, key=lambda p: (-share[p], len(p), p[-1]))
        tree = draft(drafter, context, 10_000 if i % 2 else 24, 10)
        found = paths(tree)
        assert len(found) == len(tree) == min(len(want), 10_000 if i % 2 else 24)
        for prefix, joint in found.items():
            assert joint == pytest.approx(share[prefix])
        if i % 2 == 0 and want:  # what was left out is not likelier
            assert min(found.values()) >= share[want[len(found) - 1]] - 1e-12
        lengths.add(length)
        assert set(tree.evidence) <= {match_class(length)}
    assert len(lengths) > 4


def test_ties_go_to_the_shorter_then_to_the_smaller_token(tmp_path: Path) -> None:
    drafter = rest(store(tmp_path, [5, 6, 9, 1], [5, 6, 2, 3], [5, 6, 7, 8]), **PLAIN_REST)
    tree = draft(drafter, [5, 6], 5)
    assert list(paths(tree)) == [(2,), (7,), (9,), (9, 1), (2, 3)]


def test_a_continuation_ends_with_its_document_and_with_the_text(tmp_path: Path) -> None:
    drafter = rest(store(tmp_path, [5, 6, 1, 2], [5, 6, 3, EOS, 4], [7, 8]), **PLAIN_REST)
    assert set(paths(draft(drafter, [5, 6]))) == {(1,), (1, 2), (3,), (3, EOS)}
    assert not len(draft(drafter, [5, 7]))  # no tail of two is known
    assert not len(draft(drafter, [1, 2]))  # known, at a document's end only


def test_backing_off_fills_up_what_the_longest_tail_leaves_open(tmp_path: Path) -> None:
    """One place after (4, 5, 6), two more after (5, 6), one more after 6; trust 3."""
    where = store(tmp_path, [4, 5, 6, 1], [9, 5, 6, 2], [8, 5, 6, 1], [3, 6, 7])
    found = paths(draft(rest(where, trust=3.0), [4, 5, 6]))
    three, two, one = (3 / 3) ** 2, (3 / 2) ** 2, (3 / 1) ** 2
    open3 = three / (1 + three)
    open2 = open3 * two / (2 + two)
    assert found == pytest.approx({
        (1,): 1 / (1 + three) + open3 / (2 + two),
        (2,): open3 / (2 + two),
        (7,): open2 / (1 + one),
    })  # fmt: skip
    tree = draft(rest(where, trust=3.0), [4, 5, 6])
    assert dict(zip(tree.tokens, tree.evidence, strict=True)) == {
        1: match_class(3), 2: match_class(2), 7: match_class(1)
    }  # fmt: skip
    assert set(paths(draft(rest(where, trust=3.0, back_off=False), [4, 5, 6]))) == {(1,)}
    assert set(paths(draft(rest(where, trust=3.0, shortest=2), [4, 5, 6]))) == {(1,), (2,)}


def test_a_longer_match_is_trusted_more(tmp_path: Path) -> None:
    drafter = rest(store(tmp_path, [1, 2, 3, 4, 5, 6, 7, 8]), back_off=False)
    long, short = draft(drafter, [1, 2, 3]), draft(drafter, [9, 2, 3])
    assert long.q[0] > short.q[0]
    assert sorted(long.q) == list(long.q)  # it grows with what is drafted
    assert [match_class(n) for n in (1, 2, 3, 4, 5, 6, 8, 12, 16)] == [0, 1, 2, 3, 4, 5, 6, 7, 7]


@given(
    nodes=st.integers(0, 40), depth=st.integers(0, 6), least=st.sampled_from([0.0, 0.01, 0.2]),
    seed=st.integers(0, 40), back_off=st.booleans(), trust=st.sampled_from([0.0, 1.0, 12.0]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_laws_of_every_draft(path, nodes, depth, least, seed, back_off, trust) -> None:
    dice = random.Random(seed)
    context = dice.choices(range(1, 6), k=dice.randrange(1, 20))
    drafter = rest(path, back_off=back_off, trust=trust, places=dice.choice((1, 7, 128)))
    tree = draft(drafter, context, nodes, depth, least)
    assert tree == draft(drafter, context, nodes, depth, least)
    assert len(tree) <= nodes
    assert tree.depth <= depth
    assert all(joint >= least - 1e-9 for joint in tree.joint)
    assert all(a >= b - 1e-9 for a, b in zip(tree.joint, tree.joint[1:], strict=False))
    assert set(tree.evidence) <= set(range(8))
    for children in tree.children:
        assert sum(tree.q[child] for child in children) <= 1 + 1e-9
        assert len({tree.tokens[child] for child in children}) == len(children)
    assert all(not tree.children[i + 1] for i, t in enumerate(tree.tokens) if t == EOS)
    if nodes and len(tree) < nodes and not least:  # all of a draft that a larger budget gives
        assert len(draft(drafter, context, nodes + 1, depth)) == len(tree)


def test_q_is_how_often_it_happens(tmp_path: Path) -> None:
    """On text of the corpus's own kind: expected and actual accepted tokens within a fifth."""
    dice = random.Random(2)
    words = [dice.choices(range(1, V), k=dice.randrange(2, 7)) for _ in range(40)]

    def text(n: int) -> list[int]:
        out: list[int] = []
        while len(out) < n:
            out += words[int(40 * dice.random() ** 2)]
        return out

    drafter = rest(store(tmp_path, *(text(60) for _ in range(40))))
    expected, accepted = 0.0, 0
    for future in (text(300) for _ in range(3)):
        for at in range(20, 290):
            known = paths(draft(drafter, future[:at], 16))
            expected += sum(known.values())
            accepted += sum(tuple(future[at : at + d]) in known for d in range(1, 11))
    assert accepted > 400
    assert expected == pytest.approx(accepted, rel=0.2)


class TestWhereTheStoreIs:
    def test_without_one_nothing_is_drafted(self, tmp_path: Path) -> None:
        for assets in (None, tmp_path):
            drafter = rest(None, assets)
            assert draft(drafter, [1, 2, 3]) == EMPTY
            assert drafter.state() == {}

    def test_beside_the_model(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / ASSET).write_bytes(path.read_bytes())
        assert len(draft(rest(None, tmp_path), [1, 2, 3]))

    def test_a_named_one_must_be_there_and_fit(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="not a readable datastore"):
            rest(tmp_path / "none.store")
        other = Context(V, (), "another tokenizer")
        with pytest.raises(ArtifactError, match="foretoken train rest"):
            Rest(Rest.Options(store=path), other)
        with pytest.raises(ArtifactError, match=f"made for {V} tokens, the model has 8"):
            Rest(Rest.Options(store=path), replace(other, vocab=8, tokenizer_hash=""))

    def test_a_corrupt_one_is_refused_unless_trusted(self, path: Path, tmp_path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-200] ^= 1
        (tmp_path / "bad.store").write_bytes(data)
        with pytest.raises(ArtifactError, match="corrupt"):
            rest(tmp_path / "bad.store")
        rest(tmp_path / "bad.store", verify=False)

    def test_unknown_options_are_named(self) -> None:
        with pytest.raises(ConfigError, match=r"rest.chunk: 3 .* known options: store, verify"):
            Engine(tiny.target("small"), method="rest", options={"chunk": 3})


class TestTheText:
    """Whatever the datastore holds, the text is the target's own."""

    PROMPTS = [tiny.prompt(i, 6, 32) for i in range(8)]

    @pytest.fixture(scope="class")
    def expected(self) -> list[list[int]]:
        return tiny.generate("small", self.PROMPTS, 30)

    @pytest.mark.parametrize("method", ["rest", "rasd"])
    @pytest.mark.parametrize("what", ["random", "adversarial", "right"])
    def test_stays(self, what: str, method: str, tmp_path: Path, expected) -> None:
        dice = random.Random(1)
        right = [p + e for p, e in zip(self.PROMPTS, expected, strict=True)]
        held = {
            "random": [dice.choices(range(32), k=3000)],
            "adversarial": [
                [t[i - 2], t[i - 1], (t[i] + 1) % 32] for t in right for i in range(2, len(t))
            ],
            "right": right,
        }[what]
        target = tiny.target("small")
        options: dict[str, Any] = {"store": store(tmp_path, *held, vocab=32)}
        if method == "rasd":
            options |= {"model": tiny.small_model(32), "first_prob": 0.0, "depth": 2}
        engine = Engine(
            target, method=method, policy="fixed", options=options, policy_options={"nodes": 10},
            max_sessions=10,
        )  # fmt: skip
        done = engine.run([tiny.request(p, 30) for p in self.PROMPTS])
        assert [c.tokens for c in done] == expected
        assert sum(c.stats.drafted for c in done) > 150
        accepted = sum(c.stats.accepted for c in done)
        if what == "right":
            assert accepted > 160
        if what == "adversarial" and method == "rest":
            assert accepted < 120


def test_the_saved_state_is_json_and_empty(path: Path) -> None:
    drafter = rest(path)
    before = draft(drafter, [1, 2, 3])
    assert json.loads(json.dumps(drafter.state())) == {}
    drafter.load({})
    assert draft(drafter, [1, 2, 3]) == before
    assert Reading().unseen(12) == 1.0
