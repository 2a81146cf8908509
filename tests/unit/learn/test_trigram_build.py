"""The builder against a dictionary loop, and what interrupts and full disks leave behind."""

from __future__ import annotations

import errno
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from foretoken.draft.trigram_table import TrigramTable
from foretoken.errors import ConfigError, ForetokenError
from foretoken.learn import trigram, trigram_write
from foretoken.learn.trigram import TrigramBuilder
from foretoken.learn.trigram_corpus import Data, documents


def corpus(seed, vocab, lengths):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n) ** 2 % vocab for n in lengths]


def brute(docs, n):
    rows = defaultdict(Counter)
    for doc in docs:
        tokens = doc.tolist()
        for i in range(len(tokens) - n + 1):
            rows[tuple(tokens[i : i + n - 1])][tokens[i + n - 1]] += 1
    return rows


def check(table, docs, vocab, successors, min_count=1):
    kept = 0
    rows = brute(docs, 3)
    for a in range(vocab):
        for b in range(vocab):
            row = rows.get((a, b), Counter())
            total = sum(row.values())
            want = sorted(row.items(), key=lambda item: (-item[1], item[0]))[:successors]
            want = [(t, c / total) for t, c in want if c >= min_count]
            (tokens, probs), stored = table.trigram(a, b)
            assert list(tokens) == [t for t, _ in want]
            assert list(probs) == pytest.approx([p for _, p in want], rel=1e-3)
            if want:
                assert stored == pytest.approx(total, rel=0.05)
            kept += len(want)
    assert table.trigrams == kept
    for (b,), row in brute(docs, 2).items():
        want = sorted(row.items(), key=lambda item: (-item[1], item[0]))[:successors]
        assert list(table.bigram(b)[0][0]) == [t for t, _ in want]


@pytest.mark.parametrize("chunk", [40, 1 << 20])
@pytest.mark.parametrize(
    ("vocab", "successors", "min_count"), [(7, 12, 1), (20, 3, 1), (20, 12, 2)]
)
def test_counts_equal_a_dictionary_loop(tmp_path, monkeypatch, chunk, vocab, successors, min_count):
    monkeypatch.setattr(trigram, "_MERGE_ROWS", 256)  # many ranges
    docs = corpus(1, vocab, [300, 2, 0, 1, 3, 77, 500])
    builder = TrigramBuilder(tmp_path / "work", vocab, chunk=chunk)
    for doc in docs:
        builder.add(doc)
    report = builder.finish(tmp_path / "t", "", successors=successors, min_count=min_count)
    table = TrigramTable.open(tmp_path / "t", "", verify=True)
    check(table, docs, vocab, successors, min_count)
    assert report.bytes == (tmp_path / "t").stat().st_size
    assert report.distinct == sum(len(row) for row in brute(docs, 3).values())
    assert report.tokens == sum(map(len, docs))
    assert not (tmp_path / "work").exists()


def test_hand_counted_corpus(tmp_path):
    """Brief, check 2: twenty tokens, counted by hand."""
    text = [1, 2, 3, 1, 2, 3, 1, 2, 4, 5, 1, 2, 3, 5, 5, 5, 5, 1, 2, 4]
    builder = TrigramBuilder(tmp_path / "work", 6)
    builder.add(np.array(text))
    builder.finish(tmp_path / "t", "")
    table = TrigramTable.open(tmp_path / "t", "")
    assert table.trigram(1, 2)[0] == ([3, 4], pytest.approx([3 / 5, 2 / 5], rel=1e-3))
    assert table.trigram(5, 5)[0] == ([5, 1], pytest.approx([2 / 3, 1 / 3], rel=1e-3))
    assert table.trigram(2, 3)[0] == ([1, 5], pytest.approx([2 / 3, 1 / 3], rel=1e-3))
    assert table.trigram(2, 4)[0] == ([5], [1.0])


def test_resumed_equals_uninterrupted_byte_for_byte(tmp_path):
    docs = corpus(2, 50, [60] * 20)
    whole = TrigramBuilder(tmp_path / "w1", 50, "x", chunk=150)
    for doc in docs:
        whole.add(doc)
    whole.finish(tmp_path / "whole", "h")

    first = TrigramBuilder(tmp_path / "w2", 50, "x", chunk=150)
    for doc in docs[:13]:
        first.add(doc)  # four chunks of three documents are finished, one document is lost
    second = TrigramBuilder(tmp_path / "w2", 50, "x", chunk=150)
    assert second.resumed
    assert second.documents == 12
    for doc in docs[second.documents :]:
        second.add(doc)
    second.finish(tmp_path / "resumed", "h")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "resumed").read_bytes()


def test_other_data_or_no_resume_starts_afresh(tmp_path):
    for fingerprint, resume in (("y", True), ("x", False)):
        builder = TrigramBuilder(tmp_path / "w", 50, "x", chunk=10)
        builder.add(np.arange(20))
        assert builder.runs == 1
        assert not TrigramBuilder(tmp_path / "w", 50, fingerprint, resume=resume).resumed


def test_a_run_without_its_note_is_counted_again(tmp_path):
    builder = TrigramBuilder(tmp_path / "w", 50, chunk=10)
    builder.add(np.arange(20))
    (tmp_path / "w" / "run-00001").mkdir()  # renamed, then killed before the note
    again = TrigramBuilder(tmp_path / "w", 50, chunk=10)
    assert again.runs == 1
    again.add(np.arange(20))
    assert again.runs == 2


def test_a_full_disk_keeps_the_old_table(tmp_path, monkeypatch):
    def build(data):
        builder = TrigramBuilder(tmp_path / "w", 50, resume=False)
        builder.add(data)
        return builder.finish(tmp_path / "t", "h")

    build(np.arange(20))
    old = (tmp_path / "t").read_bytes()

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trigram_write.os, "fsync", full)
    with pytest.raises(ForetokenError, match="No space left on device") as caught:
        build(np.arange(30))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "t").read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "w"]  # no half-written file


def test_a_full_disk_while_counting_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    builder = TrigramBuilder(tmp_path / "w", 50, chunk=10)
    monkeypatch.setattr(trigram.np, "save", full)
    with pytest.raises(ForetokenError, match="No space left"):
        builder.add(np.arange(20))


def test_max_bytes_raises_min_count(tmp_path):
    docs = [(np.random.default_rng(3).random(20_000) ** 3 * 60).astype(int)]
    sizes = []
    for limit in (None, 30_000):
        builder = TrigramBuilder(tmp_path / "w", 60)
        builder.add(docs[0])
        sizes.append(builder.finish(tmp_path / "t", "", max_bytes=limit))
    assert sizes[0].bytes > 30_000 >= sizes[1].bytes
    assert sizes[1].min_count > sizes[0].min_count == 1
    builder = TrigramBuilder(tmp_path / "w", 60)
    builder.add(docs[0])
    with pytest.raises(ConfigError, match="max_bytes"):
        builder.finish(tmp_path / "t", "", max_bytes=10)


def test_impossible_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match="vocab"):
        TrigramBuilder(tmp_path / "w", 0)
    builder = TrigramBuilder(tmp_path / "w", 5)
    with pytest.raises(ConfigError, match="tokens: 5"):
        builder.add(np.array([1, 5]))
    with pytest.raises(ConfigError, match="tokens: -1"):
        builder.add(np.array([1, -1]))
    with pytest.raises(ConfigError, match="no tokens"):
        builder.finish(tmp_path / "t", "")


class Characters:
    """A tokenizer of characters."""

    eos_token_id = 0

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(c) for c in text] for text in texts]}


def test_documents_of_every_kind(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "\n".join(
            map(json.dumps, [{"text": "t"}, {"question": "q", "answer": "a"}, {"prompt": "p"}])
        )
    )
    (tmp_path / "b.txt").write_text("hey")
    (tmp_path / "c.bin").write_text("no")
    np.save(tmp_path / "d.npy", np.arange(5))
    data = Data((tmp_path,))
    got = ["".join(map(chr, d)) for d in documents(data, Characters(), 0)]
    assert got[:4] == ["t\0", "Question: q\nAnswer: a\0", "p\0", "hey\0"]
    assert got[4] == "\0\1\2\3\4"
    assert len(list(documents(data, Characters(), 3))) == 2  # resumed: three are skipped
    templated = Data((tmp_path / "a.jsonl",), template="{missing}")
    with pytest.raises(ConfigError, match=r"a\.jsonl:1.*missing"):
        list(documents(templated, Characters(), 0))


@pytest.mark.parametrize("name", ["none.txt", "c.bin"])
def test_unusable_data_is_named(tmp_path, name):
    (tmp_path / "c.bin").write_text("x")
    with pytest.raises(ConfigError, match=name):
        Data((tmp_path / name,)).files()
    with pytest.raises(ConfigError, match="stdlib"):
        Data(()).files()


def test_arrays_in_slices_lose_no_trigram(tmp_path, monkeypatch):
    from foretoken.learn import trigram_corpus

    array = np.arange(50) % 7
    np.save(tmp_path / "x.npy", array)
    monkeypatch.setattr(trigram_corpus, "PIECE", 16)
    pieces = list(documents(Data((tmp_path / "x.npy",)), None, 0))
    assert len(pieces) == 4
    assert brute(pieces, 3) == brute([array], 3)
    np.save(tmp_path / "y.npy", np.zeros((2, 2)))
    with pytest.raises(ConfigError, match=r"y\.npy"):
        list(documents(Data((Path(tmp_path / "y.npy"),)), None, 0))
