"""The same drafts before every rule, for every drafter: is one rule never below another?

The text is written by `walk`, so that it is the same for all; a drafter drafts along, and in each
step every rule judges that one draft (`foretoken.bench.expected`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from foretoken import registry
from foretoken.bench.contest import Plan
from foretoken.bench.expected import Shadow
from foretoken.bench.interval import Mean
from foretoken.bench.machine import describe, model_name
from foretoken.bench.prompts import Prompt
from foretoken.bench.report import Machine
from foretoken.bench.results import set_fields
from foretoken.bench.spec import Spec
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.types import Limits, Options, Request

REFERENCE = "traversal"  # what the others are compared with, draft by draft
ROUNDING = 1e-4  # expectations closer than this are equal: rows are float32


class RuleOnTrees(Options):
    """One rule on the drafts of one drafter."""

    drafter: str
    rule: str
    guarantee: str
    drafts: int
    accepted: Mean  # expected accepted tokens per draft
    behind: Mean | None = None  # REFERENCE minus this rule on the same drafts
    ahead_on: float | None = None  # share of the drafts on which this rule expects more


class SameTrees(Options):
    """The document of `foretoken bench --pairs --same-trees --json`."""

    model: str
    dtype: str
    machine: Machine
    sampling: dict[str, Any]
    nodes: int
    max_new_tokens: int
    prompts: int
    files: list[str]
    reference: str = REFERENCE
    results: list[RuleOnTrees]
    left_out: float  # most chance that an expectation leaves out
    interrupted: bool = False  # Ctrl-C: the figures are those of what was finished

    @property
    def above_reference(self) -> list[RuleOnTrees]:
        """Exact rules whose mean exceeds REFERENCE's by more than two standard errors."""
        return [
            result for result in self.results
            if result.guarantee == "exact" and result.behind is not None
            and result.behind.mean < -max(ROUNDING, 2 * (result.behind.error or 0.0))
        ]  # fmt: skip


Forms = Mapping[str, tuple[Spec, Sequence[str]]]  # drafter -> its spec, the names of the rules


def same_trees(
    engine: Engine,
    forms: Forms,
    prompts: Sequence[Prompt],
    plan: Plan,
    nodes: int,
    files: Sequence[str | Path] = (),
    on_prompt: Callable[[str], None] = lambda _: None,
) -> SameTrees:
    """Decode every prompt once with every drafter. Ctrl-C ends it with what was finished.

    on_prompt: called with the drafter after every prompt. Raises ConfigError for greedy text, where
    all rules are one.
    """
    check_sampling(plan)
    target: Any = engine.target
    results: list[RuleOnTrees] = []
    lost, interrupted = 0.0, False
    for label, (spec, names) in forms.items():
        shadow = Shadow({name: registry.find("verifier", name)() for name in names})
        method = build(
            engine.target, engine.context, spec.name, spec.policy, shadow, spec.options,
            spec.policy_options,
        )  # fmt: skip
        try:
            _decode(engine, method, shadow, prompts, plan, partial(on_prompt, label))
        except KeyboardInterrupt:
            interrupted = True
        results += _results(label, method, shadow)
        lost = max(lost, shadow.lost)
        if interrupted:
            break
    return SameTrees(
        model=model_name(target),
        dtype=str(target.dtype).removeprefix("torch."),
        machine=describe(target),
        sampling=set_fields(plan.sampling),
        nodes=nodes,
        max_new_tokens=plan.max_new_tokens,
        prompts=len(prompts),
        files=[Path(file).name for file in files],
        results=results,
        left_out=lost,
        interrupted=interrupted,
    )


def check_sampling(plan: Plan) -> None:
    """Raise ConfigError for greedy text."""
    if plan.sampling.greedy:
        raise ConfigError("temperature", 0.0, "more than 0 with --same-trees")


def _decode(
    engine: Engine, method: Method, shadow: Shadow, prompts: Sequence[Prompt], plan: Plan,
    on_prompt: Callable[[], None],
) -> None:  # fmt: skip
    for prompt in prompts:
        shadow.seen.append([])
        room = min(plan.max_new_tokens, engine.target.max_context - len(prompt.tokens))
        engine.run(
            [Request(prompt.tokens, plan.sampling, Limits(max_new_tokens=max(room, 1)))], method
        )
        on_prompt()


def _results(label: str, method: Method, shadow: Shadow) -> list[RuleOnTrees]:
    out = []
    for name, rule in shadow.rules.items():
        accepted = shadow.mean(name)
        if accepted is None:  # nothing was drafted
            continue
        known = REFERENCE in shadow.rules and name != REFERENCE
        out.append(
            RuleOnTrees(
                drafter=label,
                rule=name,
                guarantee=replace(method, verifier=rule).guarantee,
                drafts=sum(map(len, shadow.seen)),
                accepted=accepted,
                behind=shadow.ahead(REFERENCE, name) if known else None,
                ahead_on=shadow.share_below(REFERENCE, name, ROUNDING) if known else None,
            )
        )
    return out
