"""A report in blocks: what was found first, then what was done, then how to repeat it."""

from __future__ import annotations

from foretoken.audit.report import (
    AuditReport,
    Difference,
    EngineResult,
    GreedyResult,
    Plan,
    Planted,
    SamplingResult,
)  # fmt: skip
from foretoken.page.blocks import Block, Code, Grid, Heading, Text

UNTRIED = 1.02  # tokens per step up to this: nothing was drafted, or nothing accepted
BOUNDS = (
    "An audit can find a fault; it cannot prove that there is none. It saw these prompts, these "
    "settings and the first tokens of one sampled prompt. An engine that drafted nothing there "
    "was not put to the test: see its tokens per step, where it tells them."
)


def sections(report: AuditReport) -> list[Block]:
    """All of it."""
    blocks: list[Block] = [
        Heading(f"Audit of {report.model}: is the engine exact?", 1),
        *_verdict(report),
        Heading("What was audited"),
        Grid(("", ""), tuple(_facts(report))),
        *(_planned(report.plan, report) if report.plan else []),
    ]
    if report.self_test:
        blocks += _planted(report)
    for engine in report.engines:
        blocks += _engine(engine)
    blocks += [Heading("What this does not say"), Text(BOUNDS)]
    blocks += [Heading("To repeat it"), Code(report.command)] if report.command else []
    return blocks


def _verdict(report: AuditReport) -> list[Block]:
    out: list[Block] = [
        Grid(
            ("engine", "verdict", "greedy", "sampling", "tokens/step"),
            tuple(_line(engine) for engine in report.engines),
        )
    ]
    if report.unsound:
        out.append(Text("The control was accused: no accusation here can be trusted.", bad=True))
    if report.blind:
        names = ", ".join(report.blind)
        out.append(
            Text(
                f"No power here: the audit did not find these planted faults: {names}. With these "
                "settings (a temperature that is too low, too few samples) an engine with such a "
                "fault would have passed.",
                bad=True,
            )
        )
    elif report.self_test:
        out.append(Text("Every planted fault was found, and the control passed.")
                   if not report.unsound else Text("Every planted fault was found."))  # fmt: skip
    if report.interrupted:
        out.append(Text("Interrupted: this is what was finished.", bad=True))
    return out


def _line(engine: EngineResult) -> tuple[str, ...]:
    greedy, sampling = engine.greedy, engine.sampling
    speed = sampling.tokens_per_step if sampling else None
    return (
        engine.engine, engine.verdict,
        _greedy_words(greedy) if greedy else engine.skipped.get("greedy", "not tested"),
        _sampling_words(sampling) if sampling else engine.skipped.get("sampling", "not tested"),
        "-" if speed is None else f"{speed:.2f}",
    )  # fmt: skip


def _p(value: float) -> str:
    return f"{value:.2g}" if value else "< 1e-300"


def _greedy_words(greedy: GreedyResult) -> str:
    return (
        f"{greedy.tokens} tokens of {greedy.prompts} prompts: {greedy.faults} faults, "
        f"{greedy.near_ties} near-ties"
    )


def _sampling_words(found: SamplingResult) -> str:
    low, high = found.interval
    said = f"TV {found.distance:.4f} ({low:.3f} to {high:.3f}), least p {_p(found.worst.p_value)}"
    return f"{said}; impossible tokens" if found.impossible else said


def _facts(report: AuditReport) -> list[tuple[str, str]]:
    files = ", ".join(report.files)
    return [
        ("model", f"{report.model}, vocabulary {report.vocab}"),
        ("weights", report.model_hash),
        ("number format of the engines", report.dtype),
        ("reference", "plain forwards of the same weights in float32, transformers' own code"),
        ("sampling", ", ".join(f"{k} {v}" for k, v in report.settings.items())),
        ("greedy prompts", f"{report.prompts} of {files}, {report.max_new_tokens} tokens each"),
        ("near-tie", f"logit gap <= {report.tolerance}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in report.versions.items())),
        ("machine", report.processor),
        ("seconds", f"{report.seconds:.1f}"),
    ]


def _planned(plan: Plan, report: AuditReport) -> list[Block]:
    return [
        Heading("How sampled text was tested"),
        Text(plan_in_words(plan)),
        Text(
            f"False alarms: a report on exact engines accuses one of them with probability "
            f"{report.false_alarms:g} at most; shared over {plan.tests} tests (Bonferroni), each "
            f"accuses below p = {plan.threshold:.2g}. A token of probability 0 is a fault at once, "
            "unless a near-tie at the edge of top-k or top-p explains it. Intervals of the total "
            f"variation (TV): {report.interval_in_words}."
        ),
        Text(f"Prompt {plan.prompt}, whose next token is the least certain of all; it ends with:"),
        Code(report.prompt_text),
    ]


def plan_in_words(plan: Plan) -> str:
    """The sample size and what it can see; said before anything is sampled."""
    why = "as asked" if plan.asked else f"for a power of {plan.wanted:g}"
    least = "no distance at all" if plan.detectable is None else f"TV {plan.detectable:.3f}"
    return (
        f"{plan.samples} samples of {plan.tokens} tokens per engine ({why}), {plan.cells} cells "
        f"({plan.outcomes}). A law that is TV {plan.effect:g} away over the cells is accused with "
        f"probability {plan.power:.3f} at least; seen with probability {plan.wanted:g}: {least}."
    )


def _planted(report: AuditReport) -> list[Block]:
    return [
        Heading("Self-test: planted faults"),
        Text(
            "Rules that are wrong on purpose, with this model, prompt and settings, on a tree of "
            "the likeliest continuations. A fault that is not found here would not be found in an "
            "engine."
        ),
        Grid(
            ("rule", "verdict", "strongest test", "statistic", "freedom", "p", "TV"),
            tuple(_fault(planted) for planted in report.self_test),
        ),
        *(Text(f"{planted.name}: {planted.what}.") for planted in report.self_test),
    ]


def _fault(planted: Planted) -> tuple[str, ...]:
    worst = planted.sampling.worst
    right = planted.found == planted.lossy
    verdict = "found" if planted.found else "passes"
    return (
        planted.name, verdict if right else f"{verdict} (WRONG)", worst.what,
        f"{worst.statistic:.1f}", str(worst.freedom), _p(worst.p_value),
        f"{planted.sampling.distance:.4f}",
    )  # fmt: skip


def _engine(engine: EngineResult) -> list[Block]:
    out: list[Block] = [
        Heading(f"Engine {engine.engine}"),
        Text(f"{engine.verdict}. {engine.what}", bad=engine.failed or bool(engine.error)),
    ]
    if engine.error:
        out.append(Text(f"It broke off, and was not asked again: {engine.error}", bad=True))
    out += [Text(f"Not asked for {what}: {why}.") for what, why in engine.skipped.items()]
    if engine.greedy is not None:
        out += _greedy(engine.greedy)
    if engine.sampling is not None:
        out += _sampling(engine.sampling)
    return out


def _greedy(greedy: GreedyResult) -> list[Block]:
    out: list[Block] = [
        Text(
            f"Greedy: {greedy.same} of {greedy.prompts} texts are the reference's own, token for "
            f"token. Of {greedy.tokens} tokens, each compared on the engine's own text before it, "
            f"{greedy.faults} are faults and {greedy.near_ties} near-ties."
        )
    ]
    if greedy.differences:
        rows = tuple(_difference(d) for d in greedy.differences)
        columns = ("prompt", "token", "after", "expected", "wrote", "logit gap", "")
        out.append(Grid(columns, rows))
    return out


def _difference(d: Difference) -> tuple[str, ...]:
    return (
        str(d.prompt), str(d.position), repr(d.before)[1:-1], f"{d.expected} {d.expected_text!r}",
        f"{'' if d.got is None else d.got} {d.got_text!r}",
        "-" if d.gap is None else f"{d.gap:.3g}", "near-tie" if d.near_tie else "FAULT",
    )  # fmt: skip


def _sampling(found: SamplingResult) -> list[Block]:
    low, high = found.interval
    rows = tuple(
        (
            t.what, t.kind, f"{t.statistic:.2f}", "-" if t.g is None else f"{t.g:.2f}",
            str(t.freedom) if t.freedom else "nothing to test", _p(t.p_value),
            "passes" if t.passed else "FAULT",
        )
        for t in found.tests
    )  # fmt: skip
    out: list[Block] = [
        Text(
            f"Sampling: {found.samples} samples, {found.distinct} different texts, {found.cells} "
            f"cells. TV over the cells {found.distance:.4f} as observed, noise included; the true "
            f"one lies between {low:.4f} and {high:.4f}."
        ),
        Grid(("test", "law", "statistic", "G", "freedom", "p", "verdict"), rows),
    ]
    if found.tokens_per_step is not None and found.tokens_per_step <= UNTRIED:
        out.append(
            Text(
                f"{found.tokens_per_step:.2f} tokens per step: hardly a draft stood, so that the "
                "rule of acceptance was not put to the test (plain decoding has none)."
            )
        )
    if found.impossible:
        out.append(Text(f"Impossible tokens: {'; '.join(found.impossible)}.", bad=True))
    if found.edge:
        out.append(Text(f"{found.edge} tokens at the edge of top-k or top-p, by a near-tie."))
    if found.short:
        words = f"{found.short} texts stop early without an end-of-text token."
        out.append(Text(words, bad=True))
    return out
