from collections import Counter

import numpy as np
import pytest
import torch

from foretoken.errors import ConfigError
from foretoken.learn.recipes.mixing import Stage, mixed, staged
from foretoken.learn.recipes.rows import Rows

SEQ = 8


def source(mark, count=30, examples=False):
    """Rows in which every token is `mark`."""
    if examples:
        return Rows.of([([mark] * (3 + n % 5), 1) for n in range(count)], SEQ)
    documents = [np.full(5 + n, mark, np.int32) for n in range(count)]
    return Rows.of_documents(documents, documents[:1], SEQ)


def marks(batch):
    return [int(row.max()) for row in batch.ids]


def test_shares_are_kept_and_spread():
    rows = mixed({"a": source(1), "b": source(2), "c": source(3)}, {"a": 5, "b": 3, "c": 2})
    seen = marks(rows.batch(0, 200))
    assert Counter(seen) == {1: 100, 2: 60, 3: 40}
    assert all(1 in seen[i : i + 4] for i in range(196))
    assert Counter(marks(rows.held_out())) == {1: 1, 2: 1, 3: 1}


def test_a_source_alone_is_unchanged():
    alone = source(1)
    assert torch.equal(mixed({"a": alone}, {"a": 2.0}).batch(3, 7).ids, alone.batch(3, 7).ids)


def test_rows_depend_on_their_number_only():
    parts = {"a": source(1), "b": source(2, examples=True)}
    stages = [Stage(3, {"a": 1}), Stage(2, {"a": 1, "b": 1}), Stage(4, {"b": 1})]
    rows = staged(parts, stages, batch=4)
    whole = rows.batch(0, 60)
    for step in (14, 3, 0, 7):
        assert torch.equal(rows.batch(step, 4).ids, whole.ids[4 * step : 4 * step + 4])
    got = marks(whole)
    assert got[:12] == [1] * 12
    assert Counter(got[12:20]) == {1: 4, 2: 4}
    assert set(got[20:]) == {2}


def test_a_later_stage_goes_on_where_a_source_was_left():
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 99, 40).astype(np.int32) for _ in range(9)]
    a, b = Rows.of_documents(documents, [], SEQ), source(7)
    rows = staged({"a": a, "b": b}, [Stage(5, {"a": 1}), Stage(5, {"a": 1, "b": 1})], batch=2)
    got = rows.batch(0, 20).ids
    of_a = got[(got != 7).any(dim=1)]
    assert torch.equal(of_a, a.batch(0, 15).ids)


def test_plain_text_beside_examples_is_one_text_a_row():
    rows = mixed({"a": source(1), "b": source(2, examples=True)}, {"a": 1, "b": 1})
    batch = rows.batch(0, 4)
    for row, mark in enumerate(marks(batch)):
        if mark == 1:
            assert batch.positions[row].tolist() == list(range(SEQ))
            assert batch.mask[row].all()


def test_the_last_stage_may_become_longer_and_nothing_else_may_change():
    def sha(*steps, weight=1):
        stages = [Stage(n, {"a": 1, "b": weight}) for n in steps]
        return staged({"a": source(1), "b": source(2)}, stages, batch=2).sha256

    assert sha(3, 5) == sha(3, 9)
    assert len({sha(3, 5), sha(4, 5), sha(3), sha(3, 5, weight=2)}) == 4


def test_stages_are_read_and_refused_by_name():
    assert Stage.parse("600:text=1,code=2.5") == Stage(600, {"text": 1.0, "code": 2.5})
    assert Stage.parse("7:text") == Stage(7, {"text": 1.0})
    for wrong in ("text=1", "x:text=1", "5:text=y"):
        with pytest.raises(ConfigError, match="^stage: "):
            Stage.parse(wrong)
    for stage in (Stage(5, {"c": 1}), Stage(0, {"a": 1}), Stage(5, {"a": 0}), Stage(5, {})):
        with pytest.raises(ConfigError, match="^stage: "):
            staged({"a": source(1)}, [stage], batch=2)
