"""docs/methods: what `python -m docs.pages` writes, and nothing else."""

from pathlib import Path

from docs.pages import FOLDER, pages


def test_pages_are_what_the_command_writes():
    written = {path.name: path.read_text() for path in Path(FOLDER).glob("*.md")}
    assert written == pages()
