"""What `foretoken tune` is asked, and the checks that need no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from foretoken.errors import ConfigError

PROMPTS, LONGEST = 8, 128  # recorded, if nothing else is said
_TEXT, _WHAT, _CARD, _OUT = "Text", "What", "Scorecard", "Output"


def _option(names: str, text: str, panel: str, shown: str | bool = True) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, show_default=shown)


@dataclass(frozen=True)
class TraceOptions:
    """The text that methods are scored on."""

    prompts: Annotated[
        str | None,
        _option("--prompts", "Files (.txt, .jsonl), comma-separated; none: bundled ones.", _TEXT),
    ] = None
    forced: Annotated[
        str | None,
        _option("--forced", "Prompt files whose reference texts are followed.", _TEXT, False),
    ] = None
    limit: Annotated[int | None, _option("--limit", "Prompts at most.", _TEXT, str(PROMPTS))] = None
    max_new_tokens: Annotated[
        int | None, _option("--max-new-tokens -n", "Most tokens of a text.", _TEXT, str(LONGEST))
    ] = None
    temperature: Annotated[
        float | None, _option("--temperature -t", "0 is greedy.", _TEXT, "0")
    ] = None
    seed: Annotated[int, _option("--seed", "Of texts and scenarios.", _TEXT)] = 0
    trace: Annotated[
        Path | None,
        _option("--trace", "A recorded trace; nothing is recorded and no model runs.", _TEXT),
    ] = None
    save_trace: Annotated[
        Path | None, _option("--save-trace", "Keep what is recorded here (holds text).", _TEXT)
    ] = None

    def check(self) -> None:
        """Raises ConfigError for what contradicts itself."""
        if self.trace is not None:
            recording = (
                "prompts",
                "forced",
                "limit",
                "max_new_tokens",
                "temperature",
                "save_trace",
            )
            for name in recording:
                if getattr(self, name) is not None:
                    given = str(getattr(self, name))
                    raise ConfigError(name.replace("_", "-"), given, "none with --trace")
        if self.save_trace is not None and not self.save_trace.parent.is_dir():
            raise ConfigError("save-trace", str(self.save_trace), "a file in a folder that exists")
        for name in ("limit", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name.replace("_", "-"), value, "a whole number from 1")


@dataclass(frozen=True)
class WhatOptions:
    """Who is scored, and where the answer goes."""

    methods: Annotated[
        str | None, _option("--methods", "Comma-separated.", _WHAT, "all that run no model")
    ] = None
    policies: Annotated[
        str | None, _option("--policies", "Comma-separated.", _WHAT, "all; fixed and the default "
                            "in the scorecard")
    ] = None  # fmt: skip
    scorecard: Annotated[
        bool, _option("--scorecard", "Also play scripted shifts on bundled texts.", _CARD)
    ] = False
    scenarios: Annotated[str | None, _option("--scenarios", "Comma-separated.", _CARD, "all")] = (
        None
    )
    phase_tokens: Annotated[
        int | None, _option("--phase-tokens", "Tokens between two shifts.", _CARD, "600")
    ] = None
    picture: Annotated[
        Path | None, _option("--picture", "Draw the scorecard: .png or .svg.", _CARD)
    ] = None
    json: Annotated[
        bool, _option("--json", "One JSON document as the last line of stdout.", _OUT)
    ] = False
    save: Annotated[Path | None, _option("--save", "Write the JSON document here.", _OUT)] = None

    def check(self) -> None:
        """Raises ConfigError for unknown names, and for files that cannot be written."""
        from foretoken.page.figure import check_plot
        from foretoken.tune.scorecard import check_names
        from foretoken.tune.stage import check_policy

        for name in ("scenarios", "phase_tokens", "picture"):
            value = getattr(self, name)
            if value is not None and not self.scorecard:
                raise ConfigError(name.replace("_", "-"), str(value), "none without --scorecard")
        if self.picture is not None:
            check_plot(self.picture, "picture")
        if self.save is not None and not self.save.parent.is_dir():
            raise ConfigError("save", str(self.save), "a file in a folder that exists")
        if self.phase_tokens is not None and self.phase_tokens < 1:
            raise ConfigError("phase-tokens", self.phase_tokens, "a whole number from 1")
        check_names(split(self.scenarios) or [])
        for policy in split(self.policies) or []:
            check_policy(policy)
        self.method_names()

    def method_names(self) -> list[str]:
        """Raises ConfigError for a name that a trace cannot judge."""
        from foretoken.tune.stage import candidates, check_method

        names = split(self.methods) or candidates()
        for name in names:
            check_method(name)
        return names

    def policy_names(self, scorecard: bool = False) -> list[str]:
        """All that a trace can judge, or what every scenario is played with."""
        from foretoken import registry
        from foretoken.tune.stage import policies

        usual = [registry.NULL_POLICY, registry.DEFAULT_POLICY]
        return split(self.policies) or (usual if scorecard else policies())


def split(names: str | None) -> list[str] | None:
    """Names separated by commas; None stays None."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]
