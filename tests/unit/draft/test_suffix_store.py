import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from foretoken.draft.base import Context
from foretoken.draft.suffix_finished import PRIOR, Finished
from foretoken.draft.suffix_store import SuffixStore
from foretoken.errors import ArtifactError
from foretoken.types import Budget, Request

EOS = 999


def make(tokenizer="", **options):
    return SuffixStore(SuffixStore.Options(**options), Context(1000, (EOS,), tokenizer))


def begin(drafter, prompt, tenant="", index=0):
    session = SimpleNamespace(
        tokens=list(prompt), memo={}, index=index, n_prompt=len(prompt),
        request=Request(list(prompt), tenant=tenant),
    )  # fmt: skip
    drafter.begin(session)
    return session


def write(drafter, session, tokens):
    context = len(session.tokens)
    session.tokens += tokens
    drafter.observe(session, SimpleNamespace(context=context))


def answer(drafter, prompt, tokens, tenant=""):
    """A whole request, one token a step."""
    session = begin(drafter, prompt, tenant)
    for token in tokens:
        write(drafter, session, [token])
    drafter.end(session)


def steps(drafter, prompt, tokens, budget):
    """Steps that a request takes whose answer is known, the most that was drafted after how long
    a match, and the answer given to the store."""
    session, done, count, sizes = begin(drafter, prompt), 0, 0, []
    while done < len(tokens):
        tree = drafter.propose(session, budget)
        sizes.append(len(tree))
        right = 0
        while right < min(len(tree), len(tokens) - done - 1) and (
            tree.tokens[right] == tokens[done + right]
        ):
            right += 1
        write(drafter, session, tokens[done : done + right + 1])
        done += right + 1
        count += 1
    drafter.end(session)
    return count, sizes


@pytest.mark.parametrize("mode", ["path", "tree"])
def test_a_repeated_request_takes_one_step_per_draft(mode):
    drafter = make(mode=mode, factor=1.0, offset=0, min_token_prob=1e-9)
    prompt, tokens = list(range(100, 140)), list(range(200, 400))
    first, _ = steps(drafter, prompt, tokens, Budget(20))
    again, sizes = steps(drafter, prompt, tokens, Budget(20))
    assert first == len(tokens)
    assert again == -(-len(tokens) // (max(sizes) + 1)) == -(-200 // 21)


@pytest.mark.parametrize(("factor", "offset", "most"), [(1.0, 0, 3), (2.0, 1, 7), (0.5, 0, 1)])
def test_a_draft_is_bounded_by_the_match(factor, offset, most):
    drafter = make(factor=factor, offset=offset, min_token_prob=1e-9)
    answer(drafter, [0], list(range(1, 60)))
    tree = drafter.propose(begin(drafter, [500, 10, 11, 12]), Budget(50))
    assert tree.tokens == list(range(13, 13 + most))


def test_the_own_text_wins_a_tie_and_the_store_where_it_knows_more():
    drafter = make(factor=1.0, offset=0, min_token_prob=1e-9)
    answer(drafter, [0], [5, 6, 7, 8, 9])
    session = begin(drafter, [5, 6, 1, 2, 5, 6])
    store = session.memo["suffix-store"].finished
    for source in (0, 1):
        for match in (1, 2, 3):
            for _ in range(30):
                store.judge(source, match, 1, 0.5, True)  # both are worth all that they claim
    own = drafter.propose(session, Budget(9))
    assert own.tokens == [1, 2]
    assert set(own.evidence) <= {0, 1, 2, 3}
    other = drafter.propose(begin(drafter, [7, 3, 5, 6, 7], index=1), Budget(9))
    assert other.tokens == [8, 9]
    assert set(other.evidence) <= {4, 5, 6, 7}


@pytest.mark.parametrize("mode", ["path", "tree"])
def test_the_winner_has_the_best_score_of_all_candidates(mode):
    """A plain search over all matches of both sources, nothing left out."""
    drafter = make(mode=mode)
    for shift in range(6):
        answer(drafter, [0], [(i * i + shift * (i % 3)) % 7 for i in range(60)])
    checked = 0
    for cut in range(20, 50):
        session = begin(drafter, [(i * i) % 7 for i in range(cut)])
        memory, budget = session.memo["suffix-store"], Budget(9, depth=5)
        scores = [0.0]
        for source, longest in enumerate(memory.longest(session.tokens[-64:], cut)):
            for match in range(1, longest + 1):
                place = memory.place(source, match, session.tokens[-64:])
                worth = memory.finished.worth(source, match, place.times)
                room = drafter._room(match, budget)
                if room.nodes:
                    scores.append(drafter._grow(place, room, worth).score)
        tree = drafter.propose(session, budget)
        assert sum(tree.joint) == pytest.approx(max(scores))
        checked += len(scores) > 3
        drafter.end(session)
    assert checked > 20


def test_a_shorter_match_with_many_places_beats_a_longer_one_with_few():
    drafter = make()
    answer(drafter, [0], [9, 1, 2, 3])
    for i in range(30):
        answer(drafter, [0], [100 + i, 1, 2, 4])
    tree = drafter.propose(begin(drafter, [500, 9, 1, 2]), Budget(9))
    assert tree.tokens[0] == 4
    assert tree.q[0] > PRIOR[1][0][2]


def test_shares_are_believed_as_far_as_they_came_true():
    drafter = make(factor=1.0, offset=0)
    answer(drafter, [0], [1, 2, 3])
    session = begin(drafter, [9, 1, 2])
    assert drafter.propose(session, Budget(1)).q == [PRIOR[1][0][0]]
    for i in range(100, 300, 2):
        answer(drafter, [i], [i + 1])
    for i in range(100, 300, 2):
        answer(drafter, [i], [500 + i])  # not what the store foretold
    later = drafter.propose(session, Budget(1))
    assert not later.q or later.q[0] < PRIOR[1][0][0] / 2  # hardly worth a node


def test_obeys_the_budget():
    drafter = make(factor=4.0, min_token_prob=1e-9)
    for last in range(5):
        answer(drafter, [0], [1, 2, 3, last, 5, EOS, 6])
    session = begin(drafter, [1, 2, 3])
    for nodes in (0, 1, 3, 9):
        for depth in (0, 1, 2, 9):
            for least in (0.0, 0.05, 0.3):
                tree = drafter.propose(session, Budget(nodes, depth, least))
                assert len(tree) <= nodes
                assert tree.depth <= depth
                assert all(joint >= least for joint in tree.joint)
                assert list(tree.joint) == sorted(tree.joint, reverse=True)
                totals = Counter()
                for parent, token, q in zip(tree.parents, tree.tokens, tree.q, strict=True):
                    totals[parent] += q
                    assert parent < 0 or tree.tokens[parent] != EOS, token
                assert all(total <= 1 + 1e-9 for total in totals.values())


def test_whole_answers_go_the_oldest_first():
    drafter = make(max_tokens=40, depth=4)
    for i in range(9):
        answer(drafter, [0], [100 + 10 * i + k for k in range(9)])
    store = begin(drafter, [0]).memo["suffix-store"].finished
    assert len(store) == 40
    assert [text[1] for text in store.texts] == [150, 160, 170, 180]
    assert store.tree.find([140], 0) < 0 < store.tree.find([150], 0)
    store.add(list(range(500, 600)))
    assert len(store) == 40
    assert list(store.texts) == [list(range(560, 600))]


def test_tenants_do_not_see_each_other():
    drafter = make()
    answer(drafter, [0], list(range(1, 30)), "a")
    for tenant, known in (("a", True), ("b", False)):
        session = begin(drafter, [500, 3, 4, 5], tenant)
        assert bool(len(drafter.propose(session, Budget(5)))) == known
        drafter.end(session)


def test_requests_keep_nothing():
    drafter = make(scope="request")
    answer(drafter, [0], list(range(1, 30)))
    assert len(drafter.propose(begin(drafter, [500, 3, 4, 5]), Budget(5))) == 0
    assert drafter.state() == {}


def test_a_long_context_is_forgotten_by_halves():
    drafter = make(max_context=40)
    session = begin(drafter, range(300, 330))
    write(drafter, session, list(range(100, 120)))
    assert len(session.memo["suffix-store"].own) <= 40
    write(drafter, session, [110, 111])
    assert drafter.propose(session, Budget(1)).tokens == [112]
    write(drafter, session, [301, 302])
    assert len(drafter.propose(session, Budget(1))) == 0


def test_what_was_learned_is_saved_and_loaded():
    drafter = make("t")
    answer(drafter, [0], [1, 2, 3, 4, 1, 2, 3, 5] * 3, "a")
    state = json.loads(json.dumps(drafter.state()))
    twin = make("t")
    twin.load(state)
    one, other = (begin(d, [9, 1, 2], "a") for d in (drafter, twin))
    assert len(drafter.propose(one, Budget(9)))
    assert drafter.propose(one, Budget(9)) == twin.propose(other, Budget(9))
    assert twin.state() == drafter.state()
    with pytest.raises(ArtifactError, match="tokenizer"):
        make("u").load(state)


def test_claims_are_forgotten_slowly_and_never_exceed_the_share():
    store = Finished(8, 100)
    for _ in range(200):
        store.judge(0, 1, 5, 0.5, True)
    assert max(store.worth(0, 1, 5)) <= 1.0
    high = store.worth(0, 1, 5)[0]
    for _ in range(150):
        store.judge(0, 1, 5, 0.5, False)
    assert store.worth(0, 1, 5)[0] < high
    assert store.worth(0, 2, 5)[0] == store.worth(0, 1, 5)[0]  # one class
    assert store.worth(0, 3, 5)[0] == PRIOR[0][1][2]  # another


def test_a_budget_that_comes_again_gives_the_same_tree():
    drafter = make()
    answer(drafter, [0], [1, 2, 3, 4, 1, 2, 3, 5] * 3)
    session = begin(drafter, [9, 1, 2])
    first = drafter.propose(session, Budget(9))
    drafter.propose(session, replace(Budget(2), depth=1))
    assert drafter.propose(session, Budget(9)) == first
