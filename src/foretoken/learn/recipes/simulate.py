"""The acceptance that serving will see: real drafts, really judged, on texts held out of training.

Teacher-forced accuracy flatters a drafter (70-90 % there was 1.0-1.3 tokens per step in service;
our notes on training, sec. 8). So this decodes: plain and drafted side by side in one process, in
the engine and with the rules that serve, with the bench's checks that the text is plain's. Two
modes, never mixed: the target's own text, or given answers that are followed (`Plan.forced`).

- acceptance: accepted / (accepted + steps in which a drafted token was refused), the rate at which
  a token that is judged stands. Drafts that a policy ended are not refusals; a drafted end of text
  that stands counts as accepted here.
- tokens per step (tau) = 1 + accepted / steps, but for a text that ends inside a draft.
- MBSU = tau / (c g + 1): memory-bound speed-up, Goel et al. 2403.00858 (not as printed there: see
  our notes). c: parameters that the drafter reads per token / the target per forward; g: the mean
  number of drafter forwards per step that were really made.
- alpha: sum min(p, q) on the same texts (`overlap`), what no choice of draft shape can flatter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from foretoken import registry
from foretoken.bench.contest import Plan, Task, Watch
from foretoken.bench.own import Own
from foretoken.bench.prompts import Prompt
from foretoken.bench.report import Report, Result
from foretoken.bench.results import add_depths, make_report
from foretoken.bench.run import Measured, measure
from foretoken.bench.spec import PLAIN, Spec
from foretoken.bench.tally import Tally
from foretoken.engine.build import Method
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.learn.recipes.overlap import overlap
from foretoken.learn.recipes.reading import weights_read
from foretoken.registry import NULL_POLICY
from foretoken.types import Options, Request, Session, Step


class Figures(Options):
    """One drafter under one method. A figure that was not measured is None."""

    drafter: str
    method: str  # as it was asked for, options included
    policy: str
    depth: int | None  # levels at most; None: whatever the method does
    acceptance: float | None
    accepted_share: float | None  # accepted / drafted
    tokens_per_step: float | None  # tau
    by_depth: list[float]  # share of the steps that drafted so deep in which the node stood
    forwards_per_step: float  # g
    cost: float | None  # c; None for a drafter without a model of its own
    mbsu: float | None
    alpha: float | None  # mean sum min(p, q); None for another vocabulary
    alpha_likeliest: float | None  # mean p(argmax q)
    tokens_per_s: float | None
    ratio_to_plain: float | None
    steps: int
    drafted: int
    accepted: int
    refused: int  # steps in which a drafted token was refused
    identical: bool | None  # to plain's text; None: it cannot be compared


class Simulation(Options):
    """The document."""

    report: (
        Report  # the comparison of speeds; its results are in the order of `figures`, plain first
    )
    weights_read: int  # parameters that the target reads per forward
    figures: list[Figures]


@dataclass(frozen=True)
class Candidate:
    """A drafter's folder (or name, or model), used by a method."""

    drafter: str
    method: str  # as it was asked for
    depth: int | None
    spec: Spec


class _Served(Own):
    """A contestant whose requests do not know where the text will end: the bench limits them to
    plain's text, which would shorten the last drafts. A loop is cut off all the same."""

    def _request(self, task: Task, plan: Plan) -> tuple[Request, Method]:
        request, method = super()._request(task, plan)
        target = self.engine.target
        room = min(plan.max_new_tokens, target.max_context - len(task.prompt.tokens))
        if plan.forced or task.expected[-1] not in target.eos:
            return request, method
        limits = request.limits.model_copy(update={"max_new_tokens": room})
        return replace(request, limits=limits), method


@dataclass
class _Judged:
    """What came of one method's drafts."""

    stood: list[int] = field(default_factory=list)  # [d]: steps in which d + 1 levels stood
    refused: int = 0

    def add(self, step: Step) -> None:
        tree, path = step.tree, step.verdict.path
        below = [tree.tokens[child] for child in tree.children[(path[-1] if path else -1) + 1]]
        # rules give a drafted end of text out as the token of their own
        ended = step.verdict.bonus in below
        self.refused += bool(below) and not ended
        self.stood = add_depths([self.stood, [1] * (len(path) + ended)])


class _Judgements(Tally):
    """Counts what came of the drafts of every method."""

    def __init__(self, inner: Watch) -> None:
        super().__init__(inner)
        self.judged: defaultdict[str, _Judged] = defaultdict(_Judged)

    def step(self, method: str, task: Task, session: Session, step: Step) -> None:
        self.judged[method].add(step)
        super().step(method, task, session, step)


def usual_method(temperature: float | None) -> str:
    """The plainest method that runs a drafter: for greedy text (None, 0), for drawn text."""
    return "lm-sampled" if temperature else "lm"


def candidates(
    drafters: Sequence[Any], specs: Sequence[Spec], depths: Sequence[int] = ()
) -> list[Candidate]:
    """Every drafter under every method at every depth. drafters: folders, hub names, models; [None]
    for what lies beside the target. depths: () leaves the method's own. Under the policy `fixed`
    a deeper draft gets as many nodes a level as the method has by default.

    Raises ConfigError for a method that runs no model.
    """
    out = []
    for drafter, name in zip(drafters, names_of(drafters), strict=True):
        for spec in specs:
            cls = registry.find("drafter", spec.name)
            if "model" not in cls.Options.model_fields:
                raise ConfigError("method", spec.name, "a method that runs a drafter (lm ...)")
            levels: Sequence[int | None] = depths or [None]
            out += [_candidate(drafter, name, spec, cls, depth) for depth in levels]
    return out


def _candidate(drafter: Any, name: str, spec: Spec, cls: Any, depth: int | None) -> Candidate:
    options, of_policy = dict(spec.options), dict(spec.policy_options)
    if drafter is not None:
        options["model"] = drafter
    label = f"{spec.label} {name}"
    if depth is not None:
        usual = cls.Options.model_fields["depth"].default
        options["depth"] = depth
        if spec.policy == NULL_POLICY:
            of_policy.setdefault("nodes", -(-cls.nodes * depth // usual))
        label += f" depth {depth}"
    own = replace(spec, label=label, options=options, policy_options=of_policy)
    return Candidate(name, spec.label, depth, own)


def names_of(drafters: Sequence[Any]) -> list[str]:
    """What to call each: the last parts of its folder, as few as tell them apart."""
    paths = [
        Path(d).resolve() if isinstance(d, str | Path) and Path(d).is_dir() else Path(_called(d))
        for d in drafters
    ]
    for parts in range(1, 1 + max((len(path.parts) for path in paths), default=0)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{_called(drafter)} {i}" for i, drafter in enumerate(drafters)]


def _called(drafter: Any) -> str:
    if drafter is None:
        return "drafter"
    named = drafter if isinstance(drafter, str | Path) else getattr(drafter, "name", None)
    return str(named or type(drafter).__name__)


def simulate(
    engine: Engine,
    chosen: Sequence[Candidate],
    prompts: Sequence[Prompt],
    plan: Plan,
    watch: Watch | None = None,
    files: Sequence[str | Path] = (),
) -> Simulation:
    """Decode, and count. Raises ConfigError or CapabilityError for a drafter that does not fit."""
    contestants = [_Served(engine, spec) for spec in (PLAIN, *(c.spec for c in chosen))]
    seen = _Judgements(watch or Watch())
    measured = measure(engine, contestants, prompts, plan, seen)
    report = make_report(measured, engine.target, files)
    target: Any = engine.target
    read = weights_read(target.model)
    figures = [
        _figures(engine, candidate, contestant, measured, report, seen, read)
        for candidate, contestant in zip(chosen, contestants[1:], strict=True)
    ]
    return Simulation(report=report, weights_read=read, figures=figures)


def _figures(
    engine: Engine,
    candidate: Candidate,
    contestant: Own,
    measured: Measured,
    report: Report,
    seen: _Judgements,
    read: int,
) -> Figures:
    label = candidate.spec.label
    result = report.of(label)
    stats = [s for row in measured.finished() for cell in row for s in cell[label].stats]
    steps = sum(s.steps for s in stats)
    deep = add_depths(s.drafted_by_depth for s in stats)
    came = seen.judged[label]
    stood = sum(came.stood)
    drafter = contestant.method.drafter
    small = getattr(getattr(drafter, "model", None), "target", None)
    forwards = sum(deep) / steps if steps else 0.0
    cost = None if small is None else weights_read(small.model) / read
    tau = result.tokens_per_step
    alpha, likeliest = _overlap(engine, drafter, small, measured)
    return Figures(
        drafter=candidate.drafter,
        method=candidate.method,
        policy=candidate.spec.policy,
        depth=candidate.depth,
        acceptance=stood / (stood + came.refused) if stood + came.refused else None,
        accepted_share=result.accepted / result.drafted if result.drafted else None,
        tokens_per_step=tau,
        by_depth=[a / d for a, d in zip_longest(came.stood, deep, fillvalue=0)],
        forwards_per_step=forwards,
        cost=cost,
        mbsu=None if cost is None or tau is None else mbsu(tau, cost, forwards),
        alpha=alpha,
        alpha_likeliest=likeliest,
        refused=came.refused,
        **_taken(result),
    )


def _taken(result: Result) -> dict[str, Any]:
    names = ("tokens_per_s", "ratio_to_plain", "steps", "drafted", "accepted", "identical")
    return {name: getattr(result, name) for name in names}


def _overlap(
    engine: Engine, drafter: Any, small: Any, measured: Measured
) -> tuple[float | None, float | None]:
    target, plan = engine.target, measured.plan
    if small is None or small.vocab != target.vocab:
        return None, None
    texts = [(task.prompt.tokens, task.expected) for task in measured.tasks]
    temperature = getattr(drafter.options, "temperature", None)
    with drafter.model.lock:
        return overlap(target, small, texts, plan.sampling, temperature).means()


def mbsu(tau: float, cost: float, forwards: float) -> float:
    """Memory-bound speed-up of `tau` tokens per step for `forwards` forwards of a drafter that
    reads `cost` of what the target reads."""
    return tau / (cost * forwards + 1)
