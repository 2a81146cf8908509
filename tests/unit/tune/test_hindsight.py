"""The hindsight optimum against trying everything, and offers against walking the tree."""

from __future__ import annotations

import random
from functools import cache

import pytest

from foretoken.tree import DraftTree
from foretoken.tune.hindsight import Offer, Text, offer, optimum, plain, regret, seconds, step


def random_tree(dice: random.Random, nodes: int, vocab: int = 2) -> DraftTree:
    """Distinct siblings; q honest, so that no node is likelier than its parent."""
    tokens: list[int] = []
    parents: list[int] = []
    q: list[float] = []
    for _ in range(nodes):
        parent = dice.randrange(-1, len(tokens))
        used = {t for t, p in zip(tokens, parents, strict=True) if p == parent}
        if free := sorted(set(range(vocab)) - used):
            tokens.append(dice.choice(free))
            parents.append(parent)
            q.append(dice.choice([0.1, 0.3, 0.5]))
    return DraftTree(tokens, parents, q)


def random_text(seed: int, length: int) -> Text:
    """Three drafters over random bits, a bumpy cost."""
    dice = random.Random(seed)
    written = [dice.randrange(2) for _ in range(length)]
    bumps = [1.0]
    for _ in range(10):
        bumps.append(bumps[-1] + dice.choice([0.0, 0.02, 0.6]))
    offers = {
        name: [
            offer(random_tree(dice, 6), written[at:], dice.choice([0.0, 0.1]))
            for at in range(length)
        ]
        for name in "abc"
    }
    return Text(5, length, lambda rows, context: bumps[rows - 1] + 0.01 * context, offers)


def brute_force(text: Text) -> float:
    """Every drafter with every number of nodes at every position."""

    @cache
    def least(at: int) -> float:
        if at == text.tokens:
            return 0.0
        spans = [step(text, at, "", 0)]
        for name, offers in text.offers.items():
            spans += [step(text, at, name, n) for n in range(1, offers[at].nodes + 1)]
        return min(span.seconds + least(at + span.tokens) for span in spans)

    return least(0)


@pytest.mark.parametrize("seed", range(20))
def test_the_optimum_is_what_trying_everything_finds(seed: int) -> None:
    text = random_text(seed, 9)
    best = optimum(text)
    assert sum(span.tokens for span in best) == text.tokens
    assert seconds(best) == pytest.approx(brute_force(text), rel=1e-12)
    assert regret(plain(text), best) >= 0.0
    assert any(span.nodes for span in best)  # the case is not trivial


@pytest.mark.parametrize("seed", range(50))
def test_an_offer_tells_what_each_number_of_leading_nodes_gives(seed: int) -> None:
    dice = random.Random(seed)
    tree = random_tree(dice, 12, vocab=3)
    following = [dice.randrange(3) for _ in range(6)]
    made = offer(tree, following)
    ranked = sorted(range(len(tree)), key=lambda node: (-tree.joint[node], node))
    for nodes in range(len(tree) + 1):
        part, at, stood = tree.prune(ranked[:nodes]), -1, 0
        for token in following:
            at = next((c for c in part.children[at + 1] if part.tokens[c] == token), -1)
            if at < 0:
                break
            stood += 1
        assert made.accepted(nodes) == stood


def test_a_drafter_without_probabilities_is_ranked_by_its_order() -> None:
    tree = DraftTree([7, 8, 9], [-1, -1, 1])
    assert offer(tree, [8, 9, 1]) == Offer((2, 3), 3)


def test_the_end_of_the_text_comes_from_the_target() -> None:
    full = [Offer((1, 2, 3), 3)] * 3
    text = Text(1, 3, lambda rows, _: 1.0 + 0.1 * rows, {"a": full})
    assert [span.tokens for span in optimum(text)] == [3]
    assert optimum(text)[0].nodes == 2  # a third node could not be accepted
    assert step(text, 2, "a", 3).tokens == 1


def test_what_drafting_takes_counts() -> None:
    cheap, dear = [Offer((1,), 1, 0.0)] * 4, [Offer((1,), 1, 5.0)] * 4
    text = Text(1, 4, lambda rows, _: 1.0, {"dear": dear, "cheap": cheap})
    assert {span.method for span in optimum(text)} == {"cheap"}
    assert {span.method for span in optimum(text, ["dear"])} == {""}
    assert seconds(optimum(text)) == 2.0
    assert regret(plain(text), optimum(text)) == 1.0
