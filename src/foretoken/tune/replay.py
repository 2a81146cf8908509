"""replay: how a drafter and a policy would have fared on a recorded trace, step by step.

The real engine and its loop run; only the model is replaced (`foretoken.target.replay`). The text
is the recorded one whatever drafts, so a drafter that reads committed text and its rows accepts
step by step what it accepts beside the model. One that learns from rejected nodes as well learns
less here, because nobody recorded their rows: it is judged too low. Seconds are the replay's:
forwards from the cost curve, everything else as the clock says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from foretoken.draft.base import Context, Drafter
from foretoken.engine.build import Method, build
from foretoken.engine.build import options as checked
from foretoken.engine.engine import Engine
from foretoken.errors import ForetokenError
from foretoken.learn.trace import Trace, TracedRequest
from foretoken.policy.base import Policy
from foretoken.registry import DEFAULT_POLICY, NULL_METHOD, NULL_POLICY
from foretoken.target.cost import CostCurve
from foretoken.target.replay import ClockKind, ReplayTarget
from foretoken.tree import DraftTree
from foretoken.types import Budget, Limits, Request, Sampling, Session, Step
from foretoken.verify.forced import Forced


@dataclass(frozen=True)
class ReplayedStep:
    """One step of one request."""

    request: int  # index in the trace
    position: int  # output tokens written before
    drafted: int  # nodes that were scored
    accepted: int
    tokens: int  # written by it
    predicted: float | None  # tokens that the drafter expected to stand; None: it said nothing
    seconds: Mapping[str, float]  # this session's share: "prompt" (reading it), draft target verify
    plain: float  # seconds of plain decoding for the same tokens, the prompt not counted
    batch: int  # sessions that rode together

    @property
    def time(self) -> float:
        """Seconds, the reading of a prompt not counted."""
        return sum(self.seconds.values()) - self.seconds["prompt"]


@dataclass(frozen=True)
class Replayed:
    """A whole replay. Sums and ratios leave out the reading of prompts, which is the same for
    every method; `prompt_seconds` has it."""

    method: str
    policy: str
    clock: str
    steps: list[ReplayedStep]

    @property
    def tokens(self) -> int:
        """Tokens written."""
        return sum(step.tokens for step in self.steps)

    @property
    def drafted(self) -> int:
        """Nodes scored."""
        return sum(step.drafted for step in self.steps)

    @property
    def accepted(self) -> int:
        """Drafted tokens that stood."""
        return sum(step.accepted for step in self.steps)

    @property
    def predicted(self) -> float:
        """Tokens that were expected to stand, where the drafter said so."""
        return sum(step.predicted or 0.0 for step in self.steps)

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(step.time for step in self.steps)

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by part, "prompt" too."""
        names = dict.fromkeys(name for step in self.steps for name in step.seconds)
        return {name: sum(step.seconds[name] for step in self.steps) for name in names}

    @property
    def prompt_seconds(self) -> float:
        """Seconds of reading prompts."""
        return sum(step.seconds["prompt"] for step in self.steps)

    @property
    def plain_seconds(self) -> float:
        """What plain decoding takes for the same text, under the same curve at the same places."""
        return sum(step.plain for step in self.steps)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens per target forward of a request."""
        return self.tokens / len(self.steps)

    @property
    def tokens_per_second(self) -> float:
        """On the replay's clock."""
        return self.tokens / self.seconds

    @property
    def ratio(self) -> float:
        """Plain decoding's seconds over this replay's: above 1 is faster than plain."""
        return self.plain_seconds / self.seconds


OnRequest = Callable[[ReplayTarget, int], None]
OnStep = Callable[[ReplayTarget, ReplayedStep], None]


def replay(  # noqa: PLR0913
    trace: Trace,
    method: str | Drafter,
    policy: str | Policy = DEFAULT_POLICY,
    *,
    options: Mapping[str, Any] | None = None,
    policy_options: Mapping[str, Any] | None = None,
    curve: CostCurve | None = None,
    clock: ClockKind = "virtual",
    seconds_per_draft_node: float = 0.0,
    batch: int = 1,
    assets: Path | None = None,
    on_request: OnRequest | None = None,
    on_step: OnStep | None = None,
) -> Replayed:
    """Decode a trace's requests in their order, `batch` together, with a method of the registry
    or one that was made (whose learning then goes on).

    curve, clock: see `ReplayTarget`. seconds_per_draft_node: what a proposed node is to cost on the
    clock, beside what drafting really takes if the wall's time counts. assets: the model's folder,
    where methods find tables of their own. on_request: called with the request's index before its
    first step; on_step: after every step. Both get the target, whose `curve` they may replace.
    Raises ConfigError or CapabilityError as `build`, and ForetokenError if a text came out other
    than it was recorded, which would be a fault of this program.
    """
    target = ReplayTarget(trace, curve, clock)
    context = Context(target.vocab, target.eos, trace.tokenizer_hash, assets)
    built = build(target, context, method, policy, None, options, policy_options)
    engine = Engine(target, method=NULL_METHOD, policy=NULL_POLICY, max_sessions=batch)
    run = _Run(target, engine, built, clock != "virtual", on_request, on_step)
    with _priced(built.drafter, target, seconds_per_draft_node):
        steps = run.all(trace.requests)
    return Replayed(built.name, built.policy.name, clock, steps)


@dataclass
class _Run:
    """The loop over the requests of a trace."""

    target: ReplayTarget
    engine: Engine
    method: Method
    choose: bool  # whether the target's choice is computed: its time is part of a wall clock
    on_request: OnRequest | None
    on_step: OnStep | None

    def all(self, requests: Sequence[TracedRequest]) -> list[ReplayedStep]:
        """Decode them; no more than the engine's number are in at a time."""
        coming = iter(enumerate(requests))
        steps: list[ReplayedStep] = []
        open_: dict[Session, tuple[int, TracedRequest]] = {}
        try:
            while True:
                for index, traced in islice(coming, self.engine.max_sessions - len(open_)):
                    open_[self._add(index, traced)] = (index, traced)
                if not open_:
                    return steps
                for session, done in self.engine.step():
                    index, traced = open_[session]
                    if session.finish_reason is not None:
                        _compare(traced, session)
                        del open_[session]
                    steps.append(self._record(index, session, done))
        finally:
            for session in open_:
                self.engine.cancel(session)

    def _add(self, index: int, traced: TracedRequest) -> Session:
        if self.on_request is not None:
            self.on_request(self.target, index)
        rule = Forced(traced.tokens, self.choose)
        return self.engine.add(request_of(traced), replace(self.method, verifier=rule))

    def _record(self, index: int, session: Session, done: Step) -> ReplayedStep:
        written = len(done.committed.tokens)
        reading = self.target.prompt_seconds / done.batch
        seconds = {"prompt": reading, **done.seconds}
        seconds["target"] -= reading
        curve, held = self.target.curve, done.context - 1
        plain = sum(curve(done.batch, held + i) for i in range(written)) / done.batch
        record = ReplayedStep(
            index,
            done.context - session.n_prompt,
            len(done.tree),
            done.committed.accepted,
            written,
            float(sum(done.tree.joint)) if done.tree.q or not len(done.tree) else None,
            seconds,
            plain,
            done.batch,
        )
        if self.on_step is not None:
            self.on_step(self.target, record)
        return record


def request_of(traced: TracedRequest) -> Request:
    """The request that writes a recorded text again, with the room and the settings that it had:
    drafters look at both. It ends where the record ends, whatever ended it then."""
    end = len(traced.prompt) + len(traced.output)
    values = {"max_new_tokens": len(traced.output), "ignore_eos": True, **traced.limits}
    limits = checked(Limits, values, f"trace: {traced.name}.limits")
    if limits.max_new_tokens > len(traced.output):
        limits = limits.model_copy(update={"criteria": (lambda tokens: len(tokens) >= end,)})
    return Request(
        traced.prompt,
        checked(Sampling, traced.sampling, f"trace: {traced.name}.sampling"),
        limits,
        tenant=traced.tenant,
        prediction=traced.prediction,
        id=traced.name,
    )


def _compare(traced: TracedRequest, session: Session) -> None:
    if session.output != traced.output:
        raise ForetokenError(
            f"trace: {traced.name}: the replay wrote {len(session.output)} tokens that are not the "
            f"{len(traced.output)} recorded ones (an end-of-text token inside them?)"
        )


@contextmanager
def _priced(drafter: Drafter, target: ReplayTarget, seconds: float) -> Iterator[None]:
    """While it lasts, every proposed node takes so long, as time of drafting."""
    if not seconds:
        yield
        return
    propose = drafter.propose_batch

    def priced(asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        trees = propose(asked)
        target.spend(seconds * sum(map(len, trees)))
        return trees

    drafter.propose_batch = priced  # type: ignore[method-assign]
    try:
        yield
    finally:
        del drafter.propose_batch
