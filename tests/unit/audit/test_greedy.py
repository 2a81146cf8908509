"""Greedy text: every token on the engine's own text, near-ties told from faults."""

import pytest
import torch

from foretoken.audit.greedy import KEPT, Greedy, decoder
from foretoken.audit.reference import Reference
from foretoken.audit.words import Speller, compare_greedy
from tests import letters, tiny
from tests.unit.audit.helper import argmax, reference

PROMPT = tiny.prompt(3, 8)


def greedy(made: Reference | None = None) -> Greedy:
    return Greedy(made or reference("llama"), decoder(letters.tokenizer()))


def written(n: int, wrong: tuple[int, ...] = ()) -> list[int]:
    """Argmax text; at the places `wrong` another token, from which it goes on rightly."""
    tokens = list(PROMPT)
    for i in range(n):
        best = argmax("llama", tokens)
        tokens.append((best + 1) % tiny.VOCAB if i in wrong else best)
    return tokens[len(PROMPT) :]


def test_right_text_passes() -> None:
    found = greedy()
    found.add(0, PROMPT, written(16), 16)
    r = found.result
    assert (r.prompts, r.tokens, r.same, r.faults, r.near_ties) == (1, 16, 1, 0, 0)


def test_one_fault_is_one_fault_and_hides_none_behind_it() -> None:
    found = greedy()
    found.add(0, PROMPT, written(16, (4, 9)), 16)
    assert (found.result.faults, found.result.same) == (2, 0)
    first = found.result.differences[0]
    assert (first.position, [d.position for d in found.result.differences]) == (4, [4, 9])
    assert first.gap is not None
    assert first.gap > 0.01
    assert first.before.endswith(letters.tokenizer().decode(written(16, (4, 9))[:4]))


def test_a_small_gap_is_a_near_tie() -> None:
    made = reference("llama")
    made.tolerance = lambda best: 1e9  # type: ignore[method-assign]
    found = greedy(made)
    found.add(0, PROMPT, written(16, (4,)), 16)
    assert (found.result.faults, found.result.near_ties) == (0, 1)


def test_the_tolerance_is_stated_by_number_format() -> None:
    made = [Reference(tiny.model("six"), d) for d in (torch.float32, torch.float16, torch.bfloat16)]
    bounds = [m.tolerance(10.0) for m in made]
    assert bounds == sorted(bounds)
    assert bounds[0] < 1e-4
    assert bounds[2] < 0.5
    assert "bfloat16" in made[2].tolerance_in_words


def test_text_that_stops_short_and_ids_that_are_no_tokens_are_faults() -> None:
    found = greedy()
    found.add(0, PROMPT, written(5), 16)
    assert found.result.faults == 1
    assert found.result.differences[0].got_text == "(the text stops)"
    found = greedy()
    found.add(0, PROMPT, [*written(5), 1000, 3], 7)
    assert found.result.faults == 1
    assert "1000" in found.result.differences[0].got_text
    ended = reference("llama", [written(5)[-1]])
    found = greedy(ended)
    found.add(0, PROMPT, written(5), 16)
    assert found.result.faults == 0


def test_the_report_lists_a_few_of_many() -> None:
    found = greedy()
    found.add(0, PROMPT, written(16, tuple(range(1, 16, 2))), 16)
    assert found.result.faults == 8
    assert len(found.result.differences) == KEPT


@pytest.mark.parametrize("wrong", [(), (3,)])
def test_text_is_spelled_by_the_reference(wrong: tuple[int, ...]) -> None:
    tokenizer, found = letters.tokenizer(), greedy()
    text = tokenizer.decode(written(10, wrong))
    compare_greedy(found, 0, PROMPT, text, 10, Speller(tokenizer, PROMPT))
    assert found.result.tokens == 10
    assert (found.result.faults, found.result.near_ties) == (len(wrong), 0)
    assert [d.position for d in found.result.differences] == list(wrong)


def test_text_that_stops_is_a_fault_there() -> None:
    tokenizer, found = letters.tokenizer(), greedy()
    compare_greedy(found, 0, PROMPT, tokenizer.decode(written(6)), 10, Speller(tokenizer, PROMPT))
    assert (found.result.faults, found.result.differences[0].position) == (1, 6)
