import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretoken.draft.suffix_growth import WIDE, Place, Room, follow, hope, likely, spread, top
from foretoken.draft.suffix_tree import NOWHERE, ROOT, SuffixTree

AMPLE = Room(nodes=40, depth=40, least=0.0, eos=())


def counted(texts, depth):
    """How often every string of at most `depth` tokens occurs."""
    return Counter(
        tuple(t[i:j]) for t in texts for i in range(len(t))
        for j in range(i + 1, min(len(t), i + depth) + 1)
    )  # fmt: skip


def put(tree, text):
    for token in text:
        tree.append(token)
    return tree.finish()


def grown(*texts, depth=8):
    tree = SuffixTree(depth)
    for text in texts:
        put(tree, text)
    return tree


def place(tree, *match):
    return Place(tree, tree.find(list(match), 0), len(match), 0)


def check(tree, texts, removed):
    """Every count, every edge's text, every likeliest child, and nothing else is in it."""
    counts, stack, used, paths = counted(texts, tree.depth), [(ROOT, ())], 0, 0
    for string, n in counts.items():
        assert tree.count[tree.find(list(string), 0)] == n
    while stack:
        node, path = stack.pop()
        used += 1
        children = tree.below[node] or {}
        if node and children:
            most = max(tree.count[child] for child in children.values())
            assert tree.best[node] in children.values()
            assert removed or tree.count[tree.best[node]] == most
        if node and len(children) == 1:
            assert tree.count[node] > tree.count[tree.best[node]], "an edge in two pieces"
        for token, child in children.items():
            start, end = tree.start[child], tree.end[child]
            below = tuple(tree.text[child][start : start + end])
            assert len(below) == end
            assert below[: len(path) + 1] == (*path, token)
            assert any(tree.text[child] is text for text in texts), "a text that is gone"
            assert tree.parent[child] == node
            paths += end - len(path)
            stack.append((child, below))
    assert (used, paths) == (tree.nodes, len(counts))
    assert len(tree) == sum(map(len, texts))


@pytest.mark.parametrize("seed", range(60))
def test_counts_equal_brute_force_after_random_appends_and_removals(seed):
    dice = random.Random(seed)
    tree, texts, letters = SuffixTree(dice.randint(2, 12)), [], dice.choice((1, 2, 3, 12))
    removed = False
    for _ in range(12):
        if texts and dice.random() < 0.4:
            tree.remove(texts.pop(0))
            removed = True
        else:
            new = dice.choices(range(letters), k=dice.randint(1, 30))
            texts.append(put(tree, dice.choice(texts) if texts and dice.random() < 0.3 else new))
        check(tree, texts, removed)
        counts, tail = counted(texts, tree.depth), dice.choices(range(letters), k=10)
        known = [n for n in range(1, min(tree.depth, 11)) if counts[tuple(tail[-n:])]]
        for guess in (0, 1, 3, 9, 10):
            longest, node = tree.longest(tail, guess)
            assert longest == max(known, default=0)
            assert not longest or node == tree.find(tail, len(tail) - longest)
    while texts:
        tree.remove(texts.pop(0))
    assert (tree.nodes, len(tree)) == (1, 0)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(2, 7))
def test_the_growing_text_knows_its_tails_that_occurred_before(text, depth):
    tree = SuffixTree(depth)
    for i, token in enumerate(text):
        tree.append(token)
        now = text[: i + 1]
        known = [n for n in range(1, min(depth, i + 1))
                 if any(now[e - n : e] == now[-n:] for e in range(n, i + 1))]  # fmt: skip
        assert len(tree.active) == max(known, default=0)
        for at, node in zip(range(len(tree.active), 0, -1), tree.active, strict=True):
            start = tree.start[node]
            assert tree.text[node][start : start + at] == now[-at:]
            others = counted([now], depth)[tuple(now[-at:])] - 1
            assert Place(tree, node, at, 1).times >= others


def test_what_never_occurred_is_nowhere():
    assert grown([1, 2, 3]).find([2, 4], 0) == NOWHERE
    assert grown([1, 2, 3]).find([9, 2, 3], 1) != NOWHERE


def test_path_mode_follows_the_likeliest_child_and_scores_the_sum():
    tree = grown([1, 2, 3], [1, 2, 4], [1, 2, 4], [1, 5])
    guess = follow(place(tree, 1), AMPLE, [1.0])
    assert (guess.tokens, guess.parents) == ([2, 4], [-1, 0])
    assert guess.q == [3 / 4, 2 / 3]
    assert guess.score == pytest.approx(3 / 4 + 3 / 4 * 2 / 3)
    assert follow(place(tree, 1), AMPLE._replace(least=0.6), [1.0]).tokens == [2]
    assert follow(place(tree, 1), AMPLE._replace(eos=(2,)), [1.0]).tokens == [2]


def test_worth_goes_by_depth_and_its_last_holds_on():
    tree = grown([1, 2, 3, 4])
    guess = follow(place(tree, 1), AMPLE, [0.5, 0.8])
    assert guess.q == [0.5, 0.8, 0.8]
    assert guess.score == pytest.approx(0.5 + 0.4 + 0.32)
    assert guess == spread(place(tree, 1), AMPLE, [0.5, 0.8])
    assert hope([0.5, 0.8], 3) == pytest.approx(guess.score)
    assert hope([0.5, 0.8], 1) == 0.5


def test_tree_mode_takes_the_likeliest_nodes():
    tree = grown([1, 2, 3], [1, 2, 4], [1, 2, 4], [1, 5])
    guess = spread(place(tree, 1), AMPLE, [1.0])
    assert (guess.tokens, guess.parents) == ([2, 4, 5, 3], [-1, 0, -1, 0])
    assert guess.score == pytest.approx(3 / 4 + 2 / 4 + 1 / 4 + 1 / 4)
    assert spread(place(tree, 1), AMPLE._replace(nodes=2), [1.0]).tokens == [2, 4]
    assert spread(place(tree, 1), AMPLE._replace(depth=1), [1.0]).tokens == [2, 5]
    assert spread(place(tree, 1), AMPLE._replace(eos=(2,)), [1.0]).tokens == [2, 5]
    assert spread(place(tree, 1), AMPLE._replace(least=0.5), [1.0]).tokens == [2, 4]


def test_a_sure_child_saves_the_look_at_the_others():
    tree = grown(*[[1, 2]] * 9, [1, 3])
    node = tree.find([1], 0)
    assert likely(tree, node, 0, 0.5) == [(0.9, 2, tree.find([1, 2], 0))]
    assert [token for _, token, _ in likely(tree, node, 0, 0.05)] == [2, 3]
    assert likely(tree, node, 0, 0.95) == []


def test_of_very_many_children_only_the_best_is_looked_at():
    tree = grown(*([1, 10 + i] for i in range(WIDE - 1)), [1, 5])
    assert len(likely(tree, tree.find([1], 0), 0, 0.001)) == WIDE
    put(tree, [1, 5])
    assert len(likely(tree, tree.find([1], 0), 0, 0.001)) == WIDE
    put(tree, [1, 6])
    (only,) = likely(tree, tree.find([1], 0), 0, 0.001)
    assert only == (2 / (WIDE + 2), 5, tree.find([1, 5], 0))


@given(st.lists(st.integers(0, 2), min_size=4, max_size=60), st.integers(0, 12), st.integers(1, 6))
def test_the_likeliest_tree_is_found(text, nodes, depth):
    """Against all paths below a match, sorted."""
    tree, worth, match = grown(text, depth=7), [0.9, 0.7, 0.8], text[1:2]
    room = Room(nodes, depth, 0.02, (2,))
    guess = spread(place(tree, *match), room, worth)
    counts, joints = counted([text], 7), {(): 1.0}
    for path in sorted((s[1:] for s in counts if s[0] == match[0] and len(s) > 1), key=len):
        if len(path) <= depth and path[:-1] in joints and 2 not in path[:-1]:
            share = counts[(*match, *path)] / counts[(*match, *path[:-1])]
            joints[path] = joints[path[:-1]] * share * worth[min(len(path) - 1, 2)]
    most = sorted((j for p, j in joints.items() if p and j >= 0.02), reverse=True)[:nodes]
    assert guess.score == pytest.approx(sum(most))
    assert len(guess.tokens) == len(guess.q) == len(guess.depths) == len(most)


def test_a_draft_goes_on_below_the_deepest_count():
    tree = grown(list(range(20)), depth=4)
    assert follow(place(tree, 3, 4, 5), AMPLE._replace(nodes=9), [1.0]).tokens == list(range(6, 15))


def test_ends_of_texts_are_no_continuation():
    tree = grown([1, 2], [1, 2])
    assert top(place(tree, 1, 2)) is None
    assert top(place(tree, 1)) == (1.0, 2)
    assert follow(place(tree, 1, 2), AMPLE, [1.0]).tokens == []
    assert spread(place(tree, 1, 2), AMPLE, [1.0]).tokens == []


def test_the_tail_itself_is_not_counted_as_a_place():
    tree = SuffixTree(8)
    for token in [1, 2, 3, 1, 2]:
        tree.append(token)
    tail = Place(tree, tree.active[0], 2, 1)
    assert tail.times == 1
    assert top(tail) == (1.0, 3)
    assert follow(tail, AMPLE, [1.0]).tokens == [3, 1, 2]


@pytest.mark.parametrize("grow", [follow, spread])
def test_only_the_match_itself_has_the_tail_among_its_places(grow):
    tree = SuffixTree(8)
    for token in [1, 2, 3, 8, 1, 2, 3, 9, 4, 1, 2, 3, 9, 5, 1, 2]:
        tree.append(token)
    guess = grow(Place(tree, tree.active[-2], 2, 1), AMPLE._replace(nodes=6), [1.0])
    q = dict(zip(guess.tokens, guess.q, strict=True))
    assert (q[3], q[9], q[5]) == (1.0, 2 / 3, 1 / 2)
