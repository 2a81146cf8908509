"""foretoken tune: what to use for your prompts and your model, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from foretoken.cli.opening import load_target
from foretoken.cli.options import TargetOptions, grouped
from foretoken.cli.tune_options import LONGEST, PROMPTS, TraceOptions, WhatOptions, split
from foretoken.errors import INTERRUPTED, ConfigError

if TYPE_CHECKING:
    from foretoken.learn.trace import Trace
    from foretoken.target.cost import CostCurve
    from foretoken.tune.report import Scorecard, TuneReport


@grouped
def tune(target: TargetOptions, text: TraceOptions, what: WhatOptions) -> None:
    """Score every method on your own prompts, and say what to use. Tables go to stderr."""
    text.check()
    what.check()
    from foretoken.cli.tune_show import show_report

    console = Console(stderr=True)
    run = Tune(target, text, what, console)
    report = run.report()
    show_report(report, console)
    _write(report, what)
    raise typer.Exit(INTERRUPTED if report.interrupted else 0)


def _write(report: TuneReport, what: WhatOptions) -> None:
    document = report.model_dump_json()
    if what.save is not None:
        what.save.write_text(document + "\n", encoding="utf-8")
    if what.picture is not None and report.scorecard and report.scorecard.scenarios:
        from foretoken.tune.picture import save_picture

        save_picture(what.picture, report.scorecard)
    if what.json:
        typer.echo(document)


class Tune:
    """One call of the command: record, score, play."""

    def __init__(
        self, target: TargetOptions, text: TraceOptions, what: WhatOptions, console: Console
    ) -> None:
        self.target, self.text, self.what, self.console = target, text, what, console
        self.loaded: Any = None
        self.interrupted = False

    def report(self) -> TuneReport:
        """Everything; after an interrupt, what was finished."""
        from foretoken.bench.loops import distinct_4grams
        from foretoken.tune.advice import advise
        from foretoken.tune.report import Source, TuneReport
        from foretoken.tune.trial import CLOCK, score_methods

        trace = self._recorded() if self.text.trace is None else self._read(self.text.trace)
        curve = self._curve(trace)
        shares = [distinct_4grams(request.output) for request in trace.requests]
        known = [share for share in shares if share is not None]
        report = TuneReport(
            source=Source(
                model=trace.model, dtype=trace.dtype, clock=CLOCK, requests=len(trace.requests),
                tokens=trace.tokens, text="forced" if self.text.forced else "own",
                trace=self.text.trace.name if self.text.trace else "", machine=trace.machine,
                distinct_4grams=sum(known) / len(known) if known else None,
            ),
            interrupted=self.interrupted,
        )  # fmt: skip
        from foretoken.cli.bench_show import Bar

        with Bar(self.console) as bar:
            context = self._context(trace)
            names = self.what.method_names()
            score_methods(report, trace, curve, context, names, self.what.policy_names(), bar)
            report.advice = advise(report.rows, self.target.model)
            if self.what.scorecard and not report.interrupted:
                report.scorecard = self._scorecard(trace, curve, context, report, bar)
        return report

    def _read(self, path: Path) -> Trace:
        from foretoken.learn.trace import Trace
        from foretoken.prompt.tokens import tokenizer_hash

        mark = None
        if self.target.model is not None:
            self.loaded = self._load()
            mark = tokenizer_hash(self.loaded.tokenizer)
        trace = Trace.load(path, mark)
        if not trace.requests:
            raise ConfigError("trace", str(path), "a trace with at least one request")
        return trace

    def _load(self) -> Any:
        with self.console.status("loading the model"):
            return load_target(self.target)

    def _curve(self, trace: Trace) -> CostCurve:
        if trace.curve is not None:
            return trace.curve
        if self.loaded is None:
            accepted = "--model too: it was recorded without a cost curve, which is to be measured"
            raise ConfigError("trace", str(self.text.trace), accepted)
        return self._measure()

    def _measure(self) -> CostCurve:
        from foretoken.target.cost import cost_curve

        words = "measuring what a forward costs on this machine (once per model)"
        with self.console.status(words) as status:
            return cost_curve(
                self.loaded.target,
                lambda rows, _, seconds: status.update(f"{words}: {rows} rows, {seconds:.3f} s"),
            )

    def _recorded(self) -> Trace:
        from foretoken.bench.prompts import encode, read_rows
        from foretoken.cli.bench_options import WhatOptions as Files
        from foretoken.cli.bench_show import Bar
        from foretoken.engine.build import options
        from foretoken.tune.record import record
        from foretoken.types import Sampling

        text = self.text
        longest = text.max_new_tokens or LONGEST
        sampling = options(Sampling, {"temperature": text.temperature or 0.0, "seed": text.seed})
        rows = read_rows(Files(prompts=text.prompts).files(text.forced), text.limit or PROMPTS)
        self.loaded = self._load()
        curve = self._measure()
        prompts = encode(rows, self.loaded.tokenizer)
        with Bar(self.console) as bar:
            bar.phase("recording", len(prompts) * longest)
            trace, self.interrupted = record(
                self.loaded, prompts, curve, longest, sampling,
                text.forced is not None, bar.advance,
            )  # fmt: skip
        if text.save_trace is not None:
            trace.save(text.save_trace)
        return trace

    def _context(self, trace: Trace) -> Any:
        """What drafters are told: the model's folder too, where it is known."""
        from foretoken.draft.base import Context
        from foretoken.prompt.samples import demo_model

        folder = self.loaded.folder if self.loaded is not None else None
        if folder is None and self._tokenizer(trace) is not None:
            folder = demo_model()
        return Context(trace.vocab, tuple(trace.eos), trace.tokenizer_hash, folder)

    def _tokenizer(self, trace: Trace) -> Any:
        """The model's; the bundled one if the trace was written with it; else None."""
        from foretoken.prompt.samples import demo_model
        from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash

        if self.loaded is not None:
            return self.loaded.tokenizer
        bundled = load_tokenizer(demo_model())
        return bundled if tokenizer_hash(bundled) == trace.tokenizer_hash else None

    def _scorecard(
        self, trace: Trace, curve: CostCurve, context: Any, report: TuneReport, bar: Any
    ) -> Scorecard:
        from foretoken.tune.scenarios import PHASE_TOKENS, SCENARIOS, Material
        from foretoken.tune.scorecard import Entry, fill, new_card

        tokenizer = self._tokenizer(trace)
        if tokenizer is None:
            raise ConfigError(
                "scorecard", str(self.text.trace), "--model too: it has the tokenizer"
            )
        card = new_card(self.text.seed)
        tokens = self.what.phase_tokens or PHASE_TOKENS
        material = Material(tokenizer, trace.vocab, tuple(trace.eos), tokens, self.text.seed)
        names: Sequence[str] = split(self.what.scenarios) or list(SCENARIOS)
        methods, policies = self.what.method_names(), self.what.policy_names(scorecard=True)
        try:
            fill(card, names, material, Entry(curve, context, methods, policies), bar)
        except KeyboardInterrupt:
            report.interrupted = True
        return card
