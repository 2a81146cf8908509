"""What the tokens of a tokenizer write, in bytes, and bytes back to tokens.

Two tokenizers can be compared by what their tokens write and by nothing else: "▁the" of one is
"Ġthe" of another, both write " the". Bytes and not characters, because a byte-level token may be a
part of a character. What a token writes is read off the tokenizer's own decoder, behind another
token (decoders treat the start of a text in their own way), so that only what round-trips counts.
Text is encoded by a copy of the tokenizer that does not look for special tokens in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from tokenizers import Tokenizer

from foretoken.errors import CapabilityError

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a token that stands for one byte
_BROKEN = "\ufffd"  # what decoders write for bytes that are no character


class Spelling:
    """One tokenizer: a transformers one with a fast backend. Raises CapabilityError without."""

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            kind = type(tokenizer).__name__
            raise CapabilityError(
                f"{kind}: only tokenizers of the `tokenizers` library are compared"
            )
        self._inner = Tokenizer.from_str(backend.to_str())
        self._inner.no_padding()
        self._inner.no_truncation()
        self._inner.encode_special_tokens = True
        names = {i: name for name, i in self._inner.get_vocab().items()}
        self.size = max(names, default=-1) + 1  # ids that the tokenizer knows
        added = self._inner.get_added_tokens_decoder()
        marked = {i for i, token in added.items() if token.special}
        # ids that write nothing of the text: id -> name
        self.specials = {i: names[i] for i in {*marked, *tokenizer.all_special_ids} if i in names}
        self.eos: int | None = tokenizer.eos_token_id
        self.bos: int | None = tokenizer.bos_token_id
        self.pieces = self._read(names)  # [size] what each token writes; None: nothing certain
        self.by_bytes: dict[bytes, int] = {}  # of several tokens the one that text is encoded with
        for fallback in (False, True):
            for i, piece in enumerate(self.pieces):
                if piece and bool(_FALLBACK.fullmatch(names[i])) == fallback:
                    self.by_bytes.setdefault(piece, i)
        self.strips = self._strips()  # whether the first token of a text loses its leading space
        # what the tokenizer puts before any text
        whole = self._inner.encode("a", add_special_tokens=True).ids
        self.prefix: list[int] = whole[: self._leading(whole)]
        self.longest = max(map(len, self.by_bytes), default=0)  # bytes

    def _leading(self, ids: Sequence[int]) -> int:
        return next((n for n, i in enumerate(ids) if i not in self.specials), len(ids))

    def _read(self, names: dict[int, str]) -> list[bytes | None]:
        out: list[bytes | None] = [None] * self.size
        plain = [i for i in sorted(names) if i not in self.specials]
        behind = self._anchor([i for i in plain if not _FALLBACK.fullmatch(names[i])])
        if behind is None:
            return out
        anchor, before = behind
        alphabet = _alphabet() if "ByteLevel" in _decoders(self._inner) else {}
        pairs = [[anchor, i] for i in plain]
        for i, text in zip(plain, self._inner.decode_batch(pairs), strict=True):
            if text.startswith(before) and len(text) > len(before):
                out[i] = _piece(names[i], text[len(before) :], alphabet)
        return out

    def _anchor(self, plain: Sequence[int]) -> tuple[int, str] | None:
        """A token that decodes to a letter or digit, and what it decodes to."""
        for i, text in zip(plain, self._inner.decode_batch([[i] for i in plain]), strict=True):
            if text.isalnum() and _BROKEN not in text:
                return i, text
        return None

    def _strips(self) -> bool:
        spaced = (i for i, piece in enumerate(self.pieces) if piece and piece[:1] == b" ")
        first = next((i for i in spaced if len(self.pieces[i] or b"") > 1), None)
        return first is not None and not self._inner.decode([first]).startswith(" ")

    def encode(self, data: bytes) -> list[int]:
        """The tokens of a text, without special ones. Bytes that are no character become the
        tokens of these bytes, or of U+FFFD where there are none."""
        pieces = list(_characters(data))
        if not all(self.knows_bytes(stray) for _, stray in pieces):
            pieces = [(data.decode(errors="replace"), b"")]
        out: list[int] = []
        for text, stray in pieces:
            if text:
                out += self._inner.encode(text, add_special_tokens=False).ids
            out += [self.by_bytes[bytes([byte])] for byte in stray]
        return out

    def encode_all(self, texts: Sequence[bytes]) -> list[list[int]]:
        """`encode` of each."""
        try:
            words = [text.decode() for text in texts]
        except UnicodeDecodeError:
            return [self.encode(text) for text in texts]
        return [one.ids for one in self._inner.encode_batch(words, add_special_tokens=False)]

    def written(self, ids: Sequence[int]) -> bytes | None:
        """What tokens write in the middle of a text; None if one of them is not certain."""
        pieces = [self.piece(i) for i in ids]
        return None if any(piece is None for piece in pieces) else b"".join(filter(None, pieces))

    def piece(self, i: int) -> bytes | None:
        """What one token writes; None for ids that are special or no token."""
        return self.pieces[i] if 0 <= i < self.size else None

    def knows_bytes(self, data: bytes) -> bool:
        """Whether each of these bytes has a token of its own."""
        return all(bytes([byte]) in self.by_bytes for byte in data)


def dangling(data: bytes) -> bytes:
    """The start of a character that a text ends with; b"" if it ends well."""
    for n in range(1, min(3, len(data)) + 1):
        first = data[-n]
        if first & 0xC0 != 0x80:  # no byte that continues a character
            needs = next((k for k, least in ((4, 0xF0), (3, 0xE0), (2, 0xC2)) if first >= least), 1)
            return data[-n:] if n < needs and first < 0xF5 else b""
    return b""


def _characters(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A text in pieces: characters, then bytes that are none."""
    while data:
        try:
            yield data.decode(), b""
        except UnicodeDecodeError as error:
            yield data[: error.start].decode(), data[error.start : error.end]
            data = data[error.end :]
        else:
            return


def _piece(name: str, text: str, alphabet: dict[str, int]) -> bytes:
    if _BROKEN in text:
        one = _FALLBACK.fullmatch(name)
        if one:
            return bytes.fromhex(one[1])
        if alphabet and all(letter in alphabet for letter in name):
            return bytes(alphabet[letter] for letter in name)
    return text.encode()


def _decoders(inner: Tokenizer) -> set[str]:
    """Types of the decoders, nested ones too."""
    found, stack = set(), [json.loads(inner.to_str())["decoder"]]
    while stack:
        decoder = stack.pop()
        if decoder is not None:
            found.add(str(decoder["type"]))
            stack += decoder.get("decoders", [])
    return found


@cache
def _alphabet() -> dict[str, int]:
    """Letter -> byte, as byte-level tokenizers write bytes (GPT-2's table)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(b): b for b in kept} | {chr(256 + n): b for n, b in enumerate(others)}
