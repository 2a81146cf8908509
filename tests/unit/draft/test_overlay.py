"""Learned rows: the youngest are kept, and notes are worked in as if they had been at once."""

import random
from collections.abc import Sequence

import pytest

from foretoken.draft.aded_store import Store
from foretoken.draft.overlay import MOST_NOTES, Note, Overlay, Pair
from foretoken.draft.trigram_table import Row


def listed(key: Pair, row: Row, notes: Sequence[Note]) -> Row:
    """Rows that say which notes they are made of."""
    del key
    return [*row[0], *(int(weight) for _, weight in notes)], [*row[1], *[1.0] * len(notes)]


def test_the_row_written_longest_ago_goes() -> None:
    overlay = Overlay(3, listed)
    for i in range(3):
        overlay.put((0, i), ([i], [1.0]))
    overlay.put((0, 0), ([9], [1.0]))  # written again: now the youngest
    overlay.put((0, 7), ([7], [1.0]))
    assert len(overlay) == 3
    assert [key for key, _ in overlay] == [(0, 2), (0, 0), (0, 7)]


def test_a_note_is_a_write_as_well() -> None:
    overlay = Overlay(2, listed)
    for b in (1, 2, 1, 3):
        overlay.note((0, b), (((), ()), b))
    assert [(key, row[0]) for key, row in overlay] == [((0, 1), [1, 1]), ((0, 3), [3])]
    assert overlay.get((0, 2)) is None


def test_notes_of_a_row_that_went_are_gone() -> None:
    overlay = Overlay(1, listed)
    overlay.note((0, 1), (((), ()), 5))
    overlay.note((0, 2), (((), ()), 6))
    overlay.note((0, 1), (((), ()), 7))
    assert dict(overlay) == {(0, 1): ([7], [1.0])}


def test_what_is_put_takes_the_place_of_notes() -> None:
    overlay = Overlay(2, listed)
    overlay.note((0, 1), (((), ()), 5))
    overlay.put((0, 1), ([4], [1.0]))
    assert overlay.get((0, 1)) == ([4], [1.0])


def test_notes_are_worked_in_once_and_in_order() -> None:
    overlay = Overlay(2, listed)
    for weight in range(3 * MOST_NOTES + 2):
        overlay.note((0, 1), (((), ()), weight))
    expected = list(range(3 * MOST_NOTES + 2))
    assert overlay.get((0, 1)) == overlay.get((0, 1)) == (expected, [1.0] * len(expected))


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_a_store_that_is_read_late_knows_what_one_that_is_always_read_knows(decay: float) -> None:
    dice = random.Random(3)
    late, always = (Store(None, 1000, 4, decay) for _ in range(2))
    for _ in range(400):
        key = (dice.randrange(-1, 3), dice.randrange(4))
        tokens = dice.sample(range(9), 3)
        weights = sorted((dice.random() / 3 for _ in tokens), reverse=True)
        for store in (late, always):
            store.learn(key, (tokens, weights), 0.3)
        always.weights(key)
    assert late.state() == always.state()
