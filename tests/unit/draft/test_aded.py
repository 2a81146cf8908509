"""ADED: search, learning, scopes. The numbered checks are those of methods/aded.md, section 9."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken.draft import aded_mcts
from foretoken.draft.aded import ASSET, Aded
from foretoken.draft.aded_store import Store
from foretoken.draft.base import Context
from foretoken.draft.best_first import best_first
from foretoken.draft.ngram_index import NgramIndex
from foretoken.draft.trigram_table import NO_ROW
from foretoken.engine.unseen import show_unseen
from foretoken.errors import ArtifactError
from foretoken.learn.trigram import TrigramBuilder
from foretoken.tree import EMPTY
from foretoken.types import Budget, Committed, Request, Scores, Step, Verdict

V = 12


def drafter(assets=None, vocab=V, **options):
    return Aded(Aded.Options(**options), Context(vocab, (0,), "h", assets))


def session(tokens, index=0, tenant=""):
    request = Request(list(tokens), tenant=tenant)
    return SimpleNamespace(
        tokens=list(tokens), request=request, memo={}, index=index, n_prompt=len(tokens)
    )


def table(folder, *texts, vocab=V):
    builder = TrigramBuilder(folder / "work", vocab)
    for text in texts:
        builder.add(np.array(text))
    builder.finish(folder / ASSET, "h")
    return folder


def walk(tree, future):
    path, at = [], -1
    for token in future:
        at = next((c for c in tree.children[at + 1] if tree.tokens[c] == token), None)
        if at is None:
            break
        path.append(at)
    return path


def advance(aded, s, future, nodes=16, sharpness=20.0, vocab=V):
    """One step whose target is sure of `future`; returns how many drafts stood."""
    tree = aded.propose(s, Budget(nodes))
    path = walk(tree, future[:-1])
    logits = torch.zeros(len(tree) + 1, vocab)
    for depth, row in enumerate([0, *(i + 1 for i in path)]):
        logits[row, future[depth]] = sharpness
    bonus = future[len(path)]
    new = [tree.tokens[i] for i in path] + [bonus]
    committed = Committed(new, [0, *(i + 1 for i in path)], len(path), None)
    context = len(s.tokens)
    s.tokens += new
    step = Step(
        context,
        Budget(nodes),
        tree,
        Scores(logits),
        Verdict(tuple(path), bonus),
        committed,
        {},
        1,
        len(tree) + 1,
    )
    aded.observe(s, step)
    return len(path)


@st.composite
def row_models(draw):
    """Rows of some pairs over a tiny vocabulary; sums are below or equal to 1."""
    vocab = 4
    rows = {}
    for pair in itertools.product(range(vocab), repeat=2):
        weights = draw(st.lists(st.integers(0, 5), min_size=vocab, max_size=vocab))
        total = sum(weights) + draw(st.integers(0, 3))
        entries = sorted((-w / total, t) for t, w in enumerate(weights) if w)
        if entries:
            rows[pair] = ([t for _, t in entries], [-w for w, _ in entries])
    return rows


def reader(rows):
    return lambda a, b: rows.get((a, b), NO_ROW)


def all_joints(rows, a, b, depth):
    """Joint probability of every path up to `depth`, by enumeration."""
    out, level = [], [(1.0, a, b)]
    for _ in range(depth):
        following = []
        for joint, x, y in level:
            for token, p in zip(*rows.get((x, y), NO_ROW), strict=True):
                following.append((joint * p, y, token))
        out += [joint for joint, _, _ in following]
        level = following
    return sorted(out, reverse=True)


@settings(max_examples=80, deadline=None)
@given(row_models(), st.integers(0, 25))
def test_best_first_is_the_likeliest_tree(rows, nodes):
    tree = best_first(reader(rows), 1, 2, Budget(nodes, depth=4))
    want = all_joints(rows, 1, 2, 4)[:nodes]
    assert tree.joint == pytest.approx(want)
    assert len(set(zip(tree.parents, tree.tokens, strict=True))) == len(tree)
    assert tree == best_first(reader(rows), 1, 2, Budget(nodes, depth=4))


@settings(max_examples=40, deadline=None)
@given(row_models(), st.floats(0.01, 0.9))
def test_best_first_obeys_min_prob(rows, least):
    tree = best_first(reader(rows), 1, 2, Budget(1000, depth=4, min_prob=least))
    assert all(joint >= least for joint in tree.joint)
    want = [j for j in all_joints(rows, 1, 2, 4) if j >= least]
    assert len(tree) == pytest.approx(len(want), abs=sum(abs(j - least) < 1e-9 for j in want))


@settings(max_examples=40, deadline=None)
@given(row_models(), st.integers(0, 1000))
def test_check_4_best_first_promises_at_least_what_mcts_does(rows, seed):
    read = reader(rows)
    how = aded_mcts.Constants(iterations=40)
    paths = aded_mcts.search(read, 1, 2, random.Random(seed), how)
    tree = aded_mcts.to_tree(paths, Budget(64))
    joint = {(): 1.0}
    promised = 0.0
    for i in range(len(tree)):
        path = tuple(tree.tokens[j] for j in tree.path(i))
        a, b = (1, 2, *path[:-1])[-2:]
        tokens, probs = read(a, b)
        joint[path] = joint[path[:-1]] * probs[tokens.index(path[-1])]
        promised += joint[path]
    assert len(tree) <= 64
    assert sum(best_first(read, 1, 2, Budget(len(tree))).joint) >= promised - 1e-9


def test_nothing_hangs_below_an_end_of_text():
    rows = {(1, 2): ([0], [1.0]), (2, 0): ([5], [1.0])}
    assert list(best_first(reader(rows), 1, 2, Budget(9), {0}).tokens) == [0]


@pytest.mark.parametrize("mode", ["best_first", "reference"])
def test_check_3_one_successor_per_row_is_that_chain(tmp_path, mode):
    aded = drafter(table(tmp_path, [1, 2, 3, 4, 5, 6, 7, 8, 9]), mode=mode, trust=0, prompt=False)
    s = session([1, 2])
    aded.begin(s)
    tree = aded.propose(s, Budget(64, depth=4))
    assert list(tree.tokens) == [3, 4, 5, 6]
    assert tree.is_chain
    mask = tree.mask()
    for i in range(4):
        assert mask[i + 1].tolist() == [True] + [j in tree.path(i) for j in range(4)]


def test_check_2_reference_window(tmp_path):
    aded = drafter(table(tmp_path, [1, 2, 3, 1, 2, 4]), mode="reference", reference_cap=0.6)
    s = session([1, 2])
    aded.begin(s)
    s.tokens += [3]
    store = s.memo["aded"][0]
    before = dict(zip(*store.weights((1, 2)), strict=True))
    assert before == pytest.approx({3: 0.5, 4: 0.5})
    step = Step(
        2,
        Budget(0),
        EMPTY,
        Scores(torch.zeros(1, V)),
        Verdict((), 3),
        Committed([3], [0], 0, None),
        {},
        1,
        1,
    )
    seen = []
    for extra in ([], [5], [6], [7]):
        s.tokens += extra
        aded.observe(s, step)
        seen.append(dict(zip(*store.weights((1, 2)), strict=True))[3])
    assert seen == pytest.approx([0.54, 0.58, 0.6, 0.6])  # +0.04 per step in the window, capped
    s.tokens += [8] * 20
    aded.observe(s, step)
    assert dict(zip(*store.weights((3, 5)), strict=True))[6] == pytest.approx(0.08)  # 2 steps
    assert dict(zip(*store.weights((8, 8)), strict=True))[8] == pytest.approx(0.56)  # 14 at once


def test_reference_cut_drops_the_most_distinct_path_first():
    tree = aded_mcts.to_tree([[1, 2, 3, 4], [1, 1], [5, 6]], Budget(5))
    assert {tuple(tree.tokens[j] for j in tree.path(i)) for i in range(len(tree))} == {
        (1,),
        (1, 1),
        (5,),
        (5, 6),
    }
    assert len(aded_mcts.to_tree([], Budget(5))) == 0


@pytest.mark.parametrize("update", ["distribution", "count", "both"])
def test_check_6_repetition_is_learned_only_with_updates(update, monkeypatch):
    # the table alone, without the copy of last resort
    monkeypatch.setattr("foretoken.draft.aded.copied", lambda *_: EMPTY)
    phrase = [1, 2, 3, 4, 5, 6, 7, 8]
    text = phrase * 6
    accepted = {}
    for how in (update, "off"):
        aded = drafter(update=how, prompt=False, scope="request")
        s = session([9])
        aded.begin(s)
        per_repeat = [[] for _ in range(6)]
        while (at := len(s.tokens) - 1) < 5 * len(phrase):
            per_repeat[at // 8].append(advance(aded, s, text[at:]))
        accepted[how] = [np.mean(x) for x in per_repeat if x]
    assert accepted[update][-1] > accepted[update][0]
    assert set(accepted["off"]) == {0.0}


def test_check_7_an_exact_table_accepts_what_it_promises():
    """Target = the table: mean accepted equals the mean joint mass within 3 standard errors."""
    dice = random.Random(5)
    rows = {}
    for pair in itertools.product(range(5), repeat=2):
        weights = [dice.random() ** 3 for _ in range(5)]
        entries = sorted((-w / sum(weights), t) for t, w in enumerate(weights))
        rows[pair] = ([t for _, t in entries], [-w for w, _ in entries])
    differences, pair = [], (0, 1)
    for _ in range(4000):
        tree = best_first(reader(rows), *pair, Budget(12))
        future, at = [], pair
        for _ in range(tree.depth):
            token = dice.choices(*rows[at])[0]
            future.append(token)
            at = (at[1], token)
        differences.append(len(walk(tree, future)) - sum(tree.joint))
        pair = (pair[1], dice.choices(*rows[pair])[0])
    error = np.std(differences) / np.sqrt(len(differences))
    assert abs(np.mean(differences)) < 3 * error


def test_rows_learn_the_targets_distribution():
    aded = drafter(prompt=False, eta=0.25, top_m=2, scope="request")
    s = session([1, 2])
    aded.begin(s)
    store = s.memo["aded"][0]
    logits = torch.log(torch.full((1, V), 1e-6))
    logits[0, 3], logits[0, 4] = np.log(0.7), np.log(0.3)
    step = Step(
        2, Budget(4), EMPTY, Scores(logits), Verdict((), 3), Committed([3], [0], 0, None), {}, 1, 1
    )
    aded.observe(s, step)  # unseen: starts at eta = 1
    assert store.row(1, 2)[0] == [3, 4]
    assert store.row(1, 2)[1] == pytest.approx([0.7, 0.3], abs=1e-3)
    assert store.row(9, 2) == store.row(1, 2)  # the back-off row learned too
    logits = torch.log(torch.full((1, V), 1e-6))
    logits[0, 5] = 0.0
    aded.observe(
        s,
        Step(
            2,
            Budget(4),
            EMPTY,
            Scores(logits),
            Verdict((), 5),
            Committed([5], [0], 0, None),
            {},
            1,
            1,
        ),
    )
    got = dict(zip(*store.row(1, 2), strict=True))
    assert [got[3], got[4], got[5]] == pytest.approx([0.525, 0.225, 0.25], abs=1e-3)


@pytest.mark.parametrize("all_nodes", [True, False])
def test_rejected_nodes_teach_only_if_asked(tmp_path, all_nodes):
    aded = drafter(table(tmp_path, [1, 2, 3, 1, 2, 3, 1, 2, 4]), all_nodes=all_nodes)
    s = session([1, 2])
    aded.begin(s)
    assert advance(aded, s, [7, 8, 9]) == 0  # whatever was drafted is rejected
    learned = {key for key, _ in s.memo["aded"][0].overlay}
    assert ((2, 3) in learned) == all_nodes
    assert (1, 2) in learned


def test_a_learned_row_starts_from_the_base_row(tmp_path):
    aded = drafter(table(tmp_path, [1, 2, 3, 1, 2, 3]), trust=0, eta=0.3, prompt=False)
    s = session([1, 2])
    aded.begin(s)
    advance(aded, s, [5, 6], nodes=0)
    got = dict(zip(*s.memo["aded"][0].row(1, 2), strict=True))
    assert got[3] == pytest.approx(0.7, abs=1e-3)
    assert got[5] == pytest.approx(0.3, abs=1e-3)


def test_backs_off_to_one_token_then_to_a_copy_then_to_nothing(tmp_path):
    aded = drafter(table(tmp_path, [1, 2, 3]), update="off", prompt=False)
    s = session([9, 2])
    aded.begin(s)
    assert list(aded.propose(s, Budget(1)).tokens) == [3]
    s = session([8, 7, 6, 8, 7])
    aded.begin(s)
    tree = aded.propose(s, Budget(3))
    assert list(tree.tokens) == [6, 8, 7]
    assert all(j >= 0.2 for j in aded.propose(s, Budget(9, min_prob=0.2)).joint)
    s = session([9, 8, 7])
    aded.begin(s)
    assert len(aded.propose(s, Budget(3))) == 0


def test_a_prompt_is_counted():
    aded = drafter()
    s = session([1, 2, 3, 4, 5, 1, 2])
    aded.begin(s)
    tree = aded.propose(s, Budget(4))
    assert list(tree.tokens)[:1] == [3]
    assert tree.kind == "point"
    single = session([1], index=1)
    aded.begin(single)
    aded.propose(single, Budget(4))


@pytest.mark.parametrize("scope", ["request", "session", "tenant", "process"])
def test_scopes_do_not_leak(scope):
    aded = drafter(scope=scope)

    def teach(s):
        aded.begin(s)
        advance(aded, s, [3, 4, 5])
        aded.end(s)
        return s.memo

    def knows(s):
        aded.begin(s)
        found = len(aded.propose(s, Budget(4))) > 0
        aded.end(s)
        return found

    assert teach(session([1, 2], 0, "ann")) == {}
    assert knows(session([1, 2], 1, "ann")) == (scope in ("tenant", "process"))
    assert knows(session([1, 2], 2, "bob")) == (scope == "process")
    if scope in ("request", "session"):
        assert not list(aded._stores)
        assert aded.state() == {}


def test_concurrent_requests_do_not_leak():
    aded = drafter(scope="request")
    a, b = session([1, 2], 0), session([1, 2], 1)
    aded.begin(a)
    aded.begin(b)
    untouched = aded.propose(b, Budget(8))
    advance(aded, a, [3, 4, 5])
    assert aded.propose(b, Budget(8)) == untouched


def test_learned_rows_are_bounded():
    aded = drafter(max_rows=20, vocab=200)
    for tenant in range(6):
        s = session([1], tenant, str(tenant))
        aded.begin(s)
        for i in range(30):
            advance(aded, s, [(i * 7 + tenant) % 199 + 1, 1], nodes=0, vocab=200)
        assert len(s.memo["aded"][0].overlay) == 20
        aded.end(s)
        assert sum(len(x) for _, x in aded._stores) <= 20


def test_state_survives_a_restart():
    first = drafter()
    s = session([1, 2], tenant="ann")
    first.begin(s)
    for _ in range(3):
        advance(first, s, [3, 4, 5, 6])
    second = drafter()
    second.load(first.state())
    del s.tokens[2:]
    t = session(s.tokens, tenant="ann")
    t.memo["aded"] = (second._stores.get("ann"), NgramIndex(3))
    assert len(first.propose(s, Budget(16))) > 3
    assert second.propose(t, Budget(16)) == first.propose(s, Budget(16))
    assert second.state() == first.state()
    other = Aded(Aded.Options(), Context(V, (), "other"))
    with pytest.raises(ArtifactError, match=r"tokenizer h, .* is other"):
        other.load(first.state())
    other.load({})


def test_tables_of_another_model_are_refused(tmp_path):
    table(tmp_path, [1, 2, 3])
    with pytest.raises(ArtifactError, match="tokenizer"):
        Aded(Aded.Options(), Context(V, (), "other", tmp_path))
    with pytest.raises(ArtifactError, match="12 tokens, the model has 5"):
        drafter(tmp_path, vocab=5)
    with pytest.raises(ArtifactError, match="absent"):
        drafter(table=tmp_path / "absent")
    assert drafter(tmp_path.parent).base is None


def test_counts_and_optimism():
    store = Store(None, 100, 3)
    for token in (5, 6, 7):
        store.bump((1, 2), token, 2.0, 3.0)
    store.bump((1, 2), 8, 0.2, 3.0)  # the new entry takes the place of the lightest
    assert store.row(1, 2)[0] == [5, 6, 8]
    assert sum(store.row(1, 2)[1]) == pytest.approx(1.0)
    for _ in range(9):
        store.judged(1, 2, 5)
    tokens, scores = store.optimistic(0.5, 1, 2)
    assert tokens[0] == 6  # never tried
    assert max(scores) <= 1.0
    aded = drafter(bonus=0.3, update="both", decay=0.99)
    s = session([1, 2, 3, 1, 2, 3])
    aded.begin(s)
    for _ in range(4):
        advance(aded, s, [1, 2, 3, 1, 2, 3])


def test_the_same_history_gives_the_same_tree(tmp_path):
    table(tmp_path, [int(x) for x in np.random.default_rng(0).integers(1, V, 500)])
    for mode in ("best_first", "reference"):
        trees = []
        for _ in range(2):
            aded = drafter(tmp_path, mode=mode)
            s = session([3, 4, 5])
            aded.begin(s)
            trees.append([])
            for i in range(5):
                trees[-1].append(aded.propose(s, Budget(20)))
                assert len(trees[-1][-1]) <= 20
                assert aded.propose(s, Budget(20)) == trees[-1][-1]
                advance(aded, s, [1 + i, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4] * 3)
        assert trees[0] == trees[1]


def test_text_that_was_missed_teaches_no_row():
    """Its rows are not known: no row gets lighter, and none is made."""
    aded = drafter(prompt=False)
    s = session([1, 2, 3, 1, 2, 3])
    aded.begin(s)
    advance(aded, s, [1, 2, 3, 1, 2])
    store = s.memo["aded"][0]
    before = {key: (list(row[0]), list(row[1])) for key, row in store.overlay}
    s.drafter, s.begun, s.unseen, s.finish_reason = aded, True, 6, None
    s.tokens += [3, 1, 2, 3, 1, 2]
    show_unseen(s)
    assert {key: (list(row[0]), list(row[1])) for key, row in store.overlay} == before
