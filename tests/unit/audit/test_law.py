"""The reference's law: right numbers, and cells that are a partition chosen without the sample."""

import itertools

import pytest
import torch

from foretoken.audit import law as law_module
from foretoken.audit.law import Cells, Law, choose_prompt
from foretoken.types import Sampling
from tests import tiny
from tests.unit.audit.helper import HOT, PROMPT, law, reference, table


def test_probabilities_are_those_of_plain_forwards() -> None:
    given, exact = law(), table()
    places = given.places(exact)
    for outcome, p in exact.items():
        found = 1.0
        for i, token in enumerate(outcome):
            found *= places[outcome[:i]].probs[token]
        assert found == pytest.approx(p, rel=1e-5)
    row = tiny.plain_logits("six", [*PROMPT, 4])[-1].double().softmax(-1)
    place = places[(4,)]
    assert place.entropy == pytest.approx(float(torch.special.entr(row).sum()), rel=1e-5)
    variance = float((row * row.log() ** 2).sum()) - place.entropy**2
    assert place.variance == pytest.approx(variance, rel=1e-4)


def test_a_model_without_a_cache_to_copy_reads_whole_texts() -> None:
    given = law()
    before = given.places([(1, 2, 3), (5,)])
    given.texts._past = None
    after = given.places([(1, 2, 3), (5,)])
    for text, place in before.items():
        assert after[text].probs == pytest.approx(place.probs, rel=1e-5)


@pytest.mark.parametrize(("samples", "most"), [(300, None), (5000, None), (5000, 9), (100000, 40)])
def test_cells_partition_the_outcomes(samples: int, most: int | None) -> None:
    exact = table()
    cells = Cells(law(), samples, 3, most)
    masses = [0.0] * len(cells)
    for outcome, p in exact.items():
        masses[cells.cell(outcome)] += p
    assert masses == pytest.approx(cells.masses, rel=1e-4)
    assert sum(cells.masses) == pytest.approx(1.0)
    assert len(cells) <= (most or law_module.ENUMERATED)
    assert len(cells) > 4
    if len(cells) > 1:
        assert min(cells.masses) * samples >= law_module.POOL * 0.999


def test_a_small_law_is_enumerated() -> None:
    cells, exact = Cells(law(), 10**7, 3), table()
    assert len(cells) == len([p for p in exact.values() if p * 10**7 >= law_module.POOL])
    assert law().small
    assert not Law(reference("llama"), PROMPT, 3, HOT).small


def test_a_text_that_ends_is_an_outcome_of_its_own() -> None:
    given = law(eos=[2])
    assert given.cut([1, 2, 3, 4]) == (1, 2)
    assert given.final((1, 2))
    assert not given.final((1, 3))
    assert given.cut([1, 3, 4, 5]) == (1, 3, 4)
    assert given.cut([1, 99, 4, 5]) == (1, 99)  # 99 is no token: nothing is asked for behind it
    places = given.places([(1, 2), (1, 3, 4), (0, 99)])
    assert places[(1,)].ends == pytest.approx(table(2)[1, 2] / table(1)[(1,)], rel=1e-5)
    assert places[(0,)].probs[99] == 0.0
    cells = Cells(given, 10**5, 3)
    assert not any(b[i] == 2 for b in cells.beginnings for i in range(len(b) - 1))


def test_what_top_k_cuts_off_is_impossible_unless_by_a_near_tie() -> None:
    logits = tiny.plain_logits("six", PROMPT)[-1]
    order = logits.argsort(descending=True).tolist()
    given = law(1, Sampling(temperature=1.0, top_k=3))
    places = given.places([(t,) for t in order])
    assert [places[()].probs[t] > 0 for t in order] == [True] * 3 + [False] * 3
    assert not places[()].edge
    gap = float(logits[order[2]] - logits[order[3]])
    given.reference.tolerance = lambda _: gap * 1.01  # type: ignore[method-assign]
    assert given.places([(t,) for t in order])[()].edge == {order[3]}


def test_the_prompt_with_the_least_certain_token_is_chosen() -> None:
    prompts = [[a, b] for a, b in itertools.product(range(6), repeat=2)]

    def entropy(prompt: list[int]) -> float:
        row = tiny.plain_logits("six", prompt)[-1].double().softmax(-1)
        return float(torch.special.entr(row).sum())

    chosen = choose_prompt(reference(), prompts, HOT)
    assert entropy(prompts[chosen]) == pytest.approx(max(map(entropy, prompts)))
