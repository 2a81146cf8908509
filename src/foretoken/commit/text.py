"""Tokens to text, piece by piece: what can no longer change is given out, the rest is held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # how a decoder shows bytes that are no character (yet)
_MAX_BROKEN = 3  # bytes of the longest unfinished UTF-8 character
_WINDOW = 32  # tokens decoded at once before the window is shortened
_KEEP = 8  # tokens kept then where no character boundary is near


class IncrementalText:
    """Decodes a growing list of tokens and returns what is new; only a bounded tail is decoded.

    The pieces, joined, are a prefix of `decode(all tokens)`, and all of it after `flush`: always
    for byte-level decoders, and for SentencePiece-like ones unless their bytes stay invalid.
    The tail keeps some tokens before the new one, because decoders strip or add spaces at a start.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that were returned
        self._clean = 0  # tokens of the window up to the last character boundary seen

    def copy(self) -> IncrementalText:
        """An independent copy of the state."""
        twin = IncrementalText(self._decode)
        twin._window, twin._shown, twin._clean = list(self._window), self._shown, self._clean
        return twin

    def push(self, token: int) -> str:
        """The text that became final with this token; possibly ""."""
        self._window.append(token)
        pending = len(self._window) - self._clean
        text = self._decode(self._window)
        final = len(text) - _unfinished(text, pending)
        piece = text[self._shown : final]
        if self._shown and not piece and pending == 1 and final == len(text):
            self._window.pop()  # a special token has no text, and is no context for what follows
            return ""
        self._shown = max(self._shown, final)
        clean = final == len(text)
        if len(self._window) > (_WINDOW if clean else 4 * _WINDOW):
            self._shorten()
        if clean:
            self._clean = len(self._window)
        return piece

    def flush(self) -> str:
        """What was held back; call it once, after the last token."""
        piece = self._decode(self._window)[self._shown :] if self._window else ""
        self._shown += len(piece)
        return piece

    def _shorten(self) -> None:
        start = self._clean
        if len(self._window) - start > _KEEP:
            # UTF-8 finds its feet again within 3 bytes, so what a blind cut spoils was shown before
            start = len(self._window) - _KEEP
        self._window = self._window[start:]
        text = self._decode(self._window)
        self._shown = len(text) - _unfinished(text, len(self._window))
        self._clean = 0


class TextStream:
    """Text for a reader who cannot take anything back.

    Holds back an unfinished character and whatever may be, or is, the start of a stop string.
    """

    def __init__(self, decode: Decode, stop: tuple[str, ...] = ()) -> None:
        self._text = IncrementalText(decode)
        self._stop = stop
        self._held = ""
        self._sent = 0  # characters returned so far
        self._stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """New text that is safe to show after these tokens."""
        self._held += "".join(self._text.push(token) for token in tokens)
        if self._stopped:
            return ""
        found = find_stop(self._held, self._stop)
        self._stopped = found is not None
        return self._send(
            len(self._held) - open_suffix(self._held, self._stop) if found is None else found
        )

    def finish(self, text_end: int | None = None) -> str:
        """The rest of the text. text_end: characters of the whole to keep, None for all."""
        self._held += self._text.flush()
        keep = len(self._held) if text_end is None else text_end - self._sent
        return self._send(max(keep, 0))

    def _send(self, characters: int) -> str:
        piece, self._held = self._held[:characters], self._held[characters:]
        self._sent += len(piece)
        return piece


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Start of the stop string that is complete first (of those, the longest); None if none is.

    First complete and not first begun: then the cut depends on the text alone, not on how it came
    in tokens.
    """
    found = [(at + len(s), at) for s in stop if (at := text.find(s)) >= 0]
    return min(found)[1] if found else None


def open_suffix(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of the text with which a stop string may begin."""
    return max((_overlap(text, s) for s in stop), default=0)


def _overlap(text: str, stop: str) -> int:
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def _unfinished(text: str, pending: int) -> int:
    """How many characters at the end may still change; pending: tokens since the last boundary.

    A byte-fallback decoder shows every byte of a run as broken until the run is whole, earlier
    characters included; after more tokens than a character has bytes, the bytes are really wrong.
    """
    broken = len(text) - len(text.rstrip(_BROKEN))
    return broken if pending <= _MAX_BROKEN else min(broken, _MAX_BROKEN)
