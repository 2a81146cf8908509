"""The report for people: one list of blocks, written as Markdown, as HTML, or by the terminal.

A page stands alone: no scripts, no links to other files.
"""

from __future__ import annotations

import html
import os
import tempfile
from pathlib import Path

from foretoken.audit.blocks import Block, Code, Grid, Heading, Text
from foretoken.audit.report import AuditReport
from foretoken.audit.sections import sections
from foretoken.errors import ConfigError

SUFFIXES = (".html", ".md")
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222}table{border-collapse:collapse;margin:1rem 0;font-size:14px}th,td{border:1px solid "
    "#ccc;padding:.25rem .6rem;text-align:left;vertical-align:top}th{background:#f3f3f3}"
    "pre{background:#f6f6f6;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    ".bad{color:#b00020;font-weight:600}"
)


def check_path(path: Path) -> None:
    """Raise ConfigError for a page that cannot be written."""
    if path.suffix not in SUFFIXES:
        raise ConfigError("page", str(path), f"a file that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError("page", str(path), "a file in a folder that exists")


def write_page(report: AuditReport, path: Path) -> None:
    """HTML or Markdown by suffix; the file is replaced as a whole or not at all."""
    blocks = sections(report)
    text = to_html(blocks) if path.suffix == ".html" else to_markdown(blocks)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def to_markdown(blocks: list[Block]) -> str:
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


def _escape(text: str) -> str:
    for mark in ("\\", "`", "*", "_", "<", "[", "|"):
        text = text.replace(mark, f"\\{mark}")
    return text


def _cell(text: str) -> str:
    return _escape(text).replace("\n", " ")


def to_html(blocks: list[Block]) -> str:
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
