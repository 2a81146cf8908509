"""The table of `stand`: methods/stand.md, section 9, check 1, and what is read from it."""

import json

import pytest
import torch

from foretoken.draft.stand_table import Row, StandTable, checked, packed, warped
from foretoken.errors import ArtifactError
from foretoken.prompt.sampling import Warper
from foretoken.types import Sampling

A, B, C, D = 1, 2, 3, 4


def table(**values) -> StandTable:
    return StandTable(**{"lengths": (2,), "floor": 0.0, "trust": 0.0, **values})


def read(made: StandTable, tail: tuple[int, ...]) -> dict[int, float]:
    hit = made.find(tail)
    assert hit is not None
    return dict(zip(hit[1].tokens, hit[1].probs, strict=True))


def test_the_papers_example() -> None:
    made = table()
    made.learn((8, 9), [A, B, C], [0.7, 0.2, 0.05])
    made.learn((8, 9), [B, A, D], [0.5, 0.4, 0.05])
    assert read(made, (8, 9)) == pytest.approx({A: 0.55, B: 0.35, C: 0.025, D: 0.025})
    made = table()  # as the brief writes it: old (.7, .2, .05), new (.3, .6, .05 elsewhere)
    made.learn((8, 9), [A, B, C], [0.7, 0.2, 0.05])
    made.learn((8, 9), [B, A, D], [0.6, 0.3, 0.05])
    assert read(made, (8, 9)) == pytest.approx({A: 0.5, B: 0.4, C: 0.025, D: 0.025})


def test_many_sightings_give_the_mean() -> None:
    """Without truncation; a token that a row lacks counts as 0."""
    rows = torch.rand(12, 6, generator=torch.Generator().manual_seed(1)).softmax(-1)
    rows[::3, 0] = 0.0
    made = table()
    for row in rows:
        order = row.argsort(descending=True)
        made.learn((8, 9), order.tolist(), row[order].tolist())
    assert read(made, (8, 9)) == pytest.approx(dict(enumerate(rows.mean(0).tolist())), abs=1e-6)


def test_the_floor_keeps_a_row_moving() -> None:
    made = table(floor=0.25)
    for _ in range(100):
        made.learn((8, 9), [A], [1.0])
    made.learn((8, 9), [B], [1.0])
    assert read(made, (8, 9)) == pytest.approx({A: 0.75, B: 0.25}, abs=1e-6)


def test_only_the_likeliest_stay() -> None:
    made = table(width=2)
    made.learn((8, 9), [A, B, C], [0.5, 0.3, 0.2])
    made.learn((8, 9), [C, B], [0.9, 0.1])
    assert read(made, (8, 9)) == pytest.approx({C: 0.45, A: 0.25})


def test_the_longest_known_key_answers() -> None:
    made = table(lengths=(2, 3, 4))
    made.learn((5, 6, 7, 8), [A], [0.9])
    made.learn((0, 0, 7, 8), [B], [0.7])  # the mean of key (7, 8) holds both
    assert read(made, (5, 6, 7, 8)) == pytest.approx({A: 0.9})
    assert made.find((5, 6, 7, 8))[0] == 4
    assert made.find((1, 6, 7, 8))[0] == 3
    assert made.find((1, 1, 7, 8))[0] == 2
    assert read(made, (1, 1, 7, 8)) == pytest.approx({A: 0.45, B: 0.35})
    assert made.find((1, 1, 1, 8)) is None
    assert made.find((8,)) is None


def test_shorter_keys_share_what_a_rare_longer_one_leaves() -> None:
    made = table(lengths=(1, 2), trust=3.0)
    made.learn((7, 8), [A], [1.0])
    for _ in range(2):
        made.learn((0, 8), [B], [1.0])
    # key (7, 8): seen once, 1/4; key (8): seen 3 times, 1/2 of what is left
    expected = {A: 1 / 4 + 3 / 8 * 1 / 3, B: 3 / 8 * 2 / 3}
    assert read(made, (7, 8)) == pytest.approx(expected, abs=1e-6)
    assert made.find((7, 8))[1].seen == 1.0


def test_a_prompt_is_read_once() -> None:
    made = table(lengths=(1, 2))
    for _ in range(3):
        made.read([5, 6, 7, 6, 7], 0.25)
    assert read(made, (5, 6)) == pytest.approx({7: 0.25})
    assert made.find((5, 6))[1].seen == 1.0
    assert read(made, (7, 6)) == pytest.approx({7: 0.25})


def test_bounded_and_the_longest_unwritten_goes() -> None:
    made = table(lengths=(1,), limit=3)
    for token in (1, 2, 3):
        made.learn((token,), [A], [1.0])
    made.find((2,))  # reading leaves no trace
    made.learn((1,), [B], [1.0])
    made.learn((4,), [A], [1.0])
    assert len(made) == 3
    assert [key[0] for key, *_ in made.state()] == [3, 1, 4]


def test_state_is_json_and_comes_back_to_the_bit() -> None:
    made, twin = table(lengths=(1, 2)), table(lengths=(1, 2))
    for i in range(20):
        made.learn((i % 3, i % 4), [i % 5, 9], [0.7, 0.1])
    twin.load(checked(json.loads(json.dumps(made.state()))))
    assert twin.state() == made.state()
    small = table(lengths=(1, 2), limit=4)
    small.load(checked(made.state()))
    assert small.state() == made.state()[-4:]


@pytest.mark.parametrize(
    "row",
    [
        [[1], [2], [0.5]], [[1], [2, 3], [0.5], 1.0], [[1], [], [], 1.0], [[1], [-2], [0.5], 1.0],
        [[1], [2], ["x"], 1.0], [[1], [2, 3], [0.2, 0.5], 1.0], [[1], [2], [1.5], 1.0],
        [[1], [2], [0.5], 0.0], 7,
    ],
)  # fmt: skip
def test_a_row_that_is_none_is_refused(row) -> None:
    made_well = [[1, 2], [3], [0.5], 1.0]
    assert len(checked([made_well])) == 1
    with pytest.raises(ArtifactError, match="stand: "):
        checked([made_well, row])


SETTINGS = [
    {"temperature": 1.0}, {"temperature": 0.6}, {"temperature": 1.7},
    {"temperature": 0.8, "top_k": 4}, {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 0.7, "min_p": 0.1}, {"temperature": 0.9, "top_k": 6, "top_p": 0.7, "min_p": 0.2},
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_whole_row_is_processed_as_the_target_processes_it(setting: dict) -> None:
    sampling = Sampling(**setting)
    logits = torch.randn(9, generator=torch.Generator().manual_seed(3)) * 1.5
    raw = logits.softmax(-1)
    order = raw.argsort(descending=True)
    expected = Warper(sampling, [0], (), 5, 9).warp(logits, [0]).softmax(-1)[order]
    found = warped(packed(order.tolist(), raw[order].tolist(), 1.0), sampling, 1.0)
    assert found == pytest.approx([p for p in expected.tolist() if p > 0], abs=1e-5)


def test_what_a_row_does_not_know_keeps_its_share() -> None:
    row = Row([A, B], [0.5, 0.25], 1.0)
    assert warped(row, Sampling(temperature=1.0), 1.0) == pytest.approx([0.5, 0.25])
    # three unknown tokens of 1/12, each taken for as likely as B
    rest = 0.25 * 0.25
    colder = warped(row, Sampling(temperature=0.5), 1.0)
    assert colder == pytest.approx([0.25 / (0.3125 + rest), 0.0625 / (0.3125 + rest)])
    assert warped(row, Sampling(), 1.0) == pytest.approx([0.5, 0.25])
    assert warped(row, Sampling(), 3.0)[0] > 0.5


def test_extreme_temperatures_give_probabilities() -> None:
    row = packed([A, B], [0.6, 1e-30], 1.0)
    for temperature in (1e-4, 1e-2, 50.0):
        found = warped(row, Sampling(temperature=temperature), 1.0)
        assert 0.0 < sum(found) <= 1.0 + 1e-9
    assert warped(packed([A], [0.0], 1.0), Sampling(temperature=1.0), 1.0) == []
