"""What a terminal shows: text coloured by who wrote it, statistics, where the time went."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import typer
from rich.text import Text

from foretoken.commit.text import Decode, IncrementalText, TextStream
from foretoken.types import Completion

Piece = tuple[str, bool]  # text, and whether it was drafted (else the target added it)

DRAFTED = "green"  # the colour of drafted text that the target accepted
PARTS = {"target": "blue", "draft": "green", "verify": "yellow", "other": "bright_black"}


class OriginText:
    """Tokens to text that can no longer change, each character with the origin of its token.

    A character whose bytes lie in several tokens has the origin of the token that completed it.
    """

    def __init__(self, decode: Decode, stop: tuple[str, ...] = ()) -> None:
        self._whole = IncrementalText(decode)  # who wrote which character
        self._safe = TextStream(decode, stop)  # how many of them may be shown
        self._held: deque[Piece] = deque()

    def push(self, tokens: Sequence[int], origin: Sequence[bool]) -> list[Piece]:
        """What these tokens make showable. origin: [n], drafted or not."""
        for token, drafted in zip(tokens, origin, strict=True):
            self._held.append((self._whole.push(token), drafted))
        return self._take(len(self._safe.push(tokens)))

    def finish(self, text_end: int | None = None) -> list[Piece]:
        """The rest. text_end: characters of the whole text to keep, None for all."""
        self._held.append((self._whole.flush(), False))
        return self._take(len(self._safe.finish(text_end)))

    def _take(self, characters: int) -> list[Piece]:
        out: list[Piece] = []
        while characters and self._held:
            text, drafted = self._held.popleft()
            if len(text) > characters:
                self._held.appendleft((text[characters:], drafted))
                text = text[:characters]
            characters -= len(text)
            if text and out and out[-1][1] == drafted:
                out[-1] = (out[-1][0] + text, drafted)
            elif text:
                out.append((text, drafted))
        return out


def wants_colour(stream: IO[str]) -> bool:
    """Whether escape sequences belong there: NO_COLOR and FORCE_COLOR decide, else a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def painted(pieces: Iterable[Piece], colour: bool) -> str:
    """For a stream: accepted drafts in colour, what the target added as it is."""
    return "".join(
        typer.style(text, fg=DRAFTED) if drafted and colour else text for text, drafted in pieces
    )


def rich_text(pieces: Iterable[Piece]) -> Text:
    """The same for a rich display."""
    return Text.assemble(*((text, DRAFTED if drafted else "") for text, drafted in pieces))


def split_time(completion: Completion, seconds: float) -> dict[str, float]:
    """Seconds of each part; "other" is what the loop spent outside draft, target and verify."""
    spent = {part: completion.stats.seconds.get(part, 0.0) for part in PARTS}
    known = sum(spent.values()) - spent["other"]
    return {**spent, "other": max(seconds - known, 0.0)}


def shares(seconds: Mapping[str, float]) -> str:
    """ "target 91 %, draft 5 %, ..." """
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{part} {seconds[part] / total:.0%}" for part in PARTS if part in seconds)


def time_bar(seconds: Mapping[str, float], width: int = 30) -> Text:
    """A bar in the colours of PARTS; its length is the whole time."""
    total = sum(seconds.values()) or 1.0
    bar, at, used = Text(), 0.0, 0
    for part, style in PARTS.items():
        at += seconds.get(part, 0.0) / total * width
        bar.append("█" * (round(at) - used), style)
        used = round(at)
    return bar


def statistics(completion: Completion, seconds: float, method: str) -> str:
    """One line: how much, how fast, how many steps, what was drafted, and the guarantee."""
    stats = completion.stats
    rate = stats.tokens / seconds if seconds else 0.0
    return (
        f"{stats.tokens} tokens in {seconds:.2f} s ({rate:.1f} tokens/s), {stats.steps} steps, "
        f"{stats.tokens_per_step:.2f} tokens per step, {stats.accepted} of {stats.drafted} drafted "
        f"accepted; {shares(split_time(completion, seconds))}; {method}, {completion.guarantee}; "
        f"ended by {completion.finish_reason}"
    )


def document(completion: Completion, seconds: float, **facts: Any) -> dict[str, Any]:
    """What `--json` prints of one answer. facts: model, dtype, method ..., put first."""
    stats = completion.stats
    return {
        **facts,
        "guarantee": completion.guarantee,
        "prompt_tokens": len(completion.prompt),
        "text": completion.text,
        "tokens": completion.tokens,
        "drafted": completion.origin,
        "finish_reason": completion.finish_reason,
        "tokens_per_s": stats.tokens / seconds if seconds else None,
        "distinct_4grams": completion.distinct_4grams,
        "statistics": {
            "steps": stats.steps,
            "tokens": stats.tokens,
            "tokens_per_step": stats.tokens_per_step,
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            "drafted_by_depth": stats.drafted_by_depth,
            "accepted_by_depth": stats.accepted_by_depth,
            "seconds": split_time(completion, seconds),
        },
    }
