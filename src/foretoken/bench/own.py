"""Our methods as contestants: an engine, a method built afresh for every repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from foretoken.bench.contest import Plan, Run, Task, Watch, aside
from foretoken.bench.spec import Spec
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.registry import NULL_METHOD, NULL_POLICY
from foretoken.types import Limits, Request, Session, Step
from foretoken.verify.forced import Forced
from foretoken.verify.walk import Walk


class Own:
    """Decodes with a method of the registry. Raises ConfigError or CapabilityError as `build`."""

    peer = False

    def __init__(self, engine: Engine, spec: Spec) -> None:
        self.engine, self.spec, self.label = engine, spec, spec.label
        self.method = self._build(None)
        self.guarantee = self.method.guarantee
        # several drafters in one tree: no single method
        self.merges = bool(getattr(self.method.drafter, "parts", ()))
        # other rules keep the distribution and spend their numbers otherwise
        self.repeats_draws = isinstance(self.method.verifier, Walk)

    def _build(self, before: Method | None) -> Method:
        spec = self.spec
        # a measured cost curve is a fact of the machine, nothing learned: it is taken over
        policy = type(before.policy)(before.policy.options, before.policy.curve) if before else None
        return build(
            self.engine.target, self.engine.context, spec.name, policy or spec.policy,
            spec.verifier, spec.options, spec.policy_options,
        )  # fmt: skip

    def fresh(self) -> None:
        """See `Contestant`."""
        self.method = self._build(self.method)

    def warm(self, tasks: Sequence[Task], plan: Plan) -> None:
        """See `Contestant`. Plainly, so that no drafter learns from it."""
        task = aside(tasks)
        request = Request(task.prompt.tokens, plan.sampling, Limits(max_new_tokens=task.limit))
        self.engine.run([request], self.engine.use(NULL_METHOD, NULL_POLICY))

    def run(self, tasks: Sequence[Task], plan: Plan, watch: Watch) -> Run:
        """See `Contestant`. The wall clock runs from the first request to the last token."""
        watched, first = 0.0, dict[int, float]()
        start = perf_counter()
        sessions = [self.engine.add(*self._request(task, plan)) for task in tasks]
        task_of = {session.index: task for session, task in zip(sessions, tasks, strict=True)}
        try:
            while any(session.finish_reason is None for session in sessions):
                done = self.engine.step()
                paused = perf_counter()
                for session, _ in done:
                    first.setdefault(session.index, paused - start - watched)
                self._show(done, task_of, watch)
                watched += perf_counter() - paused
        finally:
            for session in sessions:
                self.engine.cancel(session)
        wall = perf_counter() - start - watched
        stats = [session.stats for session in sessions]
        tokens = [session.output for session in sessions]
        # a step of one session shared its forward with those that rode along
        forwards = sum(s.steps for s in stats)
        begun = [first.get(session.index) for session in sessions]
        return Run(self.label, list(tasks), tokens, wall, stats, forwards, begun)

    def _show(
        self, done: Sequence[tuple[Session, Step]], task_of: dict[int, Task], watch: Watch
    ) -> None:
        for session, step in done:
            watch.step(self.label, task_of[session.index], session, step)

    def _request(self, task: Task, plan: Plan) -> tuple[Request, Method]:
        limits = Limits(max_new_tokens=task.limit, ignore_eos=plan.forced)
        method = self.method
        if plan.forced:
            method = replace(method, verifier=Forced([*task.prompt.tokens, *task.expected]))
        prompt = task.prompt
        sampling = plan.sampling_of(prompt)
        return Request(prompt.tokens, sampling, limits, prediction=prompt.prediction), method
