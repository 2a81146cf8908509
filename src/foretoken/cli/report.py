"""foretoken report: results of the bench as one page and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from foretoken.errors import ConfigError

if TYPE_CHECKING:
    from foretoken.bench.pages.read import Document


def report(
    results: Annotated[
        list[Path], typer.Argument(help="Files of `foretoken bench --save`.", show_default=False)
    ],
    page: Annotated[
        Path | None, typer.Option("--page", "-o", help="Write one page (.html, or .md) here.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Write the pictures (.png) into this folder.")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Of the page.")] = "foretoken bench",
) -> None:
    """Results as one self-contained HTML page and PNG pictures. Exit code 1 if a run had failed."""
    from foretoken.bench.pages.read import read
    from foretoken.page.figure import check_matplotlib
    from foretoken.page.write import check_path

    wanted = page if page is not None else png
    if wanted is None:
        raise ConfigError("page", "", "--page FILE.html, --png FOLDER, or both")
    if page is not None:
        check_path(page)
    if png is not None and (png.is_file() or not png.parent.is_dir()):
        raise ConfigError("png", str(png), "a folder, or a new one in a folder that exists")
    check_matplotlib("page", wanted)
    documents = [read(path) for path in results]
    console = Console(stderr=True)
    with console.status("drawing"):
        _write(documents, page, png, title, console)
    if any(document.failed for document in documents):
        raise typer.Exit(1)


def _write(
    documents: list[Document], page: Path | None, png: Path | None, title: str, console: Console
) -> None:
    import matplotlib as mpl

    from foretoken.bench.pages.sections import pictures, sections
    from foretoken.page.figure import write_figure
    from foretoken.page.write import write_page

    drawn = pictures(documents)
    if png is not None:
        png.mkdir(exist_ok=True)
        for name, figure in drawn.items():
            write_figure(figure, png / f"{name}.png")
        console.print(f"{png}: {len(drawn)} pictures")
    if page is not None:
        with mpl.rc_context({"svg.hashsalt": "foretoken"}):  # the same bytes every time
            write_page(sections(documents, drawn, title), page)
        console.print(f"{page}")
