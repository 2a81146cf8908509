"""The three parts of the buffer: bounded, held out in turn, and a fair reservoir."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken.learn.online import buffer as module
from foretoken.learn.online.buffer import HELD_OUT, TEXTS, Buffer, Sample, newest, rows


def piece(n: int, wrong: int = 0, on_text: bool = True, name: int = 0) -> Sample:
    places = np.arange(n)
    return Sample(
        places + name, places, places < wrong, np.zeros((n, 2), dtype=np.int64),
        np.zeros((n, 3), dtype=np.float32), 1.0, on_text,
    )  # fmt: skip


@settings(max_examples=60)
@given(
    most=st.integers(8, 200),
    moves=st.lists(
        st.tuples(st.integers(0, 90), st.booleans(), st.booleans()), min_size=1, max_size=60
    ),
)
def test_it_holds_no_more_than_it_may(most: int, moves: list[tuple[int, bool, bool]]) -> None:
    held = Buffer(most)
    for n, on_text, take in moves:
        held.add([piece(n, on_text=on_text)])
        assert len(held) == rows([*held.fresh, *held.held_out, *held.old]) <= most
        assert rows(held.held_out) <= most // 8
        assert all(sample.on_text for sample in held.held_out)
        if take:
            held.take()
            assert not held.fresh
            assert len(held) <= most


def test_short_texts_are_bounded_by_their_number() -> None:
    held = Buffer(1 << 20)
    for _ in range(8):
        held.add(piece(1) for _ in range(300))
        held.take()
    held.add(piece(1) for _ in range(900))
    assert (len(held.fresh), len(held.held_out), len(held.old)) == TEXTS


def test_every_fourth_text_is_held_out_and_learned_from_later() -> None:
    held = Buffer(800)
    held.add(piece(10, name=i) for i in range(40))
    assert [int(s.tokens[0]) for s in held.held_out] == list(range(0, 40, HELD_OUT))
    held.add([piece(10, on_text=False, name=99)])
    assert held.fresh[-1].tokens[0] == 99
    held.add(piece(10, name=i) for i in range(40, 80))
    assert rows(held.held_out) == 100
    assert int(held.held_out[-1].tokens[0]) == 76
    assert {int(s.tokens[0]) for s in held.old} == set(range(0, 40, HELD_OUT)), "those displaced"


def test_the_newest_fresh_texts_stay() -> None:
    held = Buffer(80)
    held.add(piece(10, name=i) for i in range(20))
    assert [int(s.tokens[0]) for s in held.fresh] == [15, 17, 18, 19]


def test_the_reservoir_is_a_fair_sample_of_all_that_came() -> None:
    """Each of 30 texts stays with chance 6 / 30; a bias to new or old ones would show."""
    stayed: Counter[int] = Counter()
    for seed in range(400):
        held = Buffer(160, seed)
        for start in range(0, 40, 4):
            held.add(piece(10, name=i) for i in range(start, start + 4))
            held.take()
        stayed.update(int(s.tokens[0]) for s in held.old)
    learned = [i for i in range(40) if i % HELD_OUT]
    counts = [stayed[i] for i in learned]
    each = sum(counts) / len(counts)
    assert each == 400 * 6 / 30 or each > 60
    # binomial(400, 0.2) has a deviation of 8: five of them on 30 counts alarm once in 50 000
    assert max(abs(count - each) for count in counts) < 40


def test_the_same_seed_keeps_the_same() -> None:
    def kept(seed: int) -> list[int]:
        held = Buffer(160, seed)
        held.add(piece(10, name=i) for i in range(8))
        held.take()
        held.add(piece(10, name=i) for i in range(8, 16))
        held.take()
        return [int(s.tokens[0]) for s in held.old]

    assert kept(1) == kept(1)
    assert len({tuple(kept(seed)) for seed in range(5)}) > 1


def test_refused_rows_alone() -> None:
    """Not in the held-out slice, which judges the whole text."""
    held = Buffer(800, refused=True)
    held.add([piece(10, wrong=3), piece(10, wrong=2), piece(10), piece(4, on_text=False)])
    assert [len(s) for s in held.held_out] == [10]
    assert [len(s) for s in held.fresh] == [2, 4]
    assert held.fresh[0].tokens.tolist() == [0, 1]


def test_a_choice_replaces_the_reservoir() -> None:
    held = Buffer(160)
    held.add(piece(10, name=i) for i in range(12))
    taken = held.take()
    held.keep(taken[2:4])
    assert held.old == taken[2:4]
    assert held.room == 160 - 80 - 20


def test_parts_of_a_sample() -> None:
    sample = piece(10, wrong=4)
    part = sample.only([2, 5])
    assert part.positions.tolist() == [2, 5]
    assert part.wrong.tolist() == [True, False]
    assert part.tokens.tolist() == list(range(6))
    assert newest(sample, 3).positions.tolist() == [7, 8, 9]
    assert newest(sample, 30) is sample
    assert len(sample.only([])) == len(sample.only([]).tokens) == 0
    assert module.rows([]) == 0
