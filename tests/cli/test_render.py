"""Text by origin: nothing is lost, broken or shown too early."""

from __future__ import annotations

import random

import pytest

from foretoken.cli.render import DRAFTED, OriginText, painted, rich_text, shares, time_bar

TEXT = "naïve 🙂 — 漢字 and plain"


def bytewise(tokens):
    """Tokens are bytes, so that characters lie across them."""
    return bytes(tokens).decode("utf-8", errors="replace")


@pytest.mark.parametrize("seed", range(5))
def test_characters_across_tokens_stay_whole(seed):
    dice = random.Random(seed)
    tokens = list(TEXT.encode())
    text, pieces, at = OriginText(bytewise), [], 0
    while at < len(tokens):
        n = dice.randint(1, 4)
        step = tokens[at : at + n]
        pieces += text.push(step, [dice.random() < 0.5 for _ in step])
        at += n
    pieces += text.finish()
    assert "".join(piece for piece, _ in pieces) == TEXT
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece, _ in pieces)


def test_a_character_has_the_origin_of_the_token_that_completed_it():
    text = OriginText(bytewise)
    first, second = "é".encode()
    assert text.push([first], [True]) == []
    assert text.push([second, ord("a"), ord("b")], [False, True, True]) == [
        ("é", False),
        ("ab", True),
    ]


def test_a_stop_string_is_held_back_and_keeps_its_origins():
    text = OriginText(bytewise, stop=("END",))
    assert text.push(list(b"aE"), [True, False]) == [("a", True)]
    assert text.push(list(b"N"), [True]) == []
    assert text.push(list(b"x"), [True]) == [("E", False), ("Nx", True)]
    assert text.push(list(b"END"), [True] * 3) == []
    assert text.finish(text_end=4) == []


def test_paint_colours_drafted_text_only():
    pieces = [("a\n", True), ("b", False)]
    assert painted(pieces, colour=False) == "a\nb"
    assert painted(pieces, colour=True) == "\x1b[32ma\n\x1b[0mb"
    shown = rich_text(pieces)
    assert shown.plain == "a\nb"
    assert [(s.start, s.end, s.style) for s in shown.spans] == [(0, 2, DRAFTED)]


def test_time_split():
    seconds = {"target": 3.0, "draft": 0.5, "verify": 0.25, "other": 0.25}
    assert shares(seconds) == "target 75%, draft 12%, verify 6%, other 6%"
    assert len(time_bar(seconds, 40)) == 40
    assert len(time_bar(dict.fromkeys(seconds, 0.0), 40)) == 0
