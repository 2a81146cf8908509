"""token-recycling: methods/modelfree-extras.md, D, and what is ours."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.unit.draft.toy import Toy, cut, fits, markov, one_hot

from foretoken.draft.base import Context
from foretoken.draft.recycled import AGREEING, LATER, Matrix
from foretoken.draft.token_recycling import TEMPLATE, TOP, TokenRecycling
from foretoken.errors import ArtifactError
from foretoken.tree import DraftTree
from foretoken.types import Budget

VOCAB = 24
PAPER = {1: 8, 2: 21, 3: 25, 4: 15, 5: 8, 6: 3}  # nodes per depth


def make(eos=(), hash_="", **options):
    return TokenRecycling(TokenRecycling.Options(**options), Context(VOCAB, eos, hash_))


def cold(**options):
    """The paper's start: nothing known."""
    return make(prompt=False, **options)


def matrix_of(toy):
    return toy.session.memo["token-recycling"]


def warm(toy, logits):
    """Every row as the model has it."""
    for token in range(VOCAB):
        probs, tokens = logits[token].softmax(-1).topk(TOP)
        matrix_of(toy).put(token, tokens.tolist(), probs.tolist())


def test_the_template_is_the_papers():
    paths = [f"{path}{rank}" for path, n in TEMPLATE.items() for rank in range(n)]
    assert len(paths) == len(set(paths)) == 80
    assert {d: sum(len(p) == d for p in paths) for d in PAPER} == PAPER
    assert all(path[:-1] in {"", *paths} for path in paths)
    assert set(TEMPLATE) <= {"", *paths}


def test_a_full_matrix_fills_the_template():
    rows, logits = markov(VOCAB, 1)
    drafter = cold(mode="template")
    toy = Toy(drafter, rows, [3])
    warm(toy, logits)
    assert drafter.nodes == 80
    tree = drafter.propose(toy.session, Budget(80))
    assert {d: tree.depths.count(d) for d in PAPER} == PAPER
    ranks = logits.argsort(dim=-1, descending=True)
    for i in range(len(tree)):
        above, path = 3, ""
        for node in tree.path(i):
            place = ranks[above].tolist().index(tree.tokens[node])
            assert place < TEMPLATE[path]
            above, path = tree.tokens[node], f"{path}{place}"


def test_rows_are_the_latest_of_the_target_and_unknown_ones_are_pruned():
    rows, logits = markov(VOCAB, 2)
    toy = Toy(cold(), rows, [5])
    assert len(toy.drafter.propose(toy.session, Budget(16))) == 0
    seen = set()
    for _ in range(30):
        seen.add(toy.session.tokens[-1])
        done = toy.step(Budget(16))
        fits(done.tree, Budget(16))
        seen |= set(done.tree.tokens)
    matrix = matrix_of(toy)
    for token in range(VOCAB):
        assert (token in matrix) == (token in seen)
        if token in seen:
            assert list(matrix[token].tokens) == logits[token].topk(TOP).indices.tolist()


def test_of_equal_tokens_the_deepest_accepted_row_wins_else_the_shallowest():
    """The model's rows depend on the whole text, so that every place of a token differs."""

    def rows(text):
        row = torch.zeros(VOCAB)
        row[(sum(text) * 7 + len(text)) % VOCAB] = 3.0
        return row

    def winner(text):
        return int(rows(text).argmax())

    toy = Toy(cold(), rows, [1])
    right = winner([1])
    # 9 stands at depths 2 and 1, both rejected; `right` at 1 (accepted) and 2 (rejected)
    wrong = next(t for t in range(10, VOCAB) if t not in (right, 9))
    tree = DraftTree([wrong, 9, 9, right, right], [-1, 0, -1, 0, -1], [0.1] * 5)
    toy.step(Budget(8), lambda _: tree)
    matrix = matrix_of(toy)
    assert matrix[9].tokens[0] == winner([1, 9]) != winner([1, wrong, 9])
    assert matrix[right].tokens[0] == winner([1, right]) != winner([1, wrong, right])


def test_of_two_accepted_rows_the_deeper_wins():
    written = [0, 2, 3, 2, 7]
    toy = Toy(cold(), one_hot(lambda text: written[len(text)], VOCAB), [0])
    toy.step(Budget(4), lambda _: DraftTree.chain([2, 3, 2], [0.5] * 3))
    assert toy.session.tokens == written
    assert matrix_of(toy)[2].tokens[0] == 7


def test_the_root_beats_a_rejected_node_of_its_token():
    rows = one_hot(lambda text: len(text) % VOCAB, VOCAB)
    toy = Toy(cold(), rows, [20])
    toy.step(Budget(4), lambda _: DraftTree([20], [-1], [0.5]))
    assert matrix_of(toy)[20].tokens[0] == 1


def test_rows_that_are_not_known_teach_nothing():
    rows, _ = markov(VOCAB, 3)
    toy = Toy(cold(), rows, [5])
    tree = DraftTree([7, 8], [-1, -1], [0.1, 0.1])
    toy.step(Budget(4), lambda _: tree, known=lambda row: row != 1)
    assert 7 not in matrix_of(toy)
    assert 8 in matrix_of(toy)


def test_markov_acceptance_is_the_mass_of_the_template():
    """Warm, with ranks of the true transitions: expected accepted tokens equal those of the text."""
    logits = 1.5 * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(4))
    p = logits.softmax(-1)
    dice = torch.Generator().manual_seed(5)
    toy = Toy(cold(mode="template"), lambda text: logits[text[-1]], [0])
    warm(toy, logits)
    total = mass = 0.0
    for _ in range(300):
        text = toy.session.tokens
        tree = toy.drafter.propose(toy.session, Budget(80))
        for i in range(len(tree)):
            above, joint = text[-1], 1.0
            for node in tree.path(i):
                joint, above = joint * float(p[above, tree.tokens[node]]), tree.tokens[node]
            mass += joint
        at = -1
        while True:
            token = int(torch.multinomial(p[text[-1]], 1, generator=dice))
            text.append(token)
            found = [c for c in tree.children[at + 1] if tree.tokens[c] == token]
            if not found:
                break
            at, total = found[0], total + 1
    assert total == pytest.approx(mass, rel=0.08)  # 1.5 standard deviations are 0.06


def test_best_first_is_no_worse_than_the_template():
    rows, _ = markov(VOCAB, 6)
    sure = [
        Toy(make(mode=mode), rows, [2]).run(120, Budget(12)) for mode in ("best_first", "template")
    ]
    assert sure[0] >= sure[1] > 4


@pytest.mark.parametrize("mode", ["best_first", "template"])
@settings(max_examples=25)
@given(nodes=st.integers(0, 90), depth=st.integers(0, 8), least=st.sampled_from([0.0, 0.02, 0.3]))
def test_any_budget_is_obeyed(mode, nodes, depth, least):
    rows, _ = markov(VOCAB, 7)
    toy = Toy(make(mode=mode, eos=(4,)), rows, list(range(VOCAB)))
    for _ in range(3):
        budget = Budget(nodes, depth, least)
        tree = toy.step(budget).tree
        fits(tree, budget)
        assert all(tree.tokens[parent] != 4 for parent in tree.parents if parent >= 0)
        assert list(tree.joint) == sorted(tree.joint, reverse=True)


def test_proposing_changes_nothing_and_cut_drafts_are_harmless():
    rows, _ = markov(VOCAB, 8)
    toy, twin = (Toy(make(), rows, [1, 2, 1, 3]) for _ in range(2))
    for n in range(12):
        twin.drafter.propose(twin.session, Budget(50))
        trees = [t.step(Budget(10), cut(n % 4)).tree for t in (toy, twin)]
        assert (trees[0].tokens, trees[0].q) == (trees[1].tokens, trees[1].q)
    json.dumps(toy.drafter.state())


def test_rates_follow_what_happens():
    """A row whose first token is always right comes to be believed, one that is wrong does not."""
    matrix = Matrix(10)
    for _ in range(200):
        matrix.put(1, [2, 3], [0.5, 0.3])
        matrix.judged(1, 2)
    right = matrix.row(1)[1]
    assert right[0] > 0.95
    assert right[1] < 0.03
    for _ in range(400):
        matrix.judged(1, 3)
    assert matrix.row(1)[1][0] < 0.5


def test_siblings_never_claim_more_than_all():
    matrix = Matrix(10)
    matrix.put(1, [2], [0.9])
    matrix.put(5, [9, 3, 4], [0.4, 0.3, 0.2])
    for token, successor in ((5, 3), (1, 2)):
        for _ in range(400):
            matrix.judged(token, successor)
    assert sum(matrix.row(5)[1]) == pytest.approx(1.0)


def test_runs_count_rows_with_the_same_first_token():
    matrix = Matrix(10)
    runs = []
    for first in (2, 2, 2, 2, 2, 3, 3):
        matrix.put(1, [first, 9], [0.6, 0.1])
        runs.append(matrix[1].run)
    assert runs == [0, 1, 2, AGREEING, AGREEING, 0, 1]


def test_the_prompt_seeds_tokens_without_a_row():
    matrix = Matrix(10)
    matrix.put(1, [9], [1.0])
    matrix.seed([1, 2, 3, 2, 4, 2, 3, 1], 8)
    assert list(matrix[2].tokens) == [3, 4]  # the latest first
    assert list(matrix[2].marks) == [0, LATER]
    assert list(matrix[1].tokens) == [9]
    assert len(make().propose(Toy(make(), one_hot(len, 99), [1, 2, 1]).session, Budget(4))) > 0


def test_bounded_the_row_unwritten_longest_goes():
    matrix = Matrix(3)
    for token in (1, 2, 3, 1, 4):
        matrix.put(token, [0], [1.0])
    assert [t in matrix for t in (1, 2, 3, 4)] == [True, False, True, True]
    matrix.seed([5, 6, 7, 8, 9], 8)
    assert len(matrix) == 3


def test_hot_across_requests_of_a_tenant_only():
    rows, _ = markov(VOCAB, 9)
    drafter = cold()
    first = Toy(drafter, rows, [1], tenant="a")
    first.run(40, Budget(8))
    drafter.end(first.session)
    assert len(Toy(drafter, rows, [1], tenant="a").step(Budget(8)).tree) > 0
    assert len(Toy(drafter, rows, [1], tenant="b").step(Budget(8)).tree) == 0


def test_state_of_another_tokenizer_is_refused():
    rows, _ = markov(VOCAB, 10)
    one = make(hash_="a")
    Toy(one, rows, [1, 2]).run(10, Budget(4))
    with pytest.raises(ArtifactError, match="tokenizer"):
        make(hash_="b").load(one.state())
    assert make(scope="request").state() == {}


def test_options_are_closed():
    with pytest.raises(ValidationError):
        TokenRecycling.Options(rows=3)
