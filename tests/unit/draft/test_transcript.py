"""The followed text is the text encoded at once, however it came in; nothing is encoded alone."""

from __future__ import annotations

import itertools
import random
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tokenizers_of_kinds import KINDS, MERGES, TEXT, byte_bpe, characters, fallback, unigram

from foretoken.draft.spelling import Spelling
from foretoken.draft.transcript import Transcript, common
from foretoken.draft.vocabularies import Vocabularies

SPELLINGS = {name: Spelling(make()) for name, make in KINDS.items()}
PAIRS = list(itertools.permutations(KINDS, 2))


@cache
def pair(target: str, drafter: str) -> Vocabularies:
    one, other = SPELLINGS[target], SPELLINGS[drafter]
    sizes = one.size + 2, other.size
    return Vocabularies(one, other, sizes, ((one.eos,), (other.eos,)), (target, drafter))


def text(seed: int, words: int = 40) -> bytes:
    return " ".join(random.Random(seed).choices(" ".join(TEXT).split(" "), k=words)).encode()


def at_once(found: Vocabularies, tokens: list[int]) -> list[int]:
    fresh = Transcript(found)
    fresh.follow(tokens)
    return fresh.ids


@pytest.mark.parametrize(("target", "drafter"), PAIRS)
@pytest.mark.parametrize("wild", [False, True])
def test_piece_by_piece_is_at_once(target: str, drafter: str, wild: bool) -> None:
    """wild: with tokens that no tokenizer would put there: broken characters, cut words."""
    found = pair(target, drafter)
    for seed in range(4):
        dice = random.Random(seed)
        tokens = found.target.encode(text(seed))
        if wild:
            own = [i for i, piece in enumerate(found.target.pieces) if piece]
            tokens = [dice.choice(own) if dice.random() < 0.1 else i for i in tokens]
        growing, n = Transcript(found), 0
        held = list(growing.ids)
        while n < len(tokens):
            n += dice.randint(1, 5)
            stayed, _ = growing.follow(tokens[:n])
            assert growing.ids == at_once(found, tokens[:n])
            assert growing.ids[:stayed] == held[:stayed]
            assert stayed == common(growing.ids, held), "no more is read again than must be"
            held = list(growing.ids)
        if not wild:
            whole = found.drafter.encode(bytes(growing.text))
            assert growing.ids == [*found.drafter.prefix, *whole]


@given(st.text(alphabet="aab 😀é", max_size=150), st.integers(0, 5))
def test_texts_without_a_foothold(words: str, seed: int) -> None:
    """Runs of one letter: where merges fall hangs on where the text began."""
    one = Spelling(characters("ab 😀é", [("b", "a")]))
    other = Spelling(characters("ab 😀é", [("a", "a"), ("aa", "aa"), ("a", "b")]))
    found = Vocabularies(one, other, (one.size, other.size), ((), ()), ("one", "other"))
    tokens, growing, n = one.encode(words.encode()), Transcript(found), 0
    while n < len(tokens):
        n += random.Random(seed + n).randint(1, 9)
        growing.follow(tokens[:n])
        assert growing.ids == at_once(found, tokens[:n])


def test_a_word_that_grows_is_read_as_the_word() -> None:
    """The new tokens alone would be other ones: "box" + "es" is not " boxes"."""
    found = pair("bytes", "byte-level BPE")
    growing = Transcript(found)
    words = b"the box"
    tokens = found.target.encode(words)
    growing.follow(tokens)
    assert growing.ids == found.drafter.encode(words)
    longer = [*tokens, *found.target.encode(b"es")]
    stayed, _ = growing.follow(longer)
    assert growing.ids == found.drafter.encode(b"the boxes")
    assert growing.ids != [*found.drafter.encode(words), *found.drafter.encode(b"es")]
    assert stayed < len(found.drafter.encode(words))


def test_special_tokens_cut_the_text() -> None:
    found = pair("byte fallback", "byte-level BPE")
    encode = found.target.encode
    growing = Transcript(found)
    growing.follow([1, *encode(b"the fox")])
    assert growing.ids == found.drafter.encode(b"the fox"), "no start of text there"
    growing.follow([1, *encode(b"the fox"), 2, *encode(b"a dog")])
    end = found.drafter.eos
    assert growing.ids == [*found.drafter.encode(b"the fox"), end, *found.drafter.encode(b"a dog")]


def test_what_only_the_target_marks_is_read_as_its_name() -> None:
    found = pair("byte-level BPE", "byte fallback")
    growing = Transcript(found)
    growing.follow([1, *found.target.encode(b"the fox"), 0])
    name = found.drafter.encode(b"<|user|>")
    assert growing.ids == [1, *name, *found.drafter.encode(b"the fox"), 2]


def test_one_start_of_text() -> None:
    found = pair("unigram", "byte fallback")
    for tokens in ([0], []):
        growing = Transcript(found)
        growing.follow([*tokens, *found.target.encode(b"the fox")])
        assert growing.ids == [1, *found.drafter.encode(b"the fox")]


def test_half_a_character() -> None:
    """Read as bytes by who has them; else there is nothing to read until it is whole."""
    data = "hello 😀".encode()
    for drafter, reads in (("byte-level BPE", True), ("unigram", False)):
        found = pair("bytes", drafter)
        tokens, growing = found.target.encode(data), Transcript(found)
        growing.follow(tokens[:-2])
        assert growing.broken != reads
        if reads:
            assert found.drafter.written(growing.ids) == data[:-2]
        growing.follow(tokens)
        assert not growing.broken
        assert growing.ids == found.drafter.encode(data)


def test_pairs_are_tokens_of_the_same_text() -> None:
    """And they are all that there are: found by comparing all boundaries."""
    for target, drafter in PAIRS:
        found = pair(target, drafter)
        tokens = found.target.encode(text(3))
        growing, pairs = Transcript(found), []
        for n in range(1, len(tokens) + 1):
            pairs += growing.follow(tokens[:n])[1]
        assert pairs, (target, drafter)
        for token, gram, _, _ in pairs:
            written = found.drafter.written(gram)
            assert (
                written == found.target.piece(token)
                or written.strip() == found.target.piece(token).strip()
            ), "but for the mark of a text's start"
        whole = Transcript(found)
        _, all_pairs = whole.follow(tokens)
        ends = set(itertools.accumulate(
            (len(found.drafter.piece(i)) for i in whole.ids[len(found.drafter.prefix) :]),
            initial=-1 if found.drafter.strips else 0,
        ))  # fmt: skip
        at, expected = -1 if found.target.strips else 0, 0
        for token in tokens:
            start, at = max(at, 0), at + len(found.target.piece(token))
            expected += start < at and {start, at} <= ends | {0}
        assert len(all_pairs) == expected
        for one in all_pairs:
            assert tokens[one.place] == one.token
            assert tuple(whole.ids[one.at : one.at + len(one.gram)]) == one.gram


def test_merges_are_seen_as_pairs() -> None:
    target, drafter = characters("theinar ", MERGES), characters("thein ar")
    one, other = Spelling(target), Spelling(drafter)
    found = Vocabularies(one, other, (one.size, other.size), ((), ()), ("one", "other"))
    growing = Transcript(found)
    pairs = growing.follow(one.encode(b"the inner tan"))[1]
    by_name = {target.convert_ids_to_tokens(p.token): len(p.gram) for p in pairs}
    assert by_name == {"the": 3, "in": 2, "er": 2, "an": 2, "t": 1, " ": 1, "n": 1}


def test_the_same_tokenizer_is_no_other_text() -> None:
    spelling = Spelling(byte_bpe())
    found = Vocabularies(spelling, spelling, (405, 402), ((), ()), ("same", "same"))
    growing = Transcript(found)
    tokens = [5, 7, 0, 300, 404]  # no text that anybody would write
    assert growing.follow(tokens[:3]) == (0, [])
    assert growing.follow(tokens) == (3, [])
    assert growing.ids == [5, 7, 0, 300, 401], "padding that it has not"
    assert not growing.broken


def test_looking_ahead_changes_nothing() -> None:
    found = pair("bytes", "byte-level BPE")
    tokens = found.target.encode(b"hello hello world")
    growing = Transcript(found)
    growing.follow(tokens[:8])
    before = list(growing.ids)
    assert growing.ahead(tokens[8:]).ids == found.drafter.encode(b"hello hello world")
    assert growing.ids == before
    assert growing.seen == 8


def test_tokenizers_that_start_texts() -> None:
    assert Transcript(pair("bytes", "byte fallback")).ids == [fallback().bos_token_id]
    assert Transcript(pair("bytes", "unigram")).ids == []
    assert unigram().bos_token_id == 0
