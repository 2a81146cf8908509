"""What tokens write is what decoding says, of every kind of tokenizer; bytes come back as bytes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tokenizers_of_kinds import (
    KINDS,
    TEXT,
    byte_bpe,
    bytes_only,
    characters,
    fallback,
    unigram,
)

from foretoken.draft.spelling import Spelling, dangling
from foretoken.errors import CapabilityError

spellings = {name: Spelling(make()) for name, make in KINDS.items()}
kinds = pytest.mark.parametrize("kind", KINDS)
WORDS = " ".join(TEXT)


@kinds
def test_text_comes_back(kind: str) -> None:
    spelling = spellings[kind]
    for text in TEXT:  # a unigram tokenizer knows no line breaks
        data = (" ".join(text.split()) if kind == "unigram" else text).encode()
        written = spelling.written(spelling.encode(data))
        assert written is not None
        assert written.removeprefix(b" " if spelling.strips else b"") == data


@kinds
def test_a_piece_is_what_decoding_adds(kind: str) -> None:
    """In the middle of a text, for every token that is whole characters."""
    spelling, tokenizer = spellings[kind], KINDS[kind]()
    inner, behind = tokenizer.backend_tokenizer, spelling.by_bytes[b"x"]
    whole = 0
    for i, piece in enumerate(spelling.pieces):
        if piece is None:
            assert i in spelling.specials
            continue
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            continue
        whole += 1
        assert inner.decode([behind, i]) == "x" + text
    assert whole > 90


def test_marks_of_spaces_are_spaces() -> None:
    assert spellings["byte-level BPE"].by_bytes.keys() >= {b" fox", b" ", b"\n"}
    assert spellings["unigram"].by_bytes.keys() >= {b" ", b"\xf0\x9f\x98\x80"}
    assert spellings["byte fallback"].by_bytes.keys() >= {b" the", b" a", b"\n"}
    assert [s.strips for s in spellings.values()] == [False, False, True, True]
    assert spellings["byte fallback"].prefix == [1]


@pytest.mark.parametrize("kind", ["byte-level BPE", "bytes", "byte fallback"])
def test_every_byte_has_its_token(kind: str) -> None:
    """Half a character, too; of two tokens for a byte the one that text is encoded with counts."""
    spelling = spellings[kind]
    assert spelling.knows_bytes(bytes(range(256)))
    broken = b"ab\xf0\x9f\xffcd\xc3"
    assert (spelling.written(spelling.encode(broken)) or b"").lstrip(b" ").replace(
        b" ", b""
    ) == broken
    if kind == "byte fallback":
        assert spelling.by_bytes[b"x"] == KINDS[kind]().convert_tokens_to_ids("x")
        assert spelling.pieces[3 + ord("x")] == b"x", "<0x78>"


def test_without_byte_tokens_broken_bytes_are_unknown() -> None:
    spelling = spellings["unigram"]
    assert not spelling.knows_bytes(b"\xf0")
    unknown = unigram().unk_token_id
    assert spelling.encode(b"he\xff").count(unknown) == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unigram"])
def test_text_is_never_a_special_token(kind: str) -> None:
    """A unigram model has the names of its special tokens among its pieces."""
    spelling = spellings[kind]
    for name in spelling.specials.values():
        ids = spelling.encode(f"he {name} he".encode())
        assert not {spelling.eos, spelling.bos} & set(ids)


def test_special_tokens_and_unknown_ids_write_nothing() -> None:
    spelling = spellings["byte-level BPE"]
    assert spelling.specials == {0: "<|end|>", 1: "<|user|>"}
    assert (spelling.eos, spelling.bos) == (0, None)
    assert [spelling.piece(i) for i in (0, 1, -1, 400, 10_000)] == [None] * 5
    assert spelling.written([5, 0]) is None


def test_the_tokenizer_itself_is_left_alone() -> None:
    tokenizer = characters("ab<eos>")
    tokenizer.backend_tokenizer.enable_truncation(2)
    assert len(Spelling(tokenizer).encode(b"ababa")) == 5
    assert len(tokenizer.backend_tokenizer.encode("ababa").ids) == 2
    assert tokenizer.encode("<eos>") == [tokenizer.eos_token_id]


def test_no_fast_backend() -> None:
    with pytest.raises(CapabilityError, match="SimpleNamespace"):
        Spelling(SimpleNamespace())


@given(st.text(max_size=6), st.integers(0, 3))
def test_what_dangles_is_the_start_of_a_character(text: str, cut: int) -> None:
    data = text.encode()
    assert dangling(data) == b""
    short = data[: len(data) - cut]
    rest = dangling(short)
    short[: len(short) - len(rest)].decode()  # what is left ends well
    assert len(rest) < 4


def test_no_character_dangles_for_ever() -> None:
    assert [dangling(b) for b in (b"\xff", b"\x80", b"a\xf5", b"", b"\xf0\x9f\xff")] == [b""] * 5
    assert dangling(b"a\xf0\x9f\x98") == b"\xf0\x9f\x98"


def test_the_kinds_differ() -> None:
    sizes = {len(make()) for make in (byte_bpe, bytes_only, unigram, fallback)}
    assert len(sizes) == 4
    assert len({s.longest for s in spellings.values()}) > 2
