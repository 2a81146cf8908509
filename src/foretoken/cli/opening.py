"""From options to a loaded model and an engine, saying what takes time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foretoken.cli.options import MethodOptions, TargetOptions
from foretoken.errors import ConfigError

if TYPE_CHECKING:
    from foretoken.engine.engine import Engine

WARM_CONTEXT = 512  # tokens for which --compile warms up


def open_engine(target: TargetOptions, method: MethodOptions) -> Engine:
    """Load the model and build the method. Raises ForetokenError for what cannot be."""
    from foretoken.engine.engine import Engine

    # names and options first: a mistyped option must not cost the loading of a model
    policy = method.policy_name()
    drafter_options, policy_options = method.drafter_options(), method.policy_options()
    check_pair(method)
    if method.memory is not None:
        from foretoken.learn import memory

        memory.check(method.memory)
    loaded = load_target(target)
    announce_curve(loaded.target, policy, method.method)
    return Engine(
        loaded.target,
        loaded.tokenizer,
        method=method.method,
        policy=policy,
        verifier=method.verifier,
        options=drafter_options,
        policy_options=policy_options,
        assets=loaded.folder,
    )


def check_pair(method: MethodOptions) -> None:
    """Raise for an unknown rule, or one that does not judge what the drafter emits."""
    from foretoken import registry
    from foretoken.engine.build import check_kinds

    if method.verifier is not None:
        rule = registry.find("verifier", method.verifier)
        check_kinds(registry.find("drafter", method.method), rule)


def announce_curve(target: Any, policy: str, method: str) -> None:
    """Measure the cost curve where it is wanted and not known yet, and show that this goes on."""
    from rich.console import Console

    from foretoken import registry
    from foretoken.target.cost import cost_curve

    wanted = registry.find("policy", policy).needs_curve and registry.find("drafter", method).nodes
    if wanted:
        text = "measuring what a forward costs on this machine (once per model)"
        with Console(stderr=True).status(text) as status:
            cost_curve(target, lambda rows, _, s: status.update(f"{text}: {rows} rows, {s:.3f} s"))


def load_target(target: TargetOptions) -> Any:
    """The `foretoken.target.load.Loaded` that the options ask for; transformers keeps quiet."""
    if target.exact not in ("default", "bitwise"):
        raise ConfigError("exact", target.exact, "default or bitwise")
    if target.widen < 1:
        raise ConfigError("widen", target.widen, "a whole number from 1")
    from transformers.utils import logging

    from foretoken.prompt.samples import demo_model
    from foretoken.target.load import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    loaded = load(
        target.model if target.model is not None else str(demo_model()),
        dtype=target.dtype,
        device=target.device,
        exact=target.exact,  # type: ignore[arg-type]
        widen=target.widen,
        compiled=target.compiled,
    )
    if target.compiled:
        _warm_up(loaded.target)
    return loaded


def _warm_up(target: Any) -> None:
    """Compile the shapes of a usual request, and say what it costs."""
    from rich.console import Console

    console = Console(stderr=True)
    spent = target.warm_up(
        WARM_CONTEXT,
        on_shape=lambda rows, length, seconds: console.print(
            f"compiled {rows} rows x {length} columns in {seconds:.1f} s", highlight=False
        ),
    )
    console.print(f"warm-up {spent:.1f} s; longer contexts compile when they come")
