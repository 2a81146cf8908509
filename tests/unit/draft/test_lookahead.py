"""lookahead: methods/modelfree-extras.md, B, and what is ours."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.unit.draft.toy import Toy, cut, fits, markov, one_hot

from foretoken.draft.base import Context
from foretoken.draft.lookahead import Lookahead
from foretoken.draft.lookahead_pool import WINDOW, Growing, Pool
from foretoken.draft.rates import Rates
from foretoken.errors import ArtifactError
from foretoken.tree import DraftTree
from foretoken.types import Budget

VOCAB = 24
N, W = 5, 7


def make(eos=(), hash_="", **options):
    return Lookahead(Lookahead.Options(**options), Context(VOCAB, eos, hash_))


def memory(toy):
    return toy.session.memo["lookahead"]


def grams(toy):
    return [
        (key, *tail) for key in range(VOCAB) for tail, _ in memory(toy).pool.tails(key)
    ]  # fmt: skip


def cycle(length):
    """A model that writes 0, 1, ..., length-1 for ever, whatever came before."""
    return one_hot(lambda text: (text[-1] + 1) % length, VOCAB)


def paper_mask(n, w):
    """[w(n-1), w(n-1)] who sees whom in the paper's code, by rows and columns: the block of row 0,
    whose first place is the root's, is causal; a later row's column sees that block up to its own
    place, its own column in the rows between, and itself."""
    size = w * (n - 1)
    mask = torch.zeros(size, size, dtype=torch.bool)
    causal = torch.ones(w, w).tril().bool()
    for row in range(n - 1):
        block = slice(w * row, w * (row + 1))
        mask[block, :w] = causal
        for above in range(1, row + 1):
            mask[block, w * above : w * (above + 1)] |= torch.eye(w, dtype=torch.bool)
    return mask


@pytest.mark.parametrize(("n", "w"), [(5, 7), (3, 1), (3, 4), (4, 6)])
def test_mask_and_positions_are_the_papers(n, w):
    toy = Toy(make(ngram=n, window=w, share=1.0, text=False), cycle(5), [0])
    window = memory(toy).window
    tokens = iter(range(100, 1000))
    window.rows = [[next(tokens) for _ in range(w)] for _ in range(n - 1)]  # all different
    tree = toy.drafter.propose(toy.session, Budget(999))
    assert len(tree) == w * (n - 1) - 1
    # place of a window token in the paper's order; the root stands where row 0, column 0 would
    place = {window.rows[r][c]: w * r + c for r in range(n - 1) for c in range(w)}
    order = [0, *(place[token] for token in tree.tokens)]
    mask, wanted = torch.as_tensor(tree.mask()), paper_mask(n, w)
    assert torch.equal(mask, wanted[order][:, order])
    distance = [c + r for r in range(n - 1) for c in range(w)]
    assert tree.depths == [distance[p] for p in order[1:]]


def test_a_cyclic_model_fills_the_pool_with_its_own_n_grams():
    """From a prompt that knows nothing of them; then N tokens a step, the paper's N-1 and ours."""
    toy = Toy(make(text=False), cycle(11), [20, 15, 20, 16])
    toy.run(60, Budget(60))
    found = grams(toy)
    assert len(found) >= 11
    for gram in found:
        assert all((a + 1) % 11 == b for a, b in pairwise(gram)), gram
    assert toy.run(60, Budget(60)) >= N


def test_n_grams_count_once_all_their_tokens_are_the_models():
    toy = Toy(make(text=False), cycle(11), [20, 15, 20, 16])
    for _ in range(N - 2):
        toy.step(Budget(60))
        assert grams(toy) == []
    toy.step(Budget(60))
    assert len(grams(toy)) > 0


def test_the_new_row_is_the_argmax_behind_every_column():
    rows, logits = markov(VOCAB, 1)
    toy = Toy(make(), rows, [1, 2, 3, 4])
    before = [list(row) for row in memory(toy).window.rows]
    toy.step(Budget(60))
    after = memory(toy).window.rows
    assert after[:-1] == before[1:]
    assert after[-1] == logits[before[-1]].argmax(-1).tolist()


def test_columns_that_were_cut_start_anew_and_the_others_go_on():
    rows, logits = markov(VOCAB, 2)
    toy = Toy(make(text=False), rows, [1, 2, 3, 4])
    window = memory(toy).window
    window.rows = [[(W * r + c) % VOCAB for c in range(W)] for r in range(N - 1)]  # none is shared
    last = window.rows[-1]
    toy.step(Budget(60), cut(3 + 4 + 4 + 2))  # three whole columns, and two nodes of the fourth
    assert window.rows[-1][:3] == logits[last[:3]].argmax(-1).tolist()
    assert window._own == [1, 1, 1, 0, 0, 0, 0]
    assert set(window.rows[-1][3:]) <= set(toy.session.tokens)


def test_a_window_that_was_not_scored_stays():
    rows, _ = markov(VOCAB, 3)
    toy = Toy(make(), rows, [1, 2, 3, 4])
    before = [list(row) for row in memory(toy).window.rows]
    toy.step(Budget(60), cut(0))
    toy.step(Budget(60), lambda tree: tree, known=lambda row: row == 0)
    assert memory(toy).window.rows[1:] == before[1:]


def test_other_drafters_nodes_in_the_tree_change_nothing():
    rows, _ = markov(VOCAB, 4)
    toy, twin = (Toy(make(), rows, [1, 2, 3, 4]) for _ in range(2))
    foreign = DraftTree([23, 22, 21], [-1, 0, -1], [0.01] * 3)
    for _ in range(8):
        toy.step(Budget(60))
        twin.step(Budget(60), foreign.merge)
        if toy.session.tokens != twin.session.tokens:  # a foreign node was right: other steps
            break
        assert memory(toy).window.rows == memory(twin).window.rows
        assert grams(toy) == grams(twin)


def test_the_pool_holds_g_per_key_and_the_latest():
    pool = Pool(3, 100)
    for tail in (1, 2, 3, 1, 4):
        pool.add((0, tail, 9))
    assert [tail[0] for tail, _ in pool.tails(0)] == [4, 1, 3]
    assert dict(pool.tails(0))[1, 9] == 2
    assert len(pool) == 3


def test_the_pool_is_bounded_in_all():
    pool = Pool(3, 10)
    for i in range(100):
        pool.add((i % 17, i, i))
        assert len(pool) == sum(len(pool.tails(key)) for key in range(17)) <= 10


def test_run_stays_within_g():
    rows, _ = markov(VOCAB, 5)
    toy = Toy(make(guesses=2), rows, list(range(VOCAB)) * 3)
    toy.run(60, Budget(60))
    assert max(len(memory(toy).pool.tails(key)) for key in range(VOCAB)) <= 2


def test_prompt_and_output_are_pooled():
    toy = Toy(make(window=0), cycle(11), [7, 8, 9, 10, 0, 1])
    assert (7, 8, 9, 10, 0) in grams(toy)
    assert len(grams(toy)) == 2
    for _ in range(4):
        toy.step(Budget(0))
    assert (1, 2, 3, 4, 5) in grams(toy)
    assert grams(Toy(make(window=0, text=False), cycle(11), list(range(9)))) == []


def test_rates_are_learned_and_q_promises_what_comes():
    toy = Toy(make(), cycle(11), list(range(11)) * 2)
    toy.run(200, Budget(60))
    tree = toy.drafter.propose(toy.session, Budget(60))
    chain = [n for n in range(len(tree)) if tree.evidence[n] != WINDOW]
    assert [tree.tokens[n] for n in chain[:4]] == [
        (toy.session.tokens[-1] + i) % 11 for i in (1, 2, 3, 4)
    ]
    assert tree.joint[chain[3]] > 0.8


def test_guesses_of_an_end_of_text_have_nothing_below():
    pool = Pool(4, 100)
    pool.add((0, 5, 4, 6, 7))
    tree = Growing(Rates([0.5] * 8), Budget(20), (4,))
    tree.guess(pool.guesses(0), 20)
    tree.add([5, 4, 8], WINDOW)
    assert list(tree.result().tokens) == [5, 4]


def test_siblings_never_claim_more_than_all():
    pool = Pool(9, 100)
    for token in range(5):
        pool.add((0, token, 7))
    tree = Growing(Rates([0.5] * 8), Budget(20), ())
    tree.guess(pool.guesses(0), 20)
    tree.add([20, 21], WINDOW)
    assert sum(e == WINDOW for e in tree.result().evidence) == 2
    fits(tree.result(), Budget(20))


def test_only_whole_columns_are_scored():
    """One without its last token teaches nothing."""
    toy = Toy(make(share=1.0, text=False), cycle(11), list(range(VOCAB)))
    window = memory(toy).window
    window.rows = [[(W * r + c) % VOCAB for c in range(W)] for r in range(N - 1)]
    for budget, columns in ((Budget(60, 5), 3), (Budget(60, 3), 1), (Budget(60, 2), 0)):
        assert len(toy.drafter.propose(toy.session, budget)) == max(4 * columns - 1, 0)
    assert len(toy.drafter.propose(toy.session, Budget(14))) == 4 * 3 - 1


def test_the_window_holds_no_end_of_text():
    rows = one_hot(lambda text: 4 if text[-1] == 3 else (text[-1] + 1) % 11, VOCAB)
    toy = Toy(make(eos=(4,)), rows, [0, 1, 2, 3, 2])
    for _ in range(12):
        toy.step(Budget(60))
        assert all(4 not in row for row in memory(toy).window.rows)


def test_only_the_end_of_text_in_the_prompt():
    toy = Toy(make(eos=(4,)), cycle(11), [4, 4])
    for _ in range(6):
        fits(toy.step(Budget(60)).tree, Budget(60))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@settings(max_examples=25)
@given(nodes=st.integers(0, 70), depth=st.integers(0, 9), least=st.sampled_from([0.0, 0.02, 0.3]))
def test_any_budget_is_obeyed(share, nodes, depth, least):
    rows, _ = markov(VOCAB, 7)
    toy = Toy(make(eos=(4,), share=share), rows, list(range(VOCAB)) * 2)
    for _ in range(4):
        budget = Budget(nodes, depth, least)
        tree = toy.step(budget).tree
        fits(tree, budget)
        assert all(tree.tokens[parent] != 4 for parent in tree.parents if parent >= 0)
        assert sum(e == WINDOW for e in tree.evidence) <= share * nodes


def test_proposing_changes_nothing():
    rows, _ = markov(VOCAB, 8)
    toy, twin = (Toy(make(), rows, [1, 2, 1, 3]) for _ in range(2))
    for n in range(12):
        twin.drafter.propose(twin.session, Budget(50))
        trees = [t.step(Budget(30), cut(10 * (n % 4))).tree for t in (toy, twin)]
        assert (trees[0].tokens, trees[0].q) == (trees[1].tokens, trees[1].q)


def test_state_keeps_pool_and_rates():
    one, two = make(scope="process"), make(scope="process")
    Toy(one, cycle(11), [1, 2]).run(60, Budget(60))
    two.load(json.loads(json.dumps(one.state())))
    drafts = [Toy(d, cycle(11), [3]).step(Budget(60)).tree for d in (one, two)]
    assert (drafts[0].tokens, drafts[0].q) == (drafts[1].tokens, drafts[1].q)
    with pytest.raises(ArtifactError, match="tokenizer"):
        make(hash_="b").load(one.state())
    assert make().state() == {}


def test_options_are_closed_and_n_starts_at_3():
    with pytest.raises(ValidationError):
        Lookahead.Options(n=5)
    with pytest.raises(ValidationError, match="ngram"):
        Lookahead.Options(ngram=2)
