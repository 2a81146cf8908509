"""Suites one after another in one process: the stream. It is saved after every suite."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foretoken.bench.asking import Asking
from foretoken.bench.contest import Contestant, Plan, Watch
from foretoken.bench.machine import describe, model_name, parameters
from foretoken.bench.run import measure
from foretoken.bench.spec import Spec
from foretoken.bench.stream_report import VERSION, StreamReport, SuiteReport, suite_report
from foretoken.bench.suites import Suite, build_suite
from foretoken.bench.tally import Tally
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError


@dataclass
class Stream:
    """A run over suites. `run` adds to `document`; `on_suite` sees it after every suite,
    with the suite's name."""

    engine: Engine
    contestants: Sequence[Contestant]
    plan: Plan
    limit: int | None  # prompts of a suite at most
    widen: int
    document: StreamReport
    keep_learning: bool = False  # what was learned on a suite serves the next
    prompt_tokens: int | None = None  # kept of a prompt, from its end; None: what the model takes
    on_suite: Callable[[StreamReport, str], None] = lambda _, __: None

    def run(self, suites: Sequence[Suite], watch: Watch) -> StreamReport:
        """All suites that the document does not hold yet; Ctrl-C keeps the finished ones.

        Raises ConfigError if the plan does not fit the model.
        """
        have = {suite.suite for suite in self.document.suites}
        started = interrupted = False
        try:
            for suite in [suite for suite in suites if suite.name not in have]:
                done = self._one(suite, watch, started and self.keep_learning)
                started = True
                self._add(suite, done)
        except KeyboardInterrupt:
            interrupted = True
        self.document = self.document.with_totals(interrupted)
        return self.document

    def _one(self, suite: Suite, watch: Watch, go_on: bool) -> SuiteReport | str:
        """The suite's part, or why it has none. Raises KeyboardInterrupt for one that was cut."""
        target: Any = self.engine.target
        plan, tally = self._plan(suite), Tally(watch, f"{suite.name}: ")
        asking = Asking.of(target, self.engine.tokenizer, plan, self.limit)
        room = target.max_context - plan.max_new_tokens
        built = build_suite(suite, asking, min(room, self.prompt_tokens or room))
        try:
            measured = measure(
                self.engine, self.contestants, built.prompts, plan, tally, go_on=go_on
            )
        except ConfigError as error:
            if error.field != "prompts":
                raise
            return str(error)  # every prompt was dropped
        if measured.interrupted:
            raise KeyboardInterrupt
        return suite_report(suite, built, measured, tally, target, self.widen)

    def _plan(self, suite: Suite) -> Plan:
        sampling = self.plan.sampling.model_copy(update=dict(suite.sampling))
        return replace(self.plan, sampling=sampling)

    def _add(self, suite: Suite, done: SuiteReport | str) -> None:
        if isinstance(done, str):
            more: dict[str, Any] = {"skipped": {**self.document.skipped, suite.name: done}}
        else:
            more = {"suites": [*self.document.suites, done]}
        self.document = self.document.model_copy(update=more).with_totals()
        self.on_suite(self.document, suite.name)


def settings(
    target: Any, specs: Sequence[Spec], peers: Sequence[str], plan: Plan, **more: Any
) -> dict[str, Any]:
    """What two runs must share for their suites to stand in one document, JSON-ready; `more` as it
    is."""
    machine = describe(target)
    values = {
        "model": model_name(target), "parameters": parameters(target.model),
        "dtype": str(target.dtype).removeprefix("torch."), "exact": target.exact,
        "processor": machine.processor, "threads": machine.threads, "device": machine.device,
        "methods": [
            {"label": s.label, "policy": s.policy, "verifier": s.verifier,
             "options": dict(s.options), "policy_options": dict(s.policy_options)} for s in specs
        ],
        "peers": list(peers), "forced": plan.forced, "max_new_tokens": plan.max_new_tokens,
        "repeats": plan.repeats, "cut_loops": plan.cut_loops,
        "sampling": plan.sampling.model_dump(mode="json"), **more,
    }  # fmt: skip
    out: dict[str, Any] = json.loads(json.dumps(values))
    return out


def resumed(path: Path, wanted: dict[str, Any]) -> StreamReport:
    """The document to go on with: the file's, or a new one if there is no file.

    Raises ArtifactError for a file that is not such a document, ConfigError for other settings.
    """
    if not path.exists():
        return StreamReport(settings=wanted)
    try:
        document = StreamReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise ArtifactError(f"{path}: not a document of bench --suite ({where})") from None
    if document.version != VERSION:
        raise ArtifactError(f"{path}: version {document.version}, this is version {VERSION}")
    for name in sorted({*wanted, *document.settings}):
        old, new = document.settings.get(name), wanted.get(name)
        if old != new:
            raise ConfigError("resume", str(path), f"the same settings: {name} was {old}, is {new}")
    return document.model_copy(update={"skipped": {}})
