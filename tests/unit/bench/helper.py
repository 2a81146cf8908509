"""A small comparison on tiny random models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foretoken.bench.contest import Plan, Watch
from foretoken.bench.own import Own
from foretoken.bench.prompts import Prompt
from foretoken.bench.run import Measured, measure
from foretoken.bench.spec import parse_methods
from foretoken.engine.engine import Engine
from tests import tiny

METHODS = "plain,aded,prompt-lookup"


def engine(name: str = "llama", batch: int = 1) -> Engine:
    return Engine(tiny.target(name), method="plain", policy="fixed", max_sessions=batch)


def prompts(n: int, references: Sequence[list[int]] = ()) -> list[Prompt]:
    made = [tiny.prompt(i, 12 + i) for i in range(n)]
    given: list[Any] = [*references, *[None] * n]
    return [Prompt(f"p{i}", made[i], "", given[i]) for i in range(n)]


def contestants(on: Engine, methods: str = METHODS, policy: str = "fixed") -> list[Any]:
    return [Own(on, spec) for spec in parse_methods(methods, policy)]


def compare(
    plan: Plan, given: list[Prompt], methods: str = METHODS, watch: Watch | None = None,
    more: Sequence[Any] = (),
) -> Measured:  # fmt: skip
    on = engine(batch=plan.batch)
    return measure(on, [*contestants(on, methods), *more], given, plan, watch)
