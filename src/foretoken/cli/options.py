"""The options that commands share, declared once, and what the library makes of them.

A command takes the dataclasses below as parameters and is decorated with `grouped`; typer then sees
one option per field. Defaults of sampling are not repeated here: None means the library's own.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from foretoken.errors import ConfigError
from foretoken.registry import DEFAULT_METHOD, DEFAULT_POLICY, NULL_POLICY

if TYPE_CHECKING:
    from foretoken.types import Limits, Sampling

_TARGET, _METHOD, _TEXT = "Target", "Method", "Text"


def _option(names: str, text: str, panel: str, default: str | None = None) -> Any:
    shown = default if default is not None else False
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, show_default=shown)


@dataclass(frozen=True)
class TargetOptions:
    """Which model, and how it runs."""

    model: Annotated[
        str | None,
        _option("--model -m", "Folder or hub name.", _TARGET, "the bundled demo model"),
    ] = None
    dtype: Annotated[
        str,
        _option("--dtype", "auto, float32, bfloat16 or float16.", _TARGET, "auto"),
    ] = "auto"
    device: Annotated[str, _option("--device", "auto, cpu, cuda ...", _TARGET, "auto")] = "auto"
    exact: Annotated[
        str,
        _option(
            "--exact",
            "default, or bitwise: the same bits whatever rides along, in any dtype.",
            _TARGET,
            "default",
        ),
    ] = "default"
    widen: Annotated[
        int,
        _option(
            "--widen", "Zero-pad to the cost of a model about K**3 times larger.", _TARGET, "1: off"
        ),
    ] = 1
    compiled: Annotated[
        bool, _option("--compile", "Compile forwards; the warm-up takes a while.", _TARGET)
    ] = False


@dataclass(frozen=True)
class MethodOptions:
    """What drafts, and how much."""

    method: Annotated[
        str, _option("--method", "A drafter of `foretoken methods`.", _METHOD, DEFAULT_METHOD)
    ] = DEFAULT_METHOD
    verifier: Annotated[
        str | None,
        _option(
            "--verifier", "An acceptance rule of `foretoken methods`.", _METHOD, "the method's own"
        ),
    ] = None
    set: Annotated[
        list[str] | None,
        _option("--set", "Drafter option as key=value; may be repeated.", _METHOD),
    ] = None
    policy: Annotated[
        str | None,
        _option("--policy", "A policy of `foretoken methods`.", _METHOD, DEFAULT_POLICY),
    ] = None
    policy_set: Annotated[
        list[str] | None,
        _option("--policy-set", "Policy option as key=value; may be repeated.", _METHOD),
    ] = None
    nodes: Annotated[
        int | None,
        _option(
            "--nodes", "Most drafted tokens per step; 0 is plain.", _METHOD, "the method's own"
        ),
    ] = None
    memory: Annotated[
        Path | None,
        _option(
            "--memory",
            "Keep what was learned here from run to run. The file holds statistics of your texts "
            "(which tokens followed which, prompts included) and timings.",
            _METHOD,
            "off",
        ),
    ] = None

    def drafter_options(self) -> dict[str, Any]:
        """What `--set` said."""
        return pairs("set", self.set)

    def policy_name(self) -> str:
        """The policy asked for; a drafter that never drafts needs none."""
        from foretoken import registry

        idle = registry.find("drafter", self.method).nodes == 0
        return self.policy or (NULL_POLICY if idle else DEFAULT_POLICY)

    def policy_options(self) -> dict[str, Any]:
        """What `--policy-set` and `--nodes` said."""
        nodes = {} if self.nodes is None else {"nodes": self.nodes}
        return {**pairs("policy-set", self.policy_set), **nodes}


@dataclass(frozen=True)
class TextOptions:
    """How tokens are chosen, and when to stop."""

    max_new_tokens: Annotated[
        int | None, _option("--max-new-tokens -n", "Most tokens written.", _TEXT, "128")
    ] = None
    stop: Annotated[
        list[str] | None,
        _option("--stop", "Text ends before this string; may be repeated.", _TEXT),
    ] = None
    ignore_eos: Annotated[
        bool, _option("--ignore-eos", "Go on after end-of-text tokens.", _TEXT)
    ] = False
    temperature: Annotated[
        float | None, _option("--temperature -t", "0 is greedy.", _TEXT, "0")
    ] = None
    top_k: Annotated[int | None, _option("--top-k", "Keep the k likeliest.", _TEXT)] = None
    top_p: Annotated[float | None, _option("--top-p", "Nucleus mass.", _TEXT)] = None
    min_p: Annotated[
        float | None, _option("--min-p", "Floor relative to the likeliest.", _TEXT)
    ] = None
    typical_p: Annotated[float | None, _option("--typical-p", "Locally typical mass.", _TEXT)] = (
        None
    )
    epsilon_cutoff: Annotated[
        float | None, _option("--epsilon-cutoff", "Absolute floor.", _TEXT)
    ] = None
    eta_cutoff: Annotated[
        float | None, _option("--eta-cutoff", "Entropy-dependent floor.", _TEXT)
    ] = None
    repetition_penalty: Annotated[
        float | None, _option("--repetition-penalty", "Divides logits of seen tokens.", _TEXT)
    ] = None
    presence_penalty: Annotated[
        float | None, _option("--presence-penalty", "Subtracted once if written before.", _TEXT)
    ] = None
    frequency_penalty: Annotated[
        float | None, _option("--frequency-penalty", "Subtracted per earlier use.", _TEXT)
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None, _option("--no-repeat-ngram-size", "No n-gram twice.", _TEXT)
    ] = None
    min_new_tokens: Annotated[
        int | None, _option("--min-new-tokens", "No end of text before.", _TEXT)
    ] = None
    seed: Annotated[
        int | None, _option("--seed", "Text depends on (seed, position) alone.", _TEXT, "0")
    ] = None

    def sampling(self) -> Sampling:
        """Raises ConfigError that names the option."""
        from foretoken.engine.build import options
        from foretoken.types import Sampling

        return options(Sampling, self._given(Sampling.model_fields))

    def limits(self) -> Limits:
        """Raises ConfigError that names the option."""
        from foretoken.engine.build import options
        from foretoken.types import Limits

        given = self._given(Limits.model_fields)
        return options(Limits, {**given, "stop": tuple(self.stop or ())})

    def _given(self, names: Any) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name in names}
        return {name: value for name, value in values.items() if value is not None}


def pairs(field: str, items: Sequence[str] | None) -> dict[str, Any]:
    """["key=value"] -> {key: value}; a value is read as JSON where it is JSON, else as text."""
    out: dict[str, Any] = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise ConfigError(field, item, "key=value")
        try:
            out[key.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            out[key.replace("-", "_")] = value
    return out


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread the dataclasses among a command's parameters into one option per field."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    spread: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            spread += _parameters(groups[name])
        else:
            spread.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            )

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = {
            name: kind(**{f.name: values.pop(f.name) for f in fields(kind)})  # type: ignore[operator]
            for name, kind in groups.items()
        }
        command(**made, **values)

    run.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return run


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(group)
    ]
