"""The adaptivity scorecard: every contestant in every scenario, scored; figures on a virtual clock.

Two runs of the same scorecard give the same figures: what drafting takes is a stated share of a
plain step and not measured, and nothing else depends on the machine but the cost curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foretoken.draft.base import Context
from foretoken.errors import ConfigError
from foretoken.learn.trace import Trace
from foretoken.target.cost import CostCurve
from foretoken.tune.contest import Contest, Ran, Watch
from foretoken.tune.measures import WINDOW, score
from foretoken.tune.report import Lane, Played, Scorecard
from foretoken.tune.runs import Cast, Stream
from foretoken.tune.scenarios import SCENARIOS, Material, Scenario
from foretoken.tune.stage import Price

DRAFT_SHARE = 0.005  # of a plain step: what a drafter takes in a step; half of it to propose
CLOCK = (
    "virtual clock: forwards as in the cost curve, drafting "
    f"{DRAFT_SHARE:.1%} of a plain step for each source"
)


def check_names(names: Sequence[str]) -> None:
    """Raises ConfigError for a scenario that there is not."""
    for name in names:
        if name not in SCENARIOS:
            raise ConfigError("scenarios", name, f"one of {', '.join(SCENARIOS)}")


def stream_of(scenario: Scenario, material: Material, curve: CostCurve, context: Context) -> Stream:
    """The scenario as a trace with its script."""
    trace = Trace.from_texts(
        scenario.passages,
        material.vocab,
        eos=material.eos,
        tokenizer_hash=context.tokenizer_hash,
        curve=curve,
    )
    phases = [scenario.phase_of(i) for i in range(len(trace.requests))]
    return Stream(trace, curve, context, [p.slope for p in phases], [p.outage for p in phases])


def nominal(stream: Stream) -> Price:
    """What one source takes."""
    plain = stream.curve(1, 0)
    return Price(0.5 * DRAFT_SHARE * plain, 0.5 * DRAFT_SHARE * plain)


def contest_of(stream: Stream, methods: Sequence[str], policies: Sequence[str]) -> Contest:
    """Contestants that pay the stated share of a plain step."""

    def price(cast: Cast) -> Price:
        each = nominal(stream)
        return Price(cast.sources * each.propose, cast.sources * each.learn)

    return Contest(stream, methods, policies, price)


def scored(contest: Contest, scenario: Scenario, seed: int) -> Played:
    """What has run so far, in the order of speed."""
    plain, best, *bandits = contest.bounds(seed)
    phases = [(phase.name, phase.tokens) for phase in scenario.phases]

    def lane(ran: Ran) -> Lane:
        found = score(ran.run, plain.run, best.run, phases, WINDOW)
        return Lane(method=ran.method, policy=ran.policy, score=found)

    lanes = sorted(
        (lane(ran) for ran in [*contest.ran, *bandits]), key=lambda one: -one.score.ratio
    )
    return Played(
        name=scenario.name,
        summary=scenario.summary,
        phases=phases,
        lanes=[lane(best), *lanes, lane(plain)],
        left_out=contest.left_out,
    )


@dataclass(frozen=True)
class Entry:
    """Who competes, on what machine."""

    curve: CostCurve
    context: Context
    methods: Sequence[str]
    policies: Sequence[str]


def fill(
    card: Scorecard, names: Sequence[str], material: Material, entry: Entry, watch: Watch
) -> None:
    """Play the scenarios and add them to the card one by one, so that an interrupt keeps those that
    are finished. Raises ConfigError for unknown names and phases that are too long."""
    check_names(names)
    scenarios = [SCENARIOS[name](material) for name in names]
    for scenario in scenarios:
        stream = stream_of(scenario, material, entry.curve, entry.context)
        contest = contest_of(stream, entry.methods, entry.policies)
        watch.phase(scenario.name, contest.work)
        contest.record(watch)
        contest.compete(watch)
        card.scenarios.append(scored(contest, scenario, card.seed))


def new_card(seed: int) -> Scorecard:
    """A card without scenarios."""
    return Scorecard(clock=CLOCK, window=WINDOW, seed=seed)
