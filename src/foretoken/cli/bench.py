"""foretoken bench: same model, same prompts, same process, and the same text before any speed."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from foretoken.bench.saving import save_text
from foretoken.cli.bench_options import METHODS, HowOptions, OutOptions, WhatOptions, WrittenOptions
from foretoken.cli.bench_setup import setup
from foretoken.cli.bench_suites import SuiteOptions
from foretoken.cli.opening import load_target
from foretoken.cli.options import TargetOptions, grouped
from foretoken.errors import INTERRUPTED

if TYPE_CHECKING:
    from foretoken.bench.contest import Plan, Watch
    from foretoken.bench.pairs import Pairs
    from foretoken.bench.prompts import Prompt
    from foretoken.bench.report import Report
    from foretoken.bench.run import Measured
    from foretoken.bench.spec import Spec
    from foretoken.engine.engine import Engine

NO_PROMPTS = ("kernels", "rules", "suite", "drafting")


app = typer.Typer(add_completion=False)
app.command()(setup)


@app.callback(invoke_without_command=True)
@grouped
def bench(
    ctx: typer.Context,
    target: TargetOptions,
    what: WhatOptions,
    how: HowOptions,
    written: WrittenOptions,
    suites: SuiteOptions,
    out: OutOptions,
) -> None:
    """Compare methods and other engines. Tables go to stderr; exit code 1 if a text differs that
    must not. `bench setup` makes the environments of other engines."""
    if ctx.invoked_subcommand is not None:
        return
    run = Bench(target, what, how, written, suites, out)
    code = {
        "compare": run.compare, "parity": run.parity, "memory": run.memory,
        "kernels": run.kernels, "rules": run.rules, "pairs": run.pairs, "suite": run.suite,
        "drafting": run.drafting,
    }[run.mode]()  # fmt: skip
    document = jsonlib.dumps(run.document)
    if out.save is not None and run.mode != "suite":  # which saves after every suite
        save_text(out.save, document + "\n")
    if out.json:
        typer.echo(document)
    raise typer.Exit(code)


class Bench:
    """One call of the command: everything is checked before the model is loaded."""

    def __init__(
        self, target: TargetOptions, what: WhatOptions, how: HowOptions, written: WrittenOptions,
        suites: SuiteOptions, out: OutOptions,
    ) -> None:  # fmt: skip
        from foretoken.bench.peers.catalog import chosen as chosen_peers
        from foretoken.bench.peers.together import check_peers
        from foretoken.bench.prompts import read_rows
        from foretoken.bench.spec import parse_methods

        self.console = Console(stderr=True)
        self.options, self.what, self.how = target, what, how
        self.mode, self.out = how.mode(suites), out
        out.check(self.mode, how.batch)
        self.plan: Plan = written.plan(how, suites)
        what.check(self.mode)
        self.chosen = suites.of(self.plan, what.limit, out.save)
        self.table: Pairs | None = self._pairs() if self.mode == "pairs" else None
        self.specs: list[Spec] = self.table.specs if self.table is not None else parse_methods(
            what.methods or METHODS, what.policy, what.nodes, what.set or ()
        )  # fmt: skip
        self.peers = chosen_peers(what.peers)
        check_peers(self.peers, self.plan)
        self.files = what.files(how.forced)
        self.rows = [] if self.mode in NO_PROMPTS else read_rows(self.files, what.limit)
        self.document: Any = None

    def _pairs(self) -> Pairs:
        from foretoken.bench.pairs import Pairs
        from foretoken.bench.same_trees import check_sampling

        if self.how.same_trees:
            check_sampling(self.plan)
        what = self.what
        return Pairs(
            what.methods, what.verifiers, what.nodes, what.set or (), lossy=what.lossy,
            greedy=self.plan.sampling.greedy,
        )  # fmt: skip

    def _open(self) -> tuple[Engine, list[Prompt]]:
        from foretoken.bench.prompts import encode
        from foretoken.engine.engine import Engine
        from foretoken.registry import NULL_METHOD, NULL_POLICY

        with self.console.status("loading the model"):
            loaded = load_target(self.options)
        engine = Engine(
            loaded.target, loaded.tokenizer, method=NULL_METHOD, policy=NULL_POLICY,
            max_sessions=self.plan.batch, assets=loaded.folder,
        )  # fmt: skip
        return engine, encode(self.rows, loaded.tokenizer)

    def compare(self) -> int:
        """The comparison of speeds."""
        from foretoken.cli.bench_show import show_report

        _, report = self._measured()
        show_report(report, self.console)
        self.document = report.model_dump(mode="json")
        return _code(report.failed, report.interrupted)

    def pairs(self) -> int:
        """Every drafter with every rule."""
        from foretoken.cli.bench_show_rules import show_pairs

        if self.how.same_trees:
            return self._same_trees()
        assert self.table is not None
        measured, report = self._measured()
        table = self.table.table(measured, report)
        show_pairs(table, self.console)
        self.document = table.model_dump(mode="json")
        return _code(report.failed, report.interrupted)

    def _same_trees(self) -> int:
        from foretoken.bench.same_trees import same_trees
        from foretoken.cli.bench_show import Bar
        from foretoken.cli.bench_show_rules import show_same_trees

        assert self.table is not None
        engine, prompts = self._open()
        with Bar(self.console) as bar:
            bar.phase("same drafts", len(prompts) * len(self.table.forms))
            report = same_trees(
                engine, self.table.forms, prompts, self.plan, self.table.nodes, self.files,
                lambda _: bar.advance(),
            )  # fmt: skip
        show_same_trees(report, self.console)
        self.document = report.model_dump(mode="json")
        return _code(False, report.interrupted)

    def rules(self) -> int:
        """The time of a verdict."""
        from foretoken.bench.rules import NODES, VOCAB, RuleBench
        from foretoken.cli.bench_show import Bar
        from foretoken.cli.bench_show_rules import show_rules

        what = self.what
        timing = RuleBench(
            VOCAB if what.vocab is None else what.vocab, NODES if what.nodes is None else what.nodes
        )
        with Bar(self.console) as bar:
            bar.phase("timing rules", timing.total)
            timing.run(bar.advance)
        report = timing.report()
        show_rules(report, self.console)
        self.document = report.model_dump(mode="json")
        return _code(False, report.interrupted)

    def _contestants(self, engine: Engine) -> list[Any]:
        from foretoken.bench.own import Own
        from foretoken.bench.peers.together import open_peers

        with self.console.status("building the methods"):
            contestants: list[Any] = [Own(engine, spec) for spec in self.specs]
        if self.peers:
            with self.console.status("loading and exporting the model for the peers"):
                contestants += open_peers(self.peers, engine, self.plan, self.options.widen)
        return contestants

    @contextmanager
    def _answers(self, watch: Watch, engine: Engine) -> Iterator[Watch]:
        """A watcher that writes answers, where they are wanted."""
        if self.out.answers is None:
            yield watch
            return
        from foretoken.bench.machine import model_name
        from foretoken.bench.spec_answers import Answers
        from foretoken.bench.suites import spec_bench_categories

        answers = Answers(watch, engine.tokenizer, model_name(engine.target))
        yield answers
        given = {str(row.get("question_id")): str(row.get("category", "")) for _, row in self.rows}
        written = answers.write(self.out.answers, {**spec_bench_categories(), **given})
        self.console.print(f"answers in {self.out.answers}: {len(written)} files")

    def drafting(self) -> int:
        """What drafting costs without a model."""
        from foretoken.cli.bench_drafting import drafting, show_drafting

        report = drafting(self.options.model, self.what, self.how.drafting or 0, self.console)
        show_drafting(report, self.console)
        self.document = report.model_dump(mode="json")
        return _code(False, report.interrupted)

    def _measured(self) -> tuple[Measured, Report]:
        from foretoken.bench.floor import floor
        from foretoken.bench.memory import MB, peak, resident
        from foretoken.bench.peers.together import close_peers
        from foretoken.bench.report import Memory
        from foretoken.bench.results import make_report
        from foretoken.bench.run import measure
        from foretoken.cli.bench_show import Bar

        engine, prompts = self._open()
        target: Any = engine.target
        contestants = self._contestants(engine)
        start = resident()
        try:
            with Bar(self.console) as bar, self._answers(bar, engine) as watch:
                measured = measure(engine, contestants, prompts, self.plan, watch)
        finally:
            close_peers(contestants)
        with self.console.status("measuring how fast memory is read"):
            limit = floor(target)
        memory = Memory(start_mb=start / MB, peak_mb=peak() / MB, kv_mb=target.pool.nbytes / MB)
        report = make_report(
            measured, target, self.files, widen=self.options.widen, memory=memory, floor=limit
        )
        return measured, report

    def parity(self) -> int:
        """Only whether the text is the same."""
        from foretoken.bench.parity import Parity
        from foretoken.cli.bench_show import Bar, show_parity

        engine, prompts = self._open()
        batch, mixed = self.plan.batch, self.how.mixed
        with Bar(self.console) as bar:
            parity = Parity(
                engine, self.specs, prompts, max_new_tokens=self.plan.max_new_tokens,
                sampling=self.plan.sampling, on_text=bar.advance,
            )  # fmt: skip
            bar.phase("parity", parity.texts(batch))
            parity.run(batch, mixed)
        report = parity.report(batch, mixed, self.files, self.options.widen)
        show_parity(report, self.console)
        self.document = report.model_dump(mode="json")
        return _code(report.failed, report.interrupted)

    def memory(self) -> int:
        """Whether memory stays flat."""
        from foretoken.bench.memory import MemoryResult, Point, long_run, memory_report
        from foretoken.cli.bench_show import Bar, show_memory

        engine, prompts = self._open()
        tokens, results = self.how.memory or 0, list[MemoryResult]()
        with Bar(self.console) as bar:
            for spec in self.specs:
                bar.phase(spec.label, tokens)
                seen = 0

                def note(point: Point) -> None:
                    nonlocal seen
                    bar.advance(point.tokens - seen)
                    seen = point.tokens

                results.append(
                    long_run(
                        engine, spec, prompts, tokens=tokens, sampling=self.plan.sampling,
                        max_new_tokens=self.plan.max_new_tokens, on_point=note,
                    )
                )  # fmt: skip
                if results[-1].interrupted:
                    break
        report = memory_report(engine, results, tokens, self.plan.max_new_tokens)
        show_memory(report, self.console)
        self.document = report.model_dump(mode="json")
        return _code(False, report.interrupted)

    def suite(self) -> int:
        """Suites one after another, saved after each."""
        from foretoken.bench.peers.together import close_peers
        from foretoken.bench.stream import settings
        from foretoken.cli.bench_show import Bar

        engine, _ = self._open()
        contestants, how = self._contestants(engine), self.chosen.options
        wanted = settings(
            engine.target, self.specs, self.peers, self.plan, limit=self.what.limit,
            keep_learning=how.keep_learning, prompt_tokens=how.prompt_tokens,
            widen=self.options.widen,
        )  # fmt: skip
        try:
            with Bar(self.console) as bar, self._answers(bar, engine) as watch:
                report = self.chosen.run(engine, contestants, wanted, self.console, watch)
        finally:
            close_peers(contestants)
        self.document = report.model_dump(mode="json")
        return _code(report.failed, report.interrupted)

    def kernels(self) -> int:
        """Packed against plain linear layers."""
        from foretoken.bench.kernels import time_kernels
        from foretoken.bench.machine import describe, model_name
        from foretoken.cli.bench_show import show_kernels

        engine, _ = self._open()
        target: Any = engine.target
        with self.console.status("timing linear layers"):
            results = time_kernels(target)
        show_kernels(results, self.console)
        self.document = {
            "model": model_name(target),
            "machine": describe(target).model_dump(mode="json"),
            "results": [result.model_dump(mode="json") for result in results],
        }
        return 0


def _code(failed: bool, interrupted: bool) -> int:
    if failed:
        return 1
    return INTERRUPTED if interrupted else 0
