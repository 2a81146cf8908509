"""The datastore of `rest`: built right, read right, refused when anything is wrong with it."""

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from foretoken.cli.main import main
from foretoken.draft import rest_store
from foretoken.draft.mapped import ALIGN
from foretoken.draft.rest_store import STORE, RestStore, open_beside
from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.rest import Report, build_store, join, places

V = 20
dice = np.random.default_rng(3)


def corpus(vocab: int, *lengths: int) -> list[np.ndarray]:
    return [dice.integers(0, vocab, n) for n in lengths]


def brute_places(text: list[int], separator: int) -> list[int]:
    """Every place after a token, sorted by the text before it read backwards."""
    after = [i + 1 for i, token in enumerate(text) if token != separator]
    return sorted(after, key=lambda end: text[:end][::-1])


@pytest.mark.parametrize("vocab", [V, 65535, 65536, 100_000])
def test_places_are_sorted_by_the_text_before_them(vocab: int, tmp_path: Path) -> None:
    """16 bits hold ids up to 65535, the separator's among them."""
    docs = [*corpus(4, 300, 1, 0, 200), np.array([vocab - 1, 0, vocab - 1])]
    text, count = join(docs, vocab)
    assert count == 4
    assert (text[0], text[-1], np.count_nonzero(text == vocab)) == (vocab, vocab, count + 1)
    assert places(text, vocab).tolist() == brute_places(text.tolist(), vocab)
    report = build_store(tmp_path / "s", docs, vocab, "h")
    assert report == Report(504, 4, (tmp_path / "s").stat().st_size)
    store = RestStore.open(tmp_path / "s", "h")
    assert list(store.text) == text.tolist()
    assert list(store._ends) == brute_places(text.tolist(), vocab)
    assert (len(store), store.separator) == (504, vocab)
    assert store.text.itemsize == (2 if vocab < 65536 else 4)  # type: ignore[attr-defined]


def test_the_search_equals_brute_force(tmp_path: Path) -> None:
    """methods/rasd.md, check 1: 5,000 tokens over 20, every length, 200 queries."""
    docs = corpus(V, 2000, 1500, 1500)
    build_store(tmp_path / "s", docs, V, "")
    store = RestStore.open(tmp_path / "s", "")
    text = list(store.text)
    deepest = 0
    for i in range(200):
        query = dice.integers(0, V, 16).tolist()
        if i % 2:  # a true copy, whose first tokens are spoilt
            at = int(dice.integers(20, len(text)))
            query[-int(dice.integers(1, 16)) :] = text[at - 16 : at]
            query = [min(token, V - 1) for token in query[-16:]]
        tails = store.tails(query, 16)
        hits = list(range(1, len(text)))
        for length in range(1, 17):
            hits = [e for e in hits if e >= length and text[e - length] == query[-length]]
            if not hits:
                break
            found = tails[length - 1]
            assert found.length == length
            assert sorted(store.places(found, 10**6)) == hits
            deepest = max(deepest, length)
        assert len(tails) == (length if hits else length - 1)
    assert deepest > 8


def test_few_places_of_many_are_spread_evenly(tmp_path: Path) -> None:
    build_store(tmp_path / "s", corpus(3, 4000), 3, "")
    store = RestStore.open(tmp_path / "s")
    short, longer = store.tails([0, 1], 2)
    every = store.places(short, 10**6)
    assert len(every) == short.high - short.low > 1000
    few = store.places(short, 100)
    ranks = [every.index(place) for place in few]
    assert len(ranks) == 100
    assert {b - a for a, b in pairwise(ranks)} == {len(every) // 100, len(every) // 100 + 1}
    inner = set(store.places(longer, 10**6))
    rest = store.places(short, 10**6, within=longer)
    assert sorted([*rest, *inner]) == sorted(every)
    assert not inner & set(store.places(short, 50, within=longer))


def test_what_the_corpus_does_not_know(tmp_path: Path) -> None:
    build_store(tmp_path / "s", [np.array([1, 2, 3])], V, "")
    store = RestStore.open(tmp_path / "s")
    assert store.tails([7], 16) == []
    assert store.tails([], 16) == []
    # a padded vocabulary has an id that looks like the separator; it matches nothing
    assert store.tails([V], 16) == []
    assert [t.length for t in store.tails([V, 1, 2], 16)] == [1, 2]


def test_equal_documents_equal_bytes(tmp_path: Path) -> None:
    docs = corpus(V, 500, 40)
    for name in ("a", "b"):
        build_store(tmp_path / name, docs, V, "h", {"data": ["x"]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("docs", "message"),
    [
        ([np.array([1, V])], f"tokens: {V} is not accepted; ids below the vocabulary's size, {V}"),
        ([np.array([1, -3])], "tokens: -3 is not accepted"),
        ([], "data: 'no tokens'"),
        ([np.array([], dtype=np.int64)], "data: 'no tokens'"),
    ],
)
def test_bad_documents_leave_the_old_file(docs: list, message: str, tmp_path: Path) -> None:
    out = tmp_path / "s"
    out.write_text("old")
    with pytest.raises(ConfigError, match=message):
        build_store(out, docs, V, "")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "s"
    out.write_text("old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("foretoken.learn.rest.os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        build_store(out, corpus(V, 50), V, "")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


class TestABadFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        build_store(tmp_path / "s", corpus(V, 500), V, "mine")
        return tmp_path / "s"

    def test_is_refused_and_named(self, path: Path) -> None:
        good = path.read_bytes()
        start = len(good) - RestStore.open(path).header["bytes"]
        spoilt = {
            "not a datastore": b"#" + good[1:],
            "version 7": good[:16] + b"\7\0\0\0" + good[20:],
            "header is truncated or corrupt": good[:60] + b"!" + good[61:],
            "truncated or was overwritten": good[:-1],
            "checksum differs": good[: start + 5]
            + bytes([good[start + 5] ^ 1])
            + good[start + 6 :],
            "not a readable datastore": b"",
        }
        for message, data in spoilt.items():
            path.write_bytes(data)
            with pytest.raises(ArtifactError, match=message) as caught:
                RestStore.open(path, "mine")
            assert str(path) in str(caught.value)
        for size in range(0, start, 7):  # cut anywhere in the header
            path.write_bytes(good[:size])
            with pytest.raises(ArtifactError):
                RestStore.open(path)

    def test_of_another_tokenizer_or_vocabulary(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="tokenizer mine, but the model's is yours; build"):
            RestStore.open(path, "yours")
        with pytest.raises(ArtifactError, match=f"made for {V} tokens, the model has {V - 1}"):
            open_beside(path, None, V - 1, "mine", True)
        assert open_beside(None, tmp_path, V, "mine", True) is None
        path.rename(tmp_path / rest_store.ASSET)
        assert open_beside(None, tmp_path, V, "mine", True) is not None

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="nothing.store: not a readable datastore"):
            open_beside(tmp_path / "nothing.store", None, V, "", True)

    def test_the_header_is_aligned(self) -> None:
        assert len(STORE.encode_header({"a": 1})) % ALIGN == 0


class TestTheCommand:
    @pytest.fixture
    def text(self, tmp_path: Path) -> Path:
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.py").write_text("def f(x):\n    return x + 1\n" * 3)
        (tmp_path / "texts" / "b.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
        return tmp_path / "texts"

    def test_a_folder_becomes_a_store(self, text: Path, tmp_path: Path, capsys) -> None:
        from foretoken.prompt.samples import demo_model
        from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash

        out = tmp_path / "made" / "rest.store"
        given = ["train", "rest", str(text), "--model", str(demo_model()), "--out", str(out)]
        assert main([*given, "--json"]) == 0
        said = capsys.readouterr()
        figures = json.loads(said.out.strip().splitlines()[-1])
        tokenizer = load_tokenizer(demo_model())
        store = RestStore.open(out, tokenizer_hash(tokenizer))
        assert figures["documents"] == store.header["documents"] == 2
        assert figures["tokens"] == len(store)
        assert figures["bytes"] == out.stat().st_size
        assert store.header["meta"]["data"] == ["texts"]
        assert "2 documents" in said.err
        written = tokenizer.decode([t for t in store.text if t != store.separator])
        assert "return x + 1" in written
        assert "Question: 1 + 1?\nAnswer: 2" in written

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["TEXT"], "tokenizer: None is not accepted; --model or --tokenizer"),
            (["--model", "DEMO"], "data: .. is not accepted; at least one file, or --stdlib"),
            (["nowhere", "--model", "DEMO"], "data: 'nowhere' is not accepted"),
            (["TEXT", "--tokenizer", "TEXT"], "a folder with a tokenizer"),
            (["TEXT", "--chunk", "3"], "No such option"),
        ],
    )
    def test_bad_input_is_one_line(
        self, given: list[str], message: str, text: Path, tmp_path: Path, capsys
    ) -> None:
        from foretoken.prompt.samples import demo_model

        names = {"TEXT": str(text), "DEMO": str(demo_model())}
        words = [names.get(word, word) for word in given]
        assert main(["train", "rest", *words, "--out", str(tmp_path / "x.store")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert re.search(message, lines[0])
        assert not (tmp_path / "x.store").exists()

    def test_without_the_library(self, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "pydivsufsort", None)
        with pytest.raises(ConfigError, match=r'pip install "foretoken\[retrieval\]"'):
            places(np.array([V, 1, V]), V)
