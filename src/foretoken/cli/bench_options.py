"""What `foretoken bench` is asked, and the checks that need no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretoken.cli.bench_suites import SuiteOptions
from foretoken.errors import ConfigError
from foretoken.registry import DEFAULT_POLICY

if TYPE_CHECKING:
    from foretoken.bench.contest import Plan
    from foretoken.types import Sampling

_WHAT, _HOW, _TEXT, _OUT = "What", "How", "Text", "Output"
METHODS = "plain,aded,prompt-lookup"  # compared if none are named


def _option(names: str, text: str, panel: str, default: str | None = None) -> Any:
    shown = True if default is None else default
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, show_default=shown)


@dataclass(frozen=True)
class WhatOptions:
    """Which methods, peers and prompts."""

    methods: Annotated[
        str | None,
        _option(
            "--methods", "As name or name:key=value,key=value; comma-separated.", _WHAT,
            f"{METHODS}; with --pairs every form of lm, with --drafting all model-free ones",
        ),
    ] = None  # fmt: skip
    verifiers: Annotated[
        str, _option("--verifiers", "With --pairs: rules, comma-separated, or all.", _WHAT)
    ] = "all"
    lossy: Annotated[
        bool, _option("--lossy", "With --pairs: rules that change the text, too.", _WHAT)
    ] = False
    peers: Annotated[
        str,
        _option(
            "--peers",
            "Other engines on the same weights: names of `bench setup --list`, NAME:all "
            "for all modes of one, or all.",
            _WHAT,
        ),
    ] = ""
    prompts: Annotated[
        str | None,
        _option("--prompts", "Files (.txt, .jsonl), comma-separated; none: bundled ones.", _WHAT),
    ] = None
    limit: Annotated[int | None, _option("--limit", "Prompts at most.", _WHAT)] = None
    policy: Annotated[
        str, _option("--policy", "Policy of every method: marginal, fixed.", _WHAT)
    ] = DEFAULT_POLICY
    nodes: Annotated[
        int | None,
        _option(
            "--nodes", "Most drafted tokens per step, for every method.", _WHAT,
            "the method's own; 16 with --pairs, 64 with --rules",
        ),
    ] = None  # fmt: skip
    vocab: Annotated[
        int | None, _option("--vocab", "With --rules: tokens of a row.", _WHAT, "128000")
    ] = None
    set: Annotated[
        list[str] | None, _option("--set", "METHOD.key=value; may be repeated.", _WHAT)
    ] = None

    def files(self, forced: str | None = None) -> list[Path]:
        """The prompt files; those of --forced, if it is given."""
        if forced is not None:
            if self.prompts not in (None, forced):
                raise ConfigError("prompts", self.prompts, "none: --forced names the files")
            return [Path(name) for name in forced.split(",") if name]
        if self.prompts is not None:
            return [Path(name) for name in self.prompts.split(",") if name]
        from foretoken.prompt.samples import ASSETS

        return sorted((ASSETS / "prompts").glob("*.jsonl"))

    def check(self, mode: str) -> None:
        """Raise ConfigError for an option that the mode would not obey."""
        if mode != "rules" and self.vocab is not None:
            raise ConfigError("vocab", self.vocab, "none without --rules")
        if mode != "pairs" and (self.lossy or self.verifiers != "all"):
            name = "lossy" if self.lossy else "verifiers"
            raise ConfigError(name, getattr(self, name), "none without --pairs")
        if self.peers and mode not in ("compare", "suite"):
            raise ConfigError("peers", self.peers, f"none with --{mode}")
        if mode == "suite" and self.prompts is not None:
            raise ConfigError("prompts", self.prompts, "none with --suite")
        if mode in ("pairs", "rules", "drafting") and self.policy != DEFAULT_POLICY:
            raise ConfigError("policy", self.policy, f"none with --{mode}: budgets are equal")
        if mode == "rules" and self.methods is not None:
            raise ConfigError("methods", self.methods, "none with --rules: no drafter runs")


@dataclass(frozen=True)
class HowOptions:
    """What is measured, and how often."""

    repeats: Annotated[
        int | None,
        _option("--repeats", "Measured runs of each prompt.", _HOW, "3; 1 with --suite"),
    ] = None
    batch: Annotated[int, _option("--batch", "Prompts that ride together.", _HOW)] = 1
    forced: Annotated[
        str | None,
        _option("--forced", "Prompt files whose reference texts are followed.", _HOW),
    ] = None
    cut_loops: Annotated[
        bool, _option("--cut-loops/--no-cut-loops", "Stop where plain's text loops.", _HOW)
    ] = True
    parity: Annotated[bool, _option("--parity", "Count differing tokens; no timing.", _HOW)] = False
    mixed: Annotated[
        bool, _option("--mixed", "With --parity: methods and lengths mixed in a batch.", _HOW)
    ] = False
    memory: Annotated[
        int | None, _option("--memory", "Write so many tokens and watch the memory.", _HOW)
    ] = None
    kernels: Annotated[
        bool, _option("--kernels", "Time packed against plain linear layers.", _HOW)
    ] = False
    rules: Annotated[
        bool, _option("--rules", "Time one verdict of every rule; no model is needed.", _HOW)
    ] = False
    pairs: Annotated[
        bool, _option("--pairs", "Compare every drafter with every rule that may judge it.", _HOW)
    ] = False
    same_trees: Annotated[
        bool, _option("--same-trees", "With --pairs: every rule judges the same drafts.", _HOW)
    ] = False

    drafting: Annotated[
        int | None,
        _option(
            "--drafting", "Time every model-free drafter on so many tokens of text; no model.", _HOW
        ),
    ] = None

    def mode(self, suites: SuiteOptions) -> str:
        """What is asked for: compare, or one of the modes below. Raises ConfigError for more than
        one, or for an option that the mode would not obey."""
        chosen = {
            "suite": suites.suite is not None,
            "parity": self.parity,
            "memory": self.memory is not None,
            "kernels": self.kernels,
            "rules": self.rules,
            "pairs": self.pairs,
            "drafting": self.drafting is not None,
        }  # fmt: skip
        modes = [name for name, wanted in chosen.items() if wanted]
        if len(modes) > 1:
            raise ConfigError(modes[0], True, f"one of {', '.join(chosen)}; not {modes[1]} too")
        if modes and self.forced:
            raise ConfigError("forced", self.forced, f"a comparison of speeds, not --{modes[0]}")
        if self.mixed and not (self.parity and self.batch > 1):
            raise ConfigError("mixed", True, "--parity and --batch above 1")
        if self.same_trees and not self.pairs:
            raise ConfigError("same-trees", True, "--pairs")
        if self.memory is not None and self.memory < 1:
            raise ConfigError("memory", self.memory, "a whole number from 1")
        if self.drafting is not None and self.drafting < 2:
            raise ConfigError("drafting", self.drafting, "a whole number from 2")
        return modes[0] if modes else "compare"


@dataclass(frozen=True)
class WrittenOptions:
    """How tokens are chosen, and how many."""

    max_new_tokens: Annotated[
        int, _option("--max-new-tokens -n", "Most tokens of a prompt.", _TEXT)
    ] = 128
    temperature: Annotated[
        float | None, _option("--temperature -t", "0 is greedy.", _TEXT, "0; 1 with --pairs")
    ] = None
    top_k: Annotated[int, _option("--top-k", "Keep the k likeliest; 0 is off.", _TEXT)] = 0
    top_p: Annotated[float, _option("--top-p", "Nucleus mass; 1 is off.", _TEXT)] = 1.0
    min_p: Annotated[float, _option("--min-p", "Floor; 0 is off.", _TEXT)] = 0.0
    seed: Annotated[int, _option("--seed", "Text depends on (seed, position).", _TEXT)] = 0

    def sampling(self, temperature: float = 0.0) -> Sampling:
        """temperature: if none was given. Raises ConfigError that names the option."""
        from foretoken.engine.build import options
        from foretoken.types import Sampling

        names = ("temperature", "top_k", "top_p", "min_p", "seed")
        given = {name: getattr(self, name) for name in names}
        if self.temperature is None:
            given["temperature"] = temperature
        return options(Sampling, given)

    def plan(self, how: HowOptions, suites: SuiteOptions) -> Plan:
        """How to measure."""
        from foretoken.bench.contest import Plan

        forced = how.forced is not None or suites.references
        sampling = self.sampling(1.0 if how.pairs else 0.0)
        usual = 3 if suites.suite is None else 1
        repeats = usual if how.repeats is None else how.repeats
        return Plan(self.max_new_tokens, repeats, how.batch, sampling, forced, how.cut_loops)


@dataclass(frozen=True)
class OutOptions:
    """Where the document goes."""

    json: Annotated[
        bool, _option("--json", "One JSON document as the last line of stdout.", _OUT)
    ] = False
    save: Annotated[Path | None, _option("--save", "Write the JSON document here.", _OUT)] = None
    answers: Annotated[
        Path | None,
        _option(
            "--answers", "Write answers here in Spec-Bench's format, a file for each method; its "
            "questions are bundled (--suite spec-bench), or in a file (--prompts).", _OUT,
        ),
    ] = None  # fmt: skip

    def check(self, mode: str, batch: int) -> None:
        """Raise ConfigError for a place that cannot be written to, or if nothing is answered."""
        if self.save is not None and not self.save.parent.is_dir():
            raise ConfigError("save", str(self.save), "a file in a folder that exists")
        if self.answers is None:
            return
        if mode not in ("compare", "suite") or batch > 1:
            what = f"--{mode}" if batch == 1 else "--batch above 1"
            raise ConfigError("answers", str(self.answers), f"none with {what}")
        if self.answers.exists() and not self.answers.is_dir():
            raise ConfigError("answers", str(self.answers), "a folder")
