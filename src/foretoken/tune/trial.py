"""Every method under every policy on one trace: the table of `foretoken tune`."""

from __future__ import annotations

from collections.abc import Sequence

from foretoken.draft.base import Context
from foretoken.learn.trace import Trace
from foretoken.target.cost import CostCurve
from foretoken.tune.contest import Contest, Ran, Run, Watch
from foretoken.tune.hindsight import Span, regret, seconds
from foretoken.tune.report import Row, TuneReport
from foretoken.tune.runs import Stream

CLOCK = (
    "virtual clock: forwards as in the model's measured cost curve, drafting as measured in this "
    "run (median processor time)"
)


def score_methods(
    report: TuneReport,
    trace: Trace,
    curve: CostCurve,
    context: Context,
    methods: Sequence[str],
    policies: Sequence[str],
    watch: Watch,
) -> None:
    """Fill the report's rows, fastest first; what an interrupt left is filled in, too."""
    stream = Stream(trace, curve, context)
    contest = Contest(stream, methods, policies, lambda cast: cast.whole.measured)
    watch.phase("methods", contest.work)
    try:
        contest.record(watch)
        contest.compete(watch)
    except KeyboardInterrupt:
        report.interrupted = True
    plain, best, *bandits = contest.bounds()
    report.left_out = contest.left_out
    report.optimum = _row(best, plain, best)
    rows = [_row(ran, plain, best) for ran in [*contest.ran, *bandits]]
    report.rows = [*sorted(rows, key=lambda row: -row.tokens_per_second), _row(plain, plain, best)]


def _row(ran: Ran, plain: Ran, best: Ran) -> Row:
    mine, base, least = (_flat(one.run) for one in (ran, plain, best))
    tokens = sum(span.tokens for span in mine)
    return Row(
        method=ran.method,
        policy=ran.policy,
        tokens_per_step=tokens / len(mine),
        tokens_per_second=tokens / seconds(mine),
        ratio=seconds(base) / seconds(mine),
        worst=min(seconds(b) / seconds(m) for m, b in zip(ran.run, plain.run, strict=True)),
        regret=regret(mine, least),
        draft_seconds=sum(ran.price),
    )


def _flat(run: Run) -> list[Span]:
    return [span for spans in run for span in spans]
