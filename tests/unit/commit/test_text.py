"""Text in pieces: joined, it is the whole text; nothing that may change is ever given out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from foretoken.commit import text as module
from foretoken.commit.text import IncrementalText, TextStream, find_stop, open_suffix

BYTES = [bytes([b]) for b in range(256)]
PAIRS = [b"ab", b"b\n", b"\n\n", b"stop", b"\xc3\xa9", b"\x98\x80\xf0", b"\xa9\xe2", b"\x9f\x98"]
PIECES = [*BYTES, *PAIRS, b""]  # the last one is a special token: it has no text
SPECIAL = len(PIECES) - 1


def byte_decode(tokens: list[int]) -> str:
    """What a byte-level decoder does."""
    return b"".join(PIECES[t] for t in tokens).decode("utf-8", errors="replace")


def words_decode(tokens: list[int]) -> str:
    """What a SentencePiece-like decoder does: it drops the space at the start."""
    words = ["▁a", "▁the", "b", ".", "▁", ""]
    return "".join(words[t] for t in tokens).replace("▁", " ").removeprefix(" ")


# valid text cut into tokens at odd places, and bytes that are no text at all
texts = st.text(alphabet="ab\nstopé€😀�", max_size=40).map(lambda s: list(s.encode()))
byte_tokens = st.one_of(
    texts,
    st.lists(
        st.sampled_from([ord("a"), 0xC3, 0xA9, 0xF0, 0x9F, 0x98, 0x80, SPECIAL]), max_size=300
    ),
    st.lists(st.integers(0, SPECIAL), max_size=80),
)


@settings(max_examples=150, deadline=None)
@given(byte_tokens)
def test_pieces_join_to_the_text_and_are_never_taken_back(tokens) -> None:
    whole = byte_decode(tokens)
    text, joined = IncrementalText(byte_decode), ""
    for token in tokens:
        joined += text.push(token)
        assert whole.startswith(joined)
    assert joined + text.flush() == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=120))
def test_a_decoder_that_strips_the_first_space_is_followed(tokens) -> None:
    text = IncrementalText(words_decode)
    assert "".join(text.push(t) for t in tokens) + text.flush() == words_decode(tokens)


def test_byte_fallback_decoder_of_tokenizers_is_followed() -> None:
    vocab = {f"<0x{b:02X}>": b for b in range(256)} | {"▁x": 256, "y": 257, "<unk>": 258}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    decode = tokenizer.decode
    tokens = [256, *"é😀€".encode(), 257, 256, *("😀" * 30).encode(), 256, 257]
    text, pieces = IncrementalText(decode), []
    pieces = [text.push(t) for t in tokens]
    assert "".join(pieces) + text.flush() == decode(tokens) == "xé😀€y x" + "😀" * 30 + " xy"
    assert not any("�" in piece for piece in pieces)


def test_only_a_bounded_tail_is_decoded() -> None:
    longest = 0

    def decode(tokens: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return byte_decode(tokens)

    for stream in ([97] * 500, [0xF0] * 500, [SPECIAL] * 500, [0xC3, 0xA9] * 300):
        text = IncrementalText(decode)
        for token in stream:
            text.push(token)
    assert 0 < longest <= 4 * module._WINDOW + 1


def test_a_copy_goes_its_own_way() -> None:
    text = IncrementalText(byte_decode)
    text.push(0xC3)
    twin = text.copy()
    assert twin.push(0xA9) == "é"
    assert text.push(0xA8) == "è"


def test_first_complete_stop_wins_and_then_the_longest() -> None:
    assert find_stop("abcX", ("abcX", "b")) == 1
    assert find_stop("abc", ("c", "abc")) == 0
    assert find_stop("abc", ("x",)) is None
    assert find_stop("abc", ()) is None


@pytest.mark.parametrize(
    ("text", "stop", "size"),
    [("xab", ("abc",), 2), ("xabc", ("abc",), 0), ("aa", ("aab", "ab"), 2), ("", ("a",), 0)],
)
def test_open_suffix(text, stop, size) -> None:
    assert open_suffix(text, stop) == size


stops = st.lists(st.text(alphabet="ab\nstopé😀", min_size=1, max_size=4), max_size=3).map(tuple)


@settings(max_examples=150, deadline=None)
@given(byte_tokens, stops, st.lists(st.integers(1, 5), min_size=1, max_size=10))
def test_stream_shows_the_text_before_the_stop_and_as_much_as_is_safe(tokens, stop, sizes) -> None:
    whole = byte_decode(tokens)
    end = find_stop(whole, stop)
    cut = whole if end is None else whole[:end]
    stream, shown, i = TextStream(byte_decode, stop), "", 0
    step = 0
    while i < len(tokens):
        n = sizes[step % len(sizes)]
        shown += stream.push(tokens[i : i + n])
        assert cut.startswith(shown)
        seen = byte_decode(tokens[: i + n])
        if not stop and not seen.endswith("�"):
            assert shown == seen
        i, step = i + n, step + 1
    assert shown + stream.finish(end) == cut


def test_stream_holds_back_a_possible_stop_and_lets_it_go() -> None:
    stream = TextStream(byte_decode, ("\n\nab",))
    assert stream.push([ord("x"), 10]) == "x"
    assert stream.push([10, ord("a")]) == ""
    assert stream.push([ord("c"), 10]) == "\n\nac"
    assert stream.finish() == "\n"
    half = TextStream(byte_decode)
    assert half.push([0xC3]) == ""
    assert half.finish() == "�"
