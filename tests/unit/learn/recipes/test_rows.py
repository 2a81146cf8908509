import itertools

import numpy as np
import pytest
import torch
from tests import tiny

from foretoken.errors import ConfigError
from foretoken.learn.recipes.forward import reads_packed
from foretoken.learn.recipes.rows import Example, Rows


def examples(lengths, seed=0):
    """(ids, n_prompt), no two alike."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(1, 5000, n).tolist(), max(1, n // 3)) for n in lengths]


ONE_TEXT = {"opt", "falcon", "gpt-oss"}  # families that read a packed row as one text
LENGTHS = [5, 9, 14, 3, 7, 16, 11, 6, 12, 8, 4, 10]


def unpacked(batch):
    """The examples in a batch, as (ids, mask) tuples, found by their positions."""
    found = []
    for ids, mask, positions in zip(
        batch.ids.tolist(), batch.mask.tolist(), batch.positions.tolist(), strict=True
    ):
        starts = [i for i, p in enumerate(positions) if p == 0] + [len(ids)]
        found += [
            (tuple(ids[a:b]), tuple(mask[a:b]))
            for a, b in itertools.pairwise(starts)
            if any(ids[a:b])
        ]
    return found


def test_an_epoch_holds_every_example_once_whole_and_learns_its_answer_only():
    given = examples(LENGTHS)
    rows = Rows.of(given, seq=16, seed=3)
    batch = rows.batch(0, len(rows.stream._packed))
    want = [(tuple(ids), tuple(i >= n for i in range(len(ids)))) for ids, n in given]
    assert sorted(unpacked(batch)) == sorted(want)
    assert batch.ids.shape[1] == 16
    assert rows.tokens_per_epoch == int(batch.mask.sum())


def test_little_is_padding():
    rng = np.random.default_rng(1)
    given = examples(rng.integers(4, 100, 300))
    rows = Rows.of(given, seq=128)
    packed = rows.stream._packed
    assert sum(len(ids) for ids, _ in given) / packed.ids.numel() > 0.93


def test_rows_depend_on_step_and_seed_only():
    given = examples(LENGTHS)
    whole = Rows.of(given, 16, seed=1)
    far = Rows.of(given, 16, seed=1).batch(7, 4)
    for step in range(12):
        whole.batch(step, 4)
    assert torch.equal(far.ids, whole.batch(7, 4).ids)
    assert not torch.equal(Rows.of(given, 16, seed=2).batch(7, 4).ids, far.ids)


def test_processes_share_a_step_without_overlap():
    rows = Rows.of(examples(LENGTHS), 16)
    together = rows.batch(3, 4)
    parts = [rows.batch(3, 4, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([p.ids for p in parts]), together.ids)
    assert torch.equal(torch.cat([p.positions for p in parts]), together.positions)
    with pytest.raises(ConfigError, match="batch: 3"):
        rows.batch(0, 3, 0, 2)


def test_the_held_out_side_of_a_prompt_never_moves():
    prompts = [[n, n + 1, n + 2] for n in range(1, 200)]
    first = [([*p, 7, 8], 3) for p in prompts]
    more = [([*p, 9], 3) for p in prompts] + first[::-1]
    few, many = Rows.of(first, 16, held_out=0.3), Rows.of(more, 16, held_out=0.3)
    held = {ids[:3] for ids, _ in unpacked(few.held_out())}
    assert 30 < len(held) < 90
    assert {ids[:3] for ids, _ in unpacked(many.held_out())} == held
    trained = {ids[:3] for ids, _ in unpacked(many.batch(0, len(many.stream._packed)))}
    assert not trained & held
    assert len(trained) + len(held) == len(prompts)
    assert torch.equal(many.held_out(2).ids, many.held_out().ids[:2])


@pytest.mark.parametrize(
    ("length", "n_prompt", "first", "learned"),
    [(30, 25, 14, 5), (30, 4, 0, 12), (30, 14, 6, 8)],
)
def test_a_long_example_keeps_the_end_of_its_prompt_and_the_start_of_its_answer(
    length, n_prompt, first, learned
):
    cut = Example.of(list(range(length)), n_prompt).cut(16)
    assert cut.ids.tolist() == list(range(first, first + 16))
    assert cut.mask.sum() == learned


def test_data_without_answers_is_refused():
    with pytest.raises(ConfigError, match="data: '0 examples'"):
        Rows.of([([1, 2, 3], 3), ([4], 0)], 16)


def test_documents_are_learned_whole():
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 99, n).astype(np.int32) for n in (20, 5, 40, 13)]
    rows = Rows.of_documents(documents, documents[:1], seq=16, seed=0)
    batch = rows.batch(1, 3)
    assert batch.ids.shape == (3, 16)
    assert batch.mask.all()
    assert batch.positions is None
    assert rows.held_out().ids[0].tolist() == documents[0][:16].tolist()
    with pytest.raises(ConfigError, match="data: 'no documents'"):
        Rows.of_documents([], [], 16)


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES.keys() - ONE_TEXT))
def test_packed_examples_are_read_as_if_alone(family):
    given = [(tiny.prompt(seed, length), 2) for seed, length in enumerate((5, 9, 7, 6))]
    rows = Rows.of(given, seq=24)
    batch = rows.batch(0, 2)
    model = tiny.model(family)
    assert reads_packed(model)
    with torch.no_grad():
        logits = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits
    for row, ids in enumerate(batch.ids.tolist()):
        starts = [i for i, p in enumerate(batch.positions[row].tolist()) if p == 0] + [len(ids)]
        for a, b in itertools.pairwise(starts):
            if any(ids[a:b]):
                alone = tiny.plain_logits(family, ids[a:b])
                torch.testing.assert_close(logits[row, a:b], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", sorted(ONE_TEXT))
def test_families_that_would_mix_examples_are_noticed(family):
    assert not reads_packed(tiny.model(family))


def test_an_example_can_have_a_row_of_its_own():
    rows = Rows.of(examples(LENGTHS), 16, packed=False)
    batch = rows.batch(0, len(LENGTHS))
    assert len(unpacked(batch)) == len(LENGTHS)
    assert (batch.positions[:, 0] == 0).all()
    assert ((batch.positions == 0) | (batch.positions == torch.arange(16))).all()


def test_answers_of_any_length_keep_their_prompt_on_one_side():
    """Long examples are cut at the front: that must not move an answer to the other side."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(100, 5000, 14).tolist() for _ in range(30)]
    answers = [[[p + 1] * n for n in (2, 9, 30)] for p in range(30)]
    given = [(p + a, 14) for p, some in zip(prompts, answers, strict=True) for a in some]
    rows = Rows.of(given, seq=16, held_out=0.4)
    held = {int(i) for i in rows.held_out().ids.unique()}
    trained = {int(i) for e in rows.examples for i in e.ids[e.mask]}
    assert held
    assert trained.isdisjoint(held)
