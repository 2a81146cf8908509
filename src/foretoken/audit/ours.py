"""Our engine under audit: many short requests together, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretoken.audit.engines import Opener, Output, Setup
from foretoken.bench.spec import Spec, parse_methods
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.registry import NULL_METHOD, NULL_POLICY
from foretoken.types import Limits, Request, Sampling, Session

SESSIONS = 64  # short texts: many ride together


def parse(name: str, rest: str, policy: str) -> Opener:
    """`foretoken:METHOD[:key=value,...]`."""
    specs = parse_methods(rest, policy) if rest else []
    own = specs[1:] or specs  # plain always comes first
    if len(own) != 1:
        raise ConfigError("engine", name, "foretoken:METHOD or foretoken:METHOD:key=value,...")
    return lambda setup: Ours(name, engine_of(setup), own[0], setup.sampling)


def engine_of(setup: Setup) -> Engine:
    """One engine for all our methods of an audit."""
    if "engine" not in setup.loaded:
        loaded = setup.target
        setup.loaded["engine"] = Engine(
            loaded.target, loaded.tokenizer, method=NULL_METHOD, policy=NULL_POLICY,
            max_sessions=SESSIONS, assets=loaded.folder,
        )  # fmt: skip
    engine: Engine = setup.loaded["engine"]
    return engine


class Ours:
    """A method of the registry, or one that was built already. Raises as `build` does."""

    cannot: Mapping[str, str] = {}

    def __init__(self, name: str, engine: Engine, spec: Spec | Method, sampling: Sampling) -> None:
        self.name, self.engine, self.sampling = name, engine, sampling
        self.method = spec if isinstance(spec, Method) else _build(engine, spec)
        verifier, policy = self.method.verifier.name, type(self.method.policy).__name__.lower()
        self.what = f"rule {verifier}, policy {policy}; it says of itself: {self.method.guarantee}"
        self._tokens = self._steps = 0

    @property
    def tokens_per_step(self) -> float | None:
        """See `Subject`."""
        return self._tokens / self._steps if self._steps else None

    def greedy(self, prompt: Sequence[int], n: int) -> Output:
        """See `Subject`."""
        return self._run([Request(list(prompt), Sampling(), Limits(max_new_tokens=n))])[0].output

    def sample(self, prompt: Sequence[int], n: int, count: int, seed: int) -> list[Output]:
        """See `Subject`. One token more than is counted is asked for: a drafted token may then
        stand at every counted place."""
        limits = Limits(max_new_tokens=n + 1)
        seeds = range(seed, seed + count)
        samplings = [self.sampling.model_copy(update={"seed": s}) for s in seeds]
        done = self._run([Request(list(prompt), s, limits, keep_cache=True) for s in samplings])
        self._tokens += sum(session.stats.tokens for session in done)
        self._steps += sum(session.stats.steps for session in done)
        return [session.output for session in done]

    def _run(self, requests: Sequence[Request]) -> list[Session]:
        """All of them, SESSIONS at a time; those that come later take over the prompt's rows of
        keys and values from those that are done, so that the prompt is read SESSIONS times."""
        done: list[Session] = []
        riders: list[Session] = []
        try:
            for low in range(0, len(requests), SESSIONS):
                old = [*riders, *[None] * SESSIONS]
                riders = [
                    self.engine.add(request, self.method, resume=before)
                    for request, before in zip(requests[low : low + SESSIONS], old, strict=False)
                ]
                while any(session.finish_reason is None for session in riders):
                    self.engine.step()
                done += riders
        finally:
            for session in {id(s): s for s in [*done, *riders]}.values():
                self.engine.cancel(session)
                self.engine.release(session)
        return done


def _build(engine: Engine, spec: Spec) -> Method:
    values: dict[str, Any] = dict(spec.options)
    return build(
        engine.target, engine.context, spec.name, spec.policy, spec.verifier, values,
        spec.policy_options,
    )  # fmt: skip
