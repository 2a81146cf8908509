"""Which tokens are kept, against a plain ranking, and the file that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretoken.draft.trim import FILE, Trim, eagle3_maps, hash_of, kept_tokens, read_trim
from foretoken.errors import ArtifactError, ConfigError

COUNTS = np.array([0, 5, 5, 0, 9, 1, 0, 5])


def ranked(counts: list[int], k: int, always: set[int]) -> list[int]:
    """The rule, spelled out."""
    rest = sorted(set(range(len(counts))) - always, key=lambda token: (-counts[token], token))
    return sorted([*always, *rest[: k - len(always)]])


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=20), data=st.data(),
)  # fmt: skip
def test_the_most_counted_and_those_that_must_be(counts: list[int], data: Any) -> None:
    always = data.draw(st.sets(st.integers(0, len(counts) - 1)))
    k = data.draw(st.integers(max(len(always), 1), len(counts)))
    keep = kept_tokens(np.array(counts), k, always)
    assert keep == ranked(counts, k, always)
    assert len(set(keep)) == k
    assert keep == sorted(keep)
    assert always <= set(keep)


def test_ties_go_to_the_lower_id_and_gaps_are_filled_from_below() -> None:
    assert kept_tokens(COUNTS, 3) == [1, 2, 4]
    assert kept_tokens(COUNTS, 3, [6]) == [1, 4, 6]
    assert kept_tokens(COUNTS, 7) == [0, 1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize(("k", "always"), [(0, ()), (9, ()), (1, (2, 3)), (3, (8,)), (3, (-1,))])
def test_sizes_that_cannot_be(k: int, always: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^(k|always): "):
        kept_tokens(COUNTS, k, always)


@given(k=st.integers(1, 8))
def test_maps_of_eagle3_agree_with_each_other(k: int) -> None:
    keep = kept_tokens(COUNTS, k)
    offsets, known = eagle3_maps(keep, 8)
    assert [j + int(offset) for j, offset in enumerate(offsets)] == keep
    assert bool(known[keep].all())
    assert int(known.sum()) == k
    assert known.nonzero()[:, 0].tolist() == keep


def test_coverage_is_the_share_of_what_was_counted() -> None:
    trim = Trim.of(COUNTS, 3, [6], "tok")
    assert trim.coverage == pytest.approx((9 + 5 + 0) / 25)
    assert trim.counts == (5, 9, 0)
    assert trim.known().tolist() == [0, 5, 0, 0, 9, 0, 0, 0]


@given(k=st.integers(2, 6), fewer=st.integers(1, 6))
def test_fewer_of_a_trim_are_those_that_were_counted_most(k: int, fewer: int) -> None:
    trim = Trim.of(COUNTS, k, [6])
    if fewer > k:
        with pytest.raises(ConfigError, match="k: "):
            trim.smaller(fewer)
        return
    small = trim.smaller(fewer)
    assert small.keep == tuple(kept_tokens(COUNTS, fewer, [6]))
    assert small.coverage == pytest.approx(Trim.of(COUNTS, fewer, [6]).coverage)


def test_the_file_goes_round_and_is_written_whole(tmp_path: Path) -> None:
    assert read_trim(tmp_path) is None
    trim = Trim.of(COUNTS, 3, [6], "tok")
    assert trim.write(tmp_path) == tmp_path / FILE
    assert read_trim(tmp_path) == read_trim(tmp_path / FILE) == trim
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    trim.check(tmp_path, "tok", 8)
    trim.check(tmp_path)


def test_another_tokenizer_or_vocabulary_is_refused() -> None:
    trim = Trim.of(COUNTS, 3, [6], "tok")
    for known in ({"tokenizer_hash": "other"}, {"vocab": 9}):
        with pytest.raises(ArtifactError, match=r"^here: vocab_trim.json is of .*train draft"):
            trim.check("here", **known)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2), ("k", 4), ("keep", [6, 1, 4]), ("keep", [1, 1, 4]), ("keep", [1, 4, 8]),
        ("counts", [1]), ("always", [7]), ("tokenizer_hash", "x"), ("counts_hash", "x"),
        ("unknown", 1),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, field: str, value: Any) -> None:
    path = Trim.of(COUNTS, 3, [6], "tok").write(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ArtifactError, match=r"vocab_trim.json: .*make it anew") as error:
        read_trim(tmp_path)
    assert "\n" not in str(error.value)
    path.write_text("{")
    with pytest.raises(ArtifactError):
        read_trim(tmp_path)


def test_other_counts_are_another_trim() -> None:
    """Its key tells a stale file from a fresh one."""
    other = COUNTS.copy()
    other[0] += 1
    assert hash_of(COUNTS) != hash_of(other)
    keys = {
        Trim.of(counts, k, [6], tokenizer).key
        for counts in (COUNTS, other) for k in (3, 4) for tokenizer in ("a", "b")
    }  # fmt: skip
    assert len(keys) == 8
