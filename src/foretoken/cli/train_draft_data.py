"""foretoken train draft data: prompts in, the target's own answers out."""

from __future__ import annotations

import json as jsonlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.opening import announce_curve, load_target
from foretoken.cli.options import TargetOptions, grouped
from foretoken.errors import ConfigError
from foretoken.registry import DEFAULT_POLICY, NULL_METHOD, NULL_POLICY

if TYPE_CHECKING:
    from foretoken.engine.engine import Engine
    from foretoken.learn.recipes.answering import Settings
    from foretoken.learn.recipes.manifest import Manifest

_ASKED, _WRITTEN, _SHARED = "Prompts", "Answers", "Sharing the work"


def _option(names: str, text: str, panel: str, default: str | bool = True) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, show_default=default)


@dataclass(frozen=True)
class AskedOptions:
    """What the model is asked."""

    prompts: Annotated[
        list[Path] | None,
        _option("--prompts", "JSONL (question, prompt, text, turns, conversations, messages or "
                "input_ids) or a text file; through the chat template. Repeatable.",
                _ASKED, "none"),
    ] = None  # fmt: skip
    raw: Annotated[
        list[Path] | None,
        _option("--raw", "Documents (JSONL or a text file) that the model goes on with, without "
                "a template. Repeatable.", _ASKED, "none"),
    ] = None  # fmt: skip
    stdlib: Annotated[
        bool, _option("--stdlib", "Modules and functions of this Python's library, too.", _ASKED)
    ] = False
    prompt_tokens: Annotated[
        int, _option("--prompt-tokens", "Tokens read of a document, at most half of it.", _ASKED)
    ] = 64
    limit: Annotated[
        int | None,
        _option("--limit", "Most prompts; chosen from all files alike.", _ASKED, "all"),
    ] = None
    keep_answers: Annotated[
        bool,
        _option("--keep-answers", "Take answers that rows come with as they are: only if this "
                "model wrote them.", _ASKED),
    ] = False  # fmt: skip


@dataclass(frozen=True)
class WritingOptions:
    """How the answers are written."""

    temperature: Annotated[
        list[float] | None,
        _option("--temperature -t", "Repeatable: answers at each; 0 is greedy.", _WRITTEN,
                "0 0.7 1"),
    ] = None  # fmt: skip
    samples: Annotated[
        int, _option("--samples", "Answers per prompt and temperature above 0.", _WRITTEN)
    ] = 1
    top_p: Annotated[float, _option("--top-p", "Nucleus mass; 1 is off.", _WRITTEN)] = 1.0
    top_k: Annotated[int, _option("--top-k", "Keep the k likeliest; 0 is off.", _WRITTEN)] = 0
    max_new_tokens: Annotated[
        int, _option("--max-new-tokens -n", "Most tokens of an answer.", _WRITTEN)
    ] = 256
    seed: Annotated[int, _option("--seed", "Of all draws.", _WRITTEN)] = 0
    loops: Annotated[
        str,
        _option("--loops", "Texts that begin to loop: cut, drop or keep.", _WRITTEN),
    ] = "cut"
    method: Annotated[
        str,
        _option("--method", "What drafts while it writes; the text is the model's own in any "
                "case. A large batch is fast without.", _WRITTEN),
    ] = NULL_METHOD  # fmt: skip
    batch: Annotated[int, _option("--batch", "Answers written at a time.", _WRITTEN)] = 16
    shard: Annotated[int, _option("--shard", "Prompts per file.", _WRITTEN)] = 128


@dataclass(frozen=True)
class SharingOptions:
    """Several processes or machines, each with a folder of its own."""

    part: Annotated[
        str | None,
        _option("--part", "K/N: make every N-th file only, from the K-th on.", _SHARED, "all"),
    ] = None
    merge: Annotated[
        list[Path] | None,
        _option("--merge", "Folders of all parts of a run, to be one folder; repeatable.",
                _SHARED, "none"),
    ] = None  # fmt: skip

    def which(self) -> tuple[int, int]:
        """(0-based part, how many). Raises ConfigError."""
        if self.part is None:
            return 0, 1
        try:
            k, n = (int(x) for x in self.part.split("/"))
        except ValueError:
            k, n = 0, 0
        if not 1 <= k <= n:
            raise ConfigError("part", self.part, "K/N with K from 1 to N, such as 2/4")
        return k - 1, n


@grouped
def data(
    target: TargetOptions,
    asked: AskedOptions,
    writing: WritingOptions,
    sharing: SharingOptions,
    out: Annotated[Path, typer.Option("--out", help="Folder for the answers.")],
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an interrupted run.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Let a model answer prompts: what its drafter is trained on. Ctrl-C keeps finished files."""
    from foretoken.engine.build import options
    from foretoken.learn.recipes.answering import Settings
    from foretoken.learn.recipes.data import merge

    console, began, part = Console(stderr=True), time.perf_counter(), sharing.which()
    if sharing.merge:
        made, written = merge(sharing.merge, out), 0
        summary = _summary(made, out, written, time.perf_counter() - began)
        _tell(console, made, summary)
        if json:
            typer.echo(jsonlib.dumps(summary))
        return
    given = {name: getattr(writing, name) for name in ("samples", "top_p", "top_k", "seed",
             "max_new_tokens", "loops", "shard")}  # fmt: skip
    if writing.temperature:
        given["temperatures"] = tuple(writing.temperature)
    given |= {"prompt_tokens": asked.prompt_tokens, "keep_answers": asked.keep_answers}
    settings = options(Settings, given).checked()
    for name, number in (("batch", writing.batch), ("limit", asked.limit)):
        if number is not None and number < 1:
            raise ConfigError(name, number, "a whole number from 1")
    made, written = _write(console, target, asked, writing, settings, part, out, resume)
    summary = _summary(made, out, written, time.perf_counter() - began)
    _tell(console, made, summary)
    if json:
        typer.echo(jsonlib.dumps(summary))


def _write(  # noqa: PLR0913, PLR0917
    console: Console,
    target: TargetOptions,
    asked: AskedOptions,
    writing: WritingOptions,
    settings: Settings,
    part: tuple[int, int],
    out: Path,
    resume: bool,
) -> tuple[Manifest, int]:
    """The manifest, and how many tokens were written now."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from foretoken.learn.recipes.data import write_data
    from foretoken.learn.recipes.talks import read_talks

    engine = _engine(target, writing)
    with console.status("Reading prompts ..."):
        talks = read_talks(
            asked.prompts or [], asked.raw or [], asked.stdlib, tokenizer=engine.tokenizer,
            start=settings.prompt_tokens, limit=asked.limit, keep=settings.keep_answers,
        )  # fmt: skip
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} prompts kept"), BarColumn(),
        TextColumn("{task.description}"), TimeElapsedColumn(),
    )  # fmt: skip
    written = 0
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(talks.talks))
        began = time.perf_counter()

        def watch(turns: int, tokens: int, done: int) -> None:
            nonlocal written
            written = tokens
            rate = tokens / max(time.perf_counter() - began, 1e-9)
            text = f"{turns:,} answers, {tokens:,} tokens, {rate:,.0f} tokens/s"
            bar.update(task, completed=done, description=text)

        made = write_data(
            engine, talks, settings, out, command=_command(target, asked, writing, out),
            part=part, resume=resume, watch=watch,
        )  # fmt: skip
    return made, written


def _engine(target: TargetOptions, writing: WritingOptions) -> Engine:
    from foretoken import registry
    from foretoken.engine.engine import Engine

    idle = registry.find("drafter", writing.method).nodes == 0
    policy = NULL_POLICY if idle else DEFAULT_POLICY
    loaded = load_target(target)
    announce_curve(loaded.target, policy, writing.method)
    return Engine(
        loaded.target, loaded.tokenizer, method=writing.method, policy=policy,
        max_sessions=writing.batch, assets=loaded.folder,
    )  # fmt: skip


def _command(target: TargetOptions, asked: AskedOptions, writing: WritingOptions, out: Path) -> str:
    """The command that repeats this run; absolute paths are cut to their last part, so that no
    manifest tells where it was made."""

    def shown(path: str | Path) -> str:
        return Path(path).name if Path(path).is_absolute() else str(path)

    words = ["foretoken train draft data"]
    words += [f"--model {shown(target.model)}"] if target.model else []
    for group in (target, asked, writing):
        default = type(group)()
        for name in group.__dataclass_fields__:
            value = getattr(group, name)
            if name == "model" or value == getattr(default, name):
                continue
            flag = "--compile" if name == "compiled" else "--" + name.replace("_", "-")
            values = value if isinstance(value, list) else [value]
            words += [flag if v is True else f"{flag} {shown(str(v))}" for v in values]
    return " ".join([*words, f"--out {shown(out)}"])


def _summary(made: Manifest, out: Path, written: int, seconds: float) -> dict[str, Any]:
    return {
        "out": str(out),
        "model": made.model,
        "prompts": made.prompts,
        "counts": made.counts,
        "shards": len(made.shards),
        "sources": [dict(source) for source in made.sources],
        "tokens_now": written,
        "seconds": round(seconds, 3),
        "command": made.command,
    }


def _tell(console: Console, made: Manifest, summary: dict[str, Any]) -> None:
    counts = made.counts
    console.print(
        f"{summary['out']}: {counts['rows']:,} rows with {counts['learned']:,} tokens to learn, "
        f"from {made.prompts['used']:,} prompts",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    left = {what: counts.get(what, 0) for what in ("looping", "empty", "too-long")}
    if any(left.values()):
        told = ", ".join(f"{n:,} {what}" for what, n in left.items() if n)
        console.print(f"left out: {told}", highlight=False)
    if counts.get("length") and not counts.get("stop"):
        console.print(
            "no answer ended by itself: is the end-of-turn token among the model's eos_token_id "
            "(generation_config.json), and --max-new-tokens large enough?",
            soft_wrap=True,
        )  # fmt: skip
