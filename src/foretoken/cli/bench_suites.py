"""foretoken bench --suite: options, and the run from suite to suite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.errors import ConfigError

if TYPE_CHECKING:
    from foretoken.bench.contest import Plan, Watch
    from foretoken.bench.stream_report import StreamReport
    from foretoken.bench.suites import Suite
    from foretoken.engine.engine import Engine

_PANEL = "Suites"


def _option(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=_PANEL)


@dataclass(frozen=True)
class SuiteOptions:
    """Bundled suites instead of prompt files."""

    suite: Annotated[
        str | None,
        _option(
            "--suite",
            "demo, humaneval, gsm8k, spec-bench (or spec-bench:translation ...), edit, repeat, "
            "samples, hot, or all; with --references gsm8k-llm and random, too. Comma-separated; "
            "--limit holds for each, --repeats is 1 if not given.",
        ),
    ] = None
    references: Annotated[
        bool, _option("--references", "Follow the suites' reference texts (forced mode).")
    ] = False
    keep_learning: Annotated[
        bool, _option("--keep-learning", "What was learned on a suite serves the next.")
    ] = False
    prompt_tokens: Annotated[
        int | None,
        _option(
            "--prompt-tokens",
            "Keep so many of a prompt's last tokens; documents longer than that are dropped.",
        ),
    ] = None
    resume: Annotated[
        bool, _option("--resume", "Leave out the suites that the file of --save holds.")
    ] = False

    def of(self, plan: Plan, limit: int | None, save: Path | None) -> SuiteRun:
        """What is to be run. Raises ConfigError for an unknown suite, or for options that have no
        effect or that suites cannot be run with."""
        if self.suite is None:
            for name in ("references", "keep_learning", "resume", "prompt_tokens"):
                if getattr(self, name):
                    raise ConfigError(
                        name.replace("_", "-"), getattr(self, name), "none without --suite"
                    )
            return SuiteRun(self, [], plan, limit, save)
        from foretoken.bench.suites import choose

        suites = choose(self.suite, self.references)
        if limit is not None and limit < 1:
            raise ConfigError("limit", limit, "a whole number from 1")
        if self.prompt_tokens is not None and self.prompt_tokens < 1:
            raise ConfigError("prompt-tokens", self.prompt_tokens, "a whole number from 1")
        if plan.batch > 1:
            raise ConfigError("batch", plan.batch, "1 with --suite: figures are of single prompts")
        if self.resume and save is None:
            raise ConfigError("resume", True, "--save FILE, the file to go on with")
        if self.keep_learning and plan.repeats > 1:
            raise ConfigError("repeats", plan.repeats, "1 with --keep-learning: no text twice")
        if self.keep_learning and self.resume:
            raise ConfigError("resume", True, "none with --keep-learning: what was learned is gone")
        return SuiteRun(self, suites, plan, limit, save)


@dataclass(frozen=True)
class SuiteRun:
    """What is run, once the model is loaded."""

    options: SuiteOptions
    suites: list[Suite]
    plan: Plan
    limit: int | None
    save: Path | None

    def run(
        self, engine: Engine, contestants: list[Any], wanted: dict[str, Any], console: Console,
        watch: Watch,
    ) -> StreamReport:  # fmt: skip
        """wanted: the settings, see `stream.settings`. Tables go to the console as suites end."""
        from foretoken.bench.floor import floor
        from foretoken.bench.machine import describe
        from foretoken.bench.saving import save_text
        from foretoken.bench.stream import Stream, resumed
        from foretoken.bench.stream_report import StreamReport
        from foretoken.cli.bench_show_suites import show_stream, show_suite, show_target

        show_target(wanted, describe(engine.target), console)
        document = StreamReport(settings=wanted)
        if self.options.resume and self.save is not None:
            document = resumed(self.save, wanted)
        for suite in document.suites:
            console.print(f"{suite.suite}: in {self.save}")

        def note(grown: StreamReport, suite: str) -> None:
            if self.save is not None:
                save_text(self.save, grown.model_dump_json() + "\n")
            show_suite(grown, suite, console)

        stream = Stream(
            engine, contestants, self.plan, self.limit, wanted["widen"], document,
            keep_learning=self.options.keep_learning, prompt_tokens=self.options.prompt_tokens,
            on_suite=note,
        )  # fmt: skip
        document = stream.run(self.suites, watch)
        with console.status("measuring how fast memory is read"):
            document = document.model_copy(update={"floor": floor(engine.target)})
        if self.save is not None and document.suites:  # an earlier file is worth more than nothing
            save_text(self.save, document.model_dump_json() + "\n")
        show_stream(document, console)
        return document
