"""The table file: what is read back, and what every kind of damage says."""

from __future__ import annotations

import numpy as np
import pytest

from foretoken.draft.mapped import PREFIX
from foretoken.draft.trigram_table import (
    NO_ROW,
    TABLE,
    TrigramTable,
    blend,
    normalise,
    rank,
)
from foretoken.errors import ArtifactError
from foretoken.learn.trigram import TrigramBuilder


@pytest.fixture
def path(tmp_path):
    builder = TrigramBuilder(tmp_path / "work", vocab=10)
    builder.add(np.array([1, 2, 3, 1, 2, 4, 1, 2, 3, 9]))
    builder.finish(tmp_path / "t.table", "key")
    return tmp_path / "t.table"


def test_reads_rows_with_their_totals(path):
    table = TrigramTable.open(path, "key", verify=True)
    (tokens, probs), total = table.trigram(1, 2)
    assert tokens == [3, 4]
    assert probs == pytest.approx([2 / 3, 1 / 3], rel=1e-3)
    assert total == pytest.approx(3, rel=0.05)
    assert table.trigram(9, 9) == (NO_ROW, 0.0)
    assert table.trigram(3, 9) == (NO_ROW, 0.0)
    assert table.trigram(-1, 99) == (NO_ROW, 0.0)
    assert table.bigram(2)[0][0] == [3, 4]
    assert table.bigram(99) == (NO_ROW, 0.0)
    assert table.trigrams == 7


def test_trust_shrinks_towards_the_backoff_row(path):
    table = TrigramTable.open(path, "key")
    table.trust = 3.0
    tokens, probs = table.row(3, 1)  # seen once: only 2; after 1 always 2
    assert tokens == [2]
    assert probs == pytest.approx([1.0])
    shrunk = table.row(1, 2)
    assert sum(shrunk[1]) == pytest.approx(1.0, abs=1e-3)
    assert table.row(1, 2) is shrunk  # cached
    assert table.row(-1, 2)[0] == [3, 4]
    assert table.row(7, 2) == NO_ROW


def test_another_tokenizer_is_refused_with_both_hashes(path):
    with pytest.raises(ArtifactError, match=r"tokenizer key.*model's is other"):
        TrigramTable.open(path, "other")
    assert TrigramTable.open(path).tokenizer_hash == "key"


@pytest.mark.parametrize("size", [0, 3, 20, PREFIX.size, 200, -64, -1])
def test_truncation_is_found_at_load(path, size):
    data = path.read_bytes()
    path.write_bytes(data[:size])
    with pytest.raises(ArtifactError, match=str(path)):
        TrigramTable.open(path, "key")


def test_damage_is_found(path):
    data = bytearray(path.read_bytes())
    for at, match in (
        (0, "not a tri-gram table"),
        (len(TABLE.magic), "version"),
        (PREFIX.size + 9, "header"),
    ):
        damaged = bytearray(data)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=match):
            TrigramTable.open(path, "key")
    data[-70] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="checksum"):
        TrigramTable.open(path, "key", verify=True)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"none\.table"):
        TrigramTable.open(tmp_path / "none.table")


def test_a_large_vocabulary_uses_wide_ids(tmp_path):
    builder = TrigramBuilder(tmp_path / "work", vocab=200_000)
    builder.add(np.array([199_999, 70_000, 150_000, 5]))
    builder.finish(tmp_path / "t.table", "")
    table = TrigramTable.open(tmp_path / "t.table", "")
    assert table.trigram(199_999, 70_000)[0] == ([150_000], [1.0])


def test_rank_blend_and_normalise():
    assert rank({5: 0.2, 3: 0.2, 9: 0.5}, 2) == ([9, 3], [0.5, 0.2])
    tokens, probs = blend(([1, 2], [0.5, 0.5]), ([2, 3], [0.9, 0.1]), 0.5, 3)
    assert tokens == [2, 1, 3]
    assert probs == pytest.approx([0.7, 0.25, 0.05])
    assert normalise(([1, 2], [3.0, 1.0])) == ([1, 2], [0.75, 0.25])
    assert normalise(([1], [0.4])) == ([1], [0.4])
