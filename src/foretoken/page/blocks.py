"""What a report is made of, whoever writes it down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A title. level: 1 for the page's own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph. bad: it says that something is wrong."""

    text: str
    bad: bool = False


@dataclass(frozen=True)
class Code:
    """Text that is shown as it is."""

    text: str


@dataclass(frozen=True)
class Grid:
    """A table of words and figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A figure. svg: a whole SVG document; what: what is to be seen, in words."""

    svg: str
    what: str


Block = Heading | Text | Code | Grid | Picture
