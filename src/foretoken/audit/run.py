"""One audit: a plan, every engine's greedy and sampled text, the planted faults, a report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch

from foretoken.audit.engines import Output, Setup, Subject
from foretoken.audit.faults import planted
from foretoken.audit.greedy import Greedy, decoder
from foretoken.audit.law import Law, choose_prompt
from foretoken.audit.ours import engine_of
from foretoken.audit.report import AuditReport, EngineResult, Plan, Planted, SamplingResult
from foretoken.audit.sampling import FEWEST, judge_ids, judge_texts, plan
from foretoken.audit.statistics import LEVEL
from foretoken.audit.words import Speller, compare_greedy
from foretoken.errors import ConfigError, first_line

T = TypeVar("T")
ROUND = 256  # samples asked for at once; between rounds an interrupt keeps what there is
INTERVAL = f"{LEVEL:.0%}, McDiarmid's bound, over the cells; no assumption, hence wide"


@dataclass(frozen=True)
class Wanted:
    """What is audited, and how sharply."""

    tokens: int = 3
    power: float = 0.99
    effect: float = 0.05
    samples: int | None = None
    false_alarms: float = 1e-3
    greedy: bool = True
    sampling: bool = True
    self_test: bool = False
    max_new_tokens: int = 64


class Watch:
    """Hears what goes on. The base class is deaf."""

    def phase(self, name: str, total: int) -> None:
        """A part with so many things to do begins."""

    def advance(self, by: int = 1) -> None:
        """So many are done."""

    def planned(self, plan: Plan) -> None:
        """The plan is fixed; nothing is sampled yet."""


class Audit:
    """`run` fills `report`, which holds what is finished at any time."""

    def __init__(
        self, setup: Setup, wanted: Wanted, prompts: Sequence[Sequence[int]], report: AuditReport,
        watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self.setup, self.wanted, self.report = setup, wanted, report
        self.prompts = [list(prompt) for prompt in prompts]
        self.watch = watch or Watch()
        self.law: Law | None = None
        self._seed = setup.sampling.seed

    def run(self, open_engines: Mapping[str, Callable[[], Subject]]) -> None:
        """Everything, engine by engine, by the names that they were asked for. One that breaks off
        is reported, and the next one is audited. Ctrl-C ends it with what was finished. Raises
        ConfigError for what cannot be asked for."""
        start = perf_counter()
        try:
            if self.wanted.sampling:
                self._plan(len(open_engines) + self.wanted.self_test)
            if self.wanted.self_test and self.law is not None:
                self._self_test(self.law)
            for name, open_engine in open_engines.items():
                self._audit(name, open_engine)
        except KeyboardInterrupt:
            self._update(interrupted=True)
        self._update(seconds=perf_counter() - start)

    def _update(self, **values: Any) -> None:
        self.report = self.report.model_copy(update=values)

    def _plan(self, audited: int) -> None:
        w, setup = self.wanted, self.setup
        index = choose_prompt(setup.reference, self.prompts, setup.sampling)
        self.law = Law(setup.reference, self.prompts[index], w.tokens, setup.sampling)
        made = plan(
            self.law, index, audited, false_alarms=w.false_alarms, wanted=w.power,
            effect=w.effect, samples=w.samples,
        )  # fmt: skip
        text = decoder(setup.tokenizer)(self.prompts[index])
        self._update(plan=made, prompt_text=text[-400:])
        self.watch.planned(made)

    def _self_test(self, law: Law) -> None:
        for subject, what, lossy in planted(engine_of(self.setup), law, self.setup.sampling):
            result, whole = self._sampled(subject, f"self-test: {subject.name}")
            if result is not None:
                one = Planted(
                    name=subject.name, what=what, lossy=lossy, found=result.failed, sampling=result
                )
                self._update(self_test=[*self.report.self_test, one])
            if not whole:
                raise KeyboardInterrupt

    def _audit(self, name: str, open_engine: Callable[[], Subject]) -> None:
        """The parts of one engine; each part that is finished is kept."""
        found: dict[str, Any] = {"engine": name}
        before, close = self.report.engines, _nothing
        try:
            subject = asked(open_engine)
            close = getattr(subject, "close", _nothing)
            self._parts(subject, found)
        except _BrokeError as broke:
            if isinstance(broke.cause, ConfigError) and not before:
                raise broke.cause from None  # bad input; later, what was finished is worth more
            found["error"] = first_line(broke.cause)
        finally:
            self._update(engines=[*before, EngineResult(**found)])
            with suppress(Exception):
                close()

    def _parts(self, subject: Subject, found: dict[str, Any]) -> None:
        """Fill the fields of an engine's result, as far as it goes."""
        found.update(engine=subject.name, what=subject.what, skipped=dict(subject.cannot))
        if self.wanted.greedy and "greedy" not in subject.cannot:
            greedy = Greedy(self.setup.reference, decoder(self.setup.tokenizer))
            try:
                self._greedy(subject, greedy)
            finally:
                found["greedy"] = greedy.result
        if self.law is not None and "sampling" not in subject.cannot:
            found["sampling"], whole = self._sampled(subject, subject.name)
            if not whole:
                raise KeyboardInterrupt

    def _greedy(self, subject: Subject, greedy: Greedy) -> None:
        self.watch.phase(f"{subject.name}: greedy", len(self.prompts))
        for index, prompt in enumerate(self.prompts):
            most = min(self.wanted.max_new_tokens, self._room(prompt))
            wrote = asked(partial(subject.greedy, prompt, most))
            if isinstance(wrote, str):
                speller = Speller(self.setup.tokenizer, prompt)
                compare_greedy(greedy, index, prompt, wrote, most, speller)
            else:
                greedy.add(index, prompt, wrote, most)
            self.watch.advance()

    def _room(self, prompt: Sequence[int]) -> int:
        return self.setup.reference.max_context - len(prompt)

    def _sampled(self, subject: Subject, phase: str) -> tuple[SamplingResult | None, bool]:
        """(the tests of what was sampled, whether all was). No tests for fewer than FEWEST."""
        law, chosen = self.law, self.report.plan
        assert law is not None
        assert chosen is not None
        self.watch.phase(phase, chosen.samples)
        wrote: list[Output] = []
        seed, whole = self._seed, True
        self._seed += chosen.samples  # with equal seeds, our methods write equal texts
        try:
            while len(wrote) < chosen.samples:
                some = min(ROUND, chosen.samples - len(wrote))
                ask = partial(subject.sample, law.prompt, law.n, some, seed + len(wrote))
                wrote += asked(ask)
                self.watch.advance(some)
        except KeyboardInterrupt:
            whole = False
        if not whole and len(wrote) < FEWEST:
            return None, False
        texts = [output for output in wrote if isinstance(output, str)]
        if texts:
            speller = Speller(self.setup.tokenizer, law.prompt)
            return judge_texts(law, texts, chosen, speller), whole
        ids = [output for output in wrote if not isinstance(output, str)]
        result = judge_ids(law, ids, chosen)
        speed = subject.tokens_per_step
        return result.model_copy(update={"tokens_per_step": speed}), whole


class _BrokeError(Exception):
    """An engine raised something."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def asked(what: Callable[[], T]) -> T:
    """What an engine answers; whatever it raises is told apart from errors of our own."""
    try:
        return what()
    except Exception as cause:
        raise _BrokeError(cause) from cause


def _nothing() -> None:
    """Of an engine that holds nothing."""


def model_hash(name: str, model: Any) -> str:
    """sha256 (hex) of a local folder's weights and configuration; of a hub model its commit."""
    folder = Path(name)
    if not folder.is_dir():
        commit = getattr(model.config, "_commit_hash", None)
        return f"commit {commit}" if commit else "unknown"
    whole = hashlib.sha256()
    wanted = ("*.safetensors", "pytorch_model*.bin", "config.json")
    for path in sorted(file for pattern in wanted for file in folder.glob(pattern)):
        whole.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                whole.update(block)
    return whole.hexdigest()


def empty_report(
    setup: Setup, wanted: Wanted, prompts: int, files: Sequence[str], command: str
) -> AuditReport:
    """What is known before anything is tested."""
    from foretoken.bench.machine import describe
    from foretoken.bench.results import set_fields

    machine = describe()
    folder = Path(setup.model)
    names = ("foretoken", "transformers", "torch", "python")
    return AuditReport(
        model=folder.resolve().name if folder.is_dir() else setup.model,
        model_hash=model_hash(setup.model, setup.reference.model),
        vocab=setup.reference.vocab,
        dtype=str(setup.reference.dtype).removeprefix("torch."),
        versions={name: str(getattr(machine, name)) for name in names}
        | ({"commit": machine.commit} if machine.commit else {}),
        processor=f"{machine.processor}, {setup.reference.device}, "
        f"{torch.get_num_threads()} threads",
        files=list(files),
        prompts=prompts,
        max_new_tokens=wanted.max_new_tokens,
        settings={"temperature": setup.sampling.temperature, **set_fields(setup.sampling)},
        false_alarms=wanted.false_alarms,
        tolerance=setup.reference.tolerance_in_words,
        interval_in_words=INTERVAL,
        command=command,
    )
