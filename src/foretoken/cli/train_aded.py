"""`foretoken train aded`: count a corpus into the table that the drafter aded starts from."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from foretoken.errors import ConfigError, ForetokenError

RESUME_SUFFIX = ".build"  # folder beside the table with the finished chunks


def aded(  # noqa: PLR0913, PLR0917  the options of a command are its interface
    data: Annotated[
        list[Path] | None, typer.Option(help=".txt .py .md .jsonl .npy files, or folders")
    ] = None,
    model: Annotated[str | None, typer.Option(help="model folder: its tokenizer is used")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="tokenizer folder")] = None,
    tokens: Annotated[list[Path] | None, typer.Option(help=".npy arrays of token ids")] = None,
    stdlib: Annotated[bool, typer.Option(help="add this Python's standard library")] = False,
    template: Annotated[
        str | None, typer.Option(help='for .jsonl, such as "Q: {question}\\nA: {answer}"')
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="default: aded.table in the model folder")
    ] = None,
    successors: Annotated[int, typer.Option(min=1, max=16, help="kept per token pair")] = 12,
    min_count: Annotated[int, typer.Option(min=1, help="rarer tri-grams are left out")] = 1,
    max_bytes: Annotated[int | None, typer.Option(help="raises min-count until it fits")] = None,
    resume: Annotated[bool, typer.Option(help="go on after an interrupted build")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="figures as JSON on stdout")] = False,
) -> None:
    """Build the tri-gram table of the drafter aded from any text. Nothing is trained: it counts."""
    console = Console(stderr=True)
    try:
        figures = build(
            console,
            [*(data or []), *(tokens or [])],
            model or tokenizer,
            out or _default_out(model),
            stdlib=stdlib,
            template=template,
            resume=resume,
            successors=successors,
            min_count=min_count,
            max_bytes=max_bytes,
        )
    except ForetokenError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from the last finished chunk")
        raise typer.Exit(130) from None
    made = "{trigrams:,} tri-grams of {tokens:,} tokens in {bytes:,} bytes -> {out}"
    console.print(made.format(**figures), soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(figures))


def build(  # noqa: PLR0913
    console: Console,
    paths: list[Path],
    tokenizer: str | None,
    out: Path,
    *,
    stdlib: bool = False,
    template: str | None = None,
    resume: bool = True,
    successors: int = 12,
    min_count: int = 1,
    max_bytes: int | None = None,
) -> dict[str, Any]:
    """Build the table and say what it is; see `aded`. Raises ForetokenError."""
    from foretoken.learn.trigram import TrigramBuilder
    from foretoken.learn.trigram_corpus import Data, documents
    from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash

    corpus = Data(tuple(paths), stdlib, template)
    if tokenizer is None:
        raise ConfigError("tokenizer", None, "--model or --tokenizer: the table is keyed by it")
    encoder = load_tokenizer(tokenizer)
    key, vocab = tokenizer_hash(encoder), len(encoder)
    started = time.perf_counter()
    work = out.with_name(out.name + RESUME_SUFFIX)
    builder = TrigramBuilder(work, vocab, f"{key} {corpus.fingerprint()}", resume=resume)
    if builder.resumed:
        console.print(f"going on after {builder.tokens:,} tokens")
    before = builder.tokens
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("counting")
        seen = before
        for document in documents(corpus, encoder, builder.documents):
            builder.add(document)
            seen += len(document)
            progress.update(task, description=f"counting: {seen:,} tokens")
        progress.update(task, description="merging")
        meta = {
            "tokenizer": Path(tokenizer).name,
            "data": [p.name for p in paths],
            "stdlib": stdlib,
        }
        report = builder.finish(
            out, key, successors=successors, min_count=min_count, max_bytes=max_bytes, meta=meta
        )
    seconds = time.perf_counter() - started
    return {
        **asdict(report),
        "out": str(out),
        "tokenizer_hash": key,
        "vocab": vocab,
        "seconds": round(seconds, 3),
        "tokens_per_second": round((report.tokens - before) / seconds),
    }


def _default_out(model: str | None) -> Path:
    from foretoken.draft.aded import ASSET

    return Path(model) / ASSET if model and Path(model).is_dir() else Path(ASSET)
