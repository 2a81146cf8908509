"""foretoken audit: is this engine exact? For ours and for anybody's."""

from __future__ import annotations

import json as jsonlib
import shlex
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from foretoken.cli.options import grouped
from foretoken.errors import INTERRUPTED, ConfigError
from foretoken.registry import NULL_POLICY

if TYPE_CHECKING:
    from foretoken.audit.report import AuditReport, Plan
    from foretoken.audit.run import Wanted
    from foretoken.page.blocks import Block
    from foretoken.types import Sampling

DEFAULT = ("foretoken:aded",)
_WHAT, _GREEDY, _SAMPLING, _OUT = "What", "Greedy text", "Sampled text", "Output"


def _option(names: str, text: str, panel: str, default: str | None = None) -> Any:
    shown = True if default is None else default
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, show_default=shown)


@dataclass(frozen=True)
class AuditOptions:
    """What is audited."""

    engine: Annotated[
        list[str] | None,
        _option(
            "--engine -e",
            "foretoken:METHOD[:key=value,...], hf, hf-prompt-lookup, hf-assistant:FOLDER, "
            "python:MODULE_OR_FILE:FUNCTION, peer:LABEL (bench setup), http:URL, "
            "vllm:FOLDER[:JSON]; may be repeated.",
            _WHAT, ", ".join(DEFAULT),
        ),
    ] = None  # fmt: skip
    model: Annotated[
        str | None,
        _option("--model -m", "The target: folder or hub name.", _WHAT, "the demo model"),
    ] = None
    dtype: Annotated[
        str, _option("--dtype", "Number format of the engines: float32, bfloat16, float16.", _WHAT)
    ] = "float32"
    device: Annotated[str, _option("--device", "auto, cpu, cuda ...", _WHAT)] = "auto"
    prompts: Annotated[
        str | None,
        _option("--prompts", "Files (.txt, .jsonl), comma-separated.", _WHAT, "bundled ones"),
    ] = None
    limit: Annotated[int, _option("--limit", "Prompts at most.", _WHAT)] = 8
    policy: Annotated[
        str,
        _option("--policy", "Of our methods that name none: fixed drafts at every step.", _WHAT),
    ] = NULL_POLICY
    api_model: Annotated[
        str | None, _option("--api-model", "The model's name at an http engine.", _WHAT, "none")
    ] = None
    api_key_env: Annotated[
        str | None,
        _option("--api-key-env", "Environment variable that holds its key.", _WHAT, "none"),
    ] = None
    self_test: Annotated[
        bool, _option("--self-test", "Audit planted faults first: are they found here?", _WHAT)
    ] = False


@dataclass(frozen=True)
class HowOptions:
    """What is asked of the engines, and how sharply it is tested."""

    greedy: Annotated[bool, _option("--greedy/--no-greedy", "Test greedy text.", _GREEDY)] = True
    max_new_tokens: Annotated[
        int, _option("--max-new-tokens", "Tokens of each greedy text.", _GREEDY)
    ] = 64
    sampling: Annotated[
        bool, _option("--sampling/--no-sampling", "Test sampled text.", _SAMPLING)
    ] = True
    temperature: Annotated[float, _option("--temperature -t", "Above 0.", _SAMPLING)] = 1.0
    top_p: Annotated[float, _option("--top-p", "Nucleus mass; 1 is off.", _SAMPLING)] = 1.0
    top_k: Annotated[int, _option("--top-k", "Keep the k likeliest; 0 is off.", _SAMPLING)] = 0
    seed: Annotated[int, _option("--seed", "The first sample's.", _SAMPLING)] = 0
    tokens: Annotated[int, _option("--tokens", "Whose joint law is tested.", _SAMPLING)] = 3
    power: Annotated[float, _option("--power", "Wanted chance to see the effect.", _SAMPLING)] = (
        0.99
    )
    effect: Annotated[
        float, _option("--effect", "Total variation that must be seen.", _SAMPLING)
    ] = 0.05
    samples: Annotated[
        int | None, _option("--samples", "Per engine.", _SAMPLING, "from power and effect")
    ] = None
    false_alarms: Annotated[
        float, _option("--false-alarms", "Chance that a report accuses wrongly.", _SAMPLING)
    ] = 1e-3

    def settings(self) -> Sampling:
        """How text is sampled. Raises ConfigError that names the option."""
        from foretoken.engine.build import options
        from foretoken.types import Sampling

        names = ("temperature", "top_p", "top_k", "seed")
        made = options(Sampling, {name: getattr(self, name) for name in names})
        if made.greedy and self.sampling:
            raise ConfigError("temperature", 0.0, "more than 0, or --no-sampling")
        return made

    def wanted(self, self_test: bool) -> Wanted:
        """Raises ConfigError that names the option."""
        from foretoken.audit.run import Wanted
        from foretoken.audit.sampling import FEWEST

        for name in ("power", "effect", "false_alarms"):
            if not 0 < getattr(self, name) < 1:
                field = name.replace("_", "-")
                raise ConfigError(field, getattr(self, name), "a number between 0 and 1")
        for name, least in (("tokens", 1), ("max_new_tokens", 1), ("samples", FEWEST)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(name.replace("_", "-"), value, f"a whole number from {least}")
        if not (self.greedy or self.sampling):
            raise ConfigError("greedy", False, "--greedy or --sampling: nothing would be tested")
        if self_test and not self.sampling:
            raise ConfigError("self-test", True, "--sampling: the planted faults are its own")
        return Wanted(
            self.tokens, self.power, self.effect, self.samples, self.false_alarms, self.greedy,
            self.sampling, self_test, self.max_new_tokens,
        )  # fmt: skip


@dataclass(frozen=True)
class PageOptions:
    """Where the report goes."""

    json: Annotated[
        bool, _option("--json", "One JSON document as the last line of stdout.", _OUT)
    ] = False
    page: Annotated[
        Path | None, _option("--page", "Write the report: FILE.html or FILE.md.", _OUT, "none")
    ] = None


@grouped
def audit(what: AuditOptions, how: HowOptions, out: PageOptions) -> None:
    """Is this engine exact? Exit code 0: as far as tested; 1: a fault was found, or an engine broke
    off.

    Greedy text is compared with the model's own choices token by token, sampled text with the
    model's exact probabilities. Tables go to stderr.
    """
    from foretoken.audit.sections import sections
    from foretoken.page.write import check_path, write_page

    if out.page is not None:
        check_path(out.page)
    console = Console(stderr=True)
    report = _run(what, how, repeat(what, how, out), console)
    show(sections(report), console)
    if out.page is not None:
        write_page(sections(report), out.page)
    if out.json:
        typer.echo(jsonlib.dumps(report.model_dump(mode="json")))
    raise typer.Exit(1 if report.failed else INTERRUPTED if report.interrupted else 0)


def _run(what: AuditOptions, how: HowOptions, command: str, console: Console) -> AuditReport:
    """Everything is checked before the model is loaded."""
    from foretoken.audit.engines import Setup, parse
    from foretoken.audit.reference import load_reference
    from foretoken.audit.run import Audit, empty_report
    from foretoken.bench.prompts import encode, read_rows
    from foretoken.prompt.samples import ASSETS, demo_model
    from foretoken.prompt.tokens import load_tokenizer
    from foretoken.target.load import DTYPES, choose_device

    sampling, wanted = how.settings(), how.wanted(what.self_test)
    openers = {name: parse(name, what.policy) for name in what.engine or DEFAULT}
    if what.dtype not in DTYPES:
        raise ConfigError("dtype", what.dtype, f"one of {', '.join(DTYPES)}")
    files = (
        [Path(name) for name in what.prompts.split(",") if name]
        if what.prompts is not None else sorted((ASSETS / "prompts").glob("*.jsonl"))
    )  # fmt: skip
    rows = read_rows(files, what.limit)
    model = what.model if what.model is not None else str(demo_model())
    with console.status("loading the model"):
        _quiet()
        reference = load_reference(model, DTYPES[what.dtype], choose_device(what.device))
        tokenizer = load_tokenizer(model)
    prompts = [prompt.tokens for prompt in encode(rows, tokenizer)]
    most = reference.max_context - wanted.tokens - 1
    if long := next((row[0] for row, p in zip(rows, prompts, strict=True) if len(p) >= most), None):
        raise ConfigError("prompts", long, f"prompts of fewer than {most} tokens")
    setup = Setup(
        reference, tokenizer, sampling, model, what.api_model, what.api_key_env, what.device
    )
    report = empty_report(setup, wanted, len(prompts), [file.name for file in files], command)
    with progress(console) as watch:
        run = Audit(setup, wanted, prompts, report, watch)
        run.run({name: partial(opener, setup) for name, opener in openers.items()})
    return run.report


def _quiet() -> None:
    """transformers keeps its advice to itself."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def progress(console: Console) -> Any:
    """A bar on stderr that tells the plan when there is one."""
    from foretoken.audit.sections import plan_in_words
    from foretoken.cli.bench_show import Bar

    class Progress(Bar):
        def planned(self, plan: Plan) -> None:
            console.print(plan_in_words(plan), highlight=False)

    return Progress(console)


def repeat(*groups: Any) -> str:
    """The command that was given, as one line for a shell."""
    words = ["foretoken", "audit"]
    for group in groups:
        for field in fields(group):
            value, name = getattr(group, field.name), field.name.replace("_", "-")
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
                continue
            for item in value if isinstance(value, list) else [value]:
                words += [f"--{name}", str(item)]
    return shlex.join(words)


def show(blocks: list[Block], console: Console) -> None:
    """The report in a terminal."""
    from foretoken.page.blocks import Code, Grid, Heading, Text

    for block in blocks:
        match block:
            case Heading(text, _):
                console.print(f"\n{text}", style="bold", markup=False, highlight=False)
            case Text(text, bad):
                console.print(text, style="red" if bad else None, markup=False, highlight=False)
            case Code(text):
                console.print(text, style="dim", markup=False, highlight=False)
            case Grid(columns, rows):
                table = Table(box=box.SIMPLE, show_header=any(columns), padding=(0, 1, 0, 0))
                for name in columns:
                    table.add_column(name, overflow="fold")
                for row in rows:
                    table.add_row(*(_plain(cell) for cell in row))
                console.print(table)


def _plain(cell: str) -> Any:
    from rich.text import Text as Words

    return Words(cell, style="bold red" if "FAULT" in cell or "WRONG" in cell else "")
