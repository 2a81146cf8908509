"""One list of blocks, written as Markdown or as HTML.

A page stands alone: no scripts, no links to other files; pictures are part of it.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from foretoken.bench.saving import save_text
from foretoken.errors import ConfigError
from foretoken.page.blocks import Block, Code, Grid, Heading, Picture, Text

SUFFIXES = (".html", ".md")
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222}table{border-collapse:collapse;margin:1rem 0;font-size:14px}th,td{border:1px solid "
    "#ccc;padding:.25rem .6rem;text-align:left;vertical-align:top}th{background:#f3f3f3}"
    "pre{background:#f6f6f6;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    ".bad{color:#b00020;font-weight:600}img{max-width:100%}"
)


def check_path(path: Path) -> None:
    """Raise ConfigError for a page that cannot be written."""
    if path.suffix not in SUFFIXES:
        raise ConfigError("page", str(path), f"a file that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError("page", str(path), "a file in a folder that exists")


def write_page(blocks: Sequence[Block], path: Path) -> None:
    """HTML or Markdown by suffix; the file is replaced as a whole or not at all."""
    save_text(path, to_html(blocks) if path.suffix == ".html" else to_markdown(blocks))


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text, bad):
            return f"**{_escape(text)}**" if bad else _escape(text)
        case Code(text):
            fence = "```" if "```" not in text else "~~~~"
            return f"{fence}\n{text}\n{fence}"
        case Grid(columns, rows):
            lines = [columns, ("---",) * len(columns), *(tuple(map(_cell, row)) for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(svg, what):
            return f"![{_escape(what)}]({_link(svg)})"


def _escape(text: str) -> str:
    for mark in ("\\", "`", "*", "_", "<", "[", "|"):
        text = text.replace(mark, f"\\{mark}")
    return text


def _cell(text: str) -> str:
    return _escape(text).replace("\n", " ")


def to_html(blocks: Sequence[Block]) -> str:
    """One document."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(_html(block) for block in blocks)
        + "\n</body></html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text, bad):
            kind = ' class="bad"' if bad else ""
            return f"<p{kind}>{html.escape(text)}</p>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Grid(columns, rows):
            head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
            body = "".join(
                f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n"
                for row in rows
            )
            return f"<table><tr>{head}</tr>\n{body}</table>"
        case Picture(svg, what):
            return f'<img src="{_link(svg)}" alt="{html.escape(what)}">'


def _link(svg: str) -> str:
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
