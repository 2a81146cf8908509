"""`foretoken train rest`: sort a corpus into the datastore that the drafter rest reads."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from foretoken.errors import ConfigError


def rest(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Text: .txt .py .md .jsonl files, .npy token ids, or folders."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model folder: its tokenizer is used.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Tokenizer folder.")] = None,
    stdlib: Annotated[
        bool, typer.Option("--stdlib", help="Add this Python's standard library.")
    ] = False,
    template: Annotated[
        str | None,
        typer.Option("--template", help='For .jsonl, such as "Q: {question}\\nA: {answer}".'),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Default: rest.store in the model folder.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Figures as JSON on stdout.")] = False,
) -> None:
    """Build the datastore of the drafter rest from any text. Nothing is trained: it sorts."""
    console = Console(stderr=True)
    figures = build(
        console,
        data or [],
        model if tokenizer is None else tokenizer,
        out or _default_out(model),
        stdlib=stdlib,
        template=template,
    )
    made = "{tokens:,} tokens of {documents:,} documents in {bytes:,} bytes -> {out}"
    console.print(made.format(**figures), soft_wrap=True, markup=False)
    if json:
        typer.echo(jsonlib.dumps(figures))


def build(
    console: Console,
    paths: list[Path],
    tokenizer: str | None,
    out: Path,
    *,
    stdlib: bool = False,
    template: str | None = None,
) -> dict[str, Any]:
    """Build the datastore and say what it is; see `rest`. Raises ForetokenError.

    A long file comes in pieces of a million characters or tokens, and each counts as a document.
    """
    from foretoken.learn.rest import build_store
    from foretoken.learn.trigram_corpus import Data, documents
    from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash

    corpus = Data(tuple(paths), stdlib, template)
    corpus.files()  # what cannot be read is said before anything is loaded
    if tokenizer is None:
        raise ConfigError("tokenizer", None, "--model or --tokenizer: the datastore is keyed by it")
    encoder = load_tokenizer(tokenizer)
    key, vocab = tokenizer_hash(encoder), len(encoder)
    started = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading")

        def counted() -> Iterator[Any]:
            seen = 0
            for document in documents(corpus, encoder, 0):
                yield document
                seen += len(document)
                progress.update(task, description=f"reading: {seen:,} tokens")
            progress.update(task, description=f"sorting: {seen:,} tokens")

        meta = {
            "tokenizer": Path(tokenizer).name,
            "data": [path.name for path in paths],
            "stdlib": stdlib,
        }
        report = build_store(out, counted(), vocab, key, meta)
    return {
        **asdict(report),
        "out": str(out),
        "tokenizer_hash": key,
        "vocab": vocab,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _default_out(model: str | None) -> Path:
    from foretoken.draft.rest_store import ASSET

    return Path(model) / ASSET if model and Path(model).is_dir() else Path(ASSET)
