"""Runs -> Report: what the figures are, and whether the text was the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from foretoken.bench.bootstrap import ratio_interval
from foretoken.bench.compare import bound_in_words, differing, divergence
from foretoken.bench.contest import Contestant, Plan, Run
from foretoken.bench.loops import RULE, distinct_4grams
from foretoken.bench.machine import describe, model_name, parameters
from foretoken.bench.peers import catalog
from foretoken.bench.report import (
    Divergence,
    Floor,
    Memory,
    PeerFacts,
    Prompts,
    Report,
    Result,
    Seconds,
    Spread,
)
from foretoken.bench.run import Measured
from foretoken.types import Options

Cells = Sequence[Sequence[dict[str, Run]]]

# what a result loses when a text differed that must not
SILENCE: dict[str, Any] = {
    "tokens_per_s": None, "ratio_to_plain": None, "spread": None, "per_repeat": [], "seconds": None,
    "interval": None, "ratio_to_own_plain": None, "own_interval": None, "first_token_s": None,
}  # fmt: skip


def is_strict(target: Any, peer: bool) -> bool:
    """Whether any difference from plain's text is a failure: always in float32; in the bitwise
    mode of other types for our methods (a peer's kernels are its own)."""
    return bool(target.dtype == torch.float32 or (target.exact == "bitwise" and not peer))


def is_failure(found: Sequence[Divergence], target: Any, peer: bool) -> bool:
    """Whether these differences must not be: where rounding may explain one, it has to be a
    near-tie; what a peer writes in low precision is listed only. Rounding explains none of greedy
    text in the strict modes; of drawn text it may: its last bit can carry a random number over."""
    if is_strict(target, peer):
        return any(not (divergence.drawn and divergence.near_tie) for divergence in found)
    return not peer and any(not divergence.near_tie for divergence in found)


def make_report(
    measured: Measured, target: Any, files: Sequence[str | Path] = (), *, widen: int = 1,
    memory: Memory | None = None, floor: Floor | None = None,
) -> Report:  # fmt: skip
    """The document. Where a text of ours differed that must not, it holds no speed; where a peer's
    did, that peer has none."""
    plan = measured.plan
    results = [_result(measured, contestant, target) for contestant in measured.contestants]
    wrong = {r.method for r in results if is_failure(r.divergences, target, r.peer)}
    failed = any(r.method in wrong and not r.peer for r in results)
    results = [r.model_copy(update=SILENCE) if failed or r.method in wrong else r for r in results]
    return Report(
        model=model_name(target),
        dtype=str(target.dtype).removeprefix("torch."),
        machine=describe(target),
        parameters=parameters(target.model),
        results=results,
        mode="forced" if plan.forced else "own text",
        widen=widen,
        exact=target.exact,
        sampling=set_fields(plan.sampling),
        prompts=Prompts(
            files=[Path(file).name for file in files],
            read=measured.read,
            used=len(measured.tasks),
            cut=measured.cut,
            dropped=measured.dropped,
            rule=RULE if plan.cut_loops and not plan.forced else "",
        ),
        max_new_tokens=plan.max_new_tokens,
        repeats=plan.repeats,
        batch=plan.batch,
        near_tie_bound=bound_in_words(target.dtype),
        memory=memory,
        peers=[peer_facts(c) for c in measured.contestants if c.peer],
        missing=measured.missing,
        floor=floor,
        failed=failed,
        interrupted=measured.interrupted,
    )


def set_fields(options: Options) -> dict[str, Any]:
    """What was set away from its default."""
    default = type(options)().model_dump(mode="json")
    return {k: v for k, v in options.model_dump(mode="json").items() if v != default[k]}


def _result(measured: Measured, contestant: Contestant, target: Any) -> Result:
    rows = measured.finished()
    label = contestant.label
    runs = [cell[label] for row in rows for cell in row]
    per_repeat = [_ratio([cell[label] for cell in row], [cell["plain"] for cell in row])
                  for row in rows]  # fmt: skip
    cells = [_ratio([cell[label]], [cell["plain"]]) for row in rows for cell in row]
    speeds = {name: _by_prompt(rows, name) for name in (label, "plain")}
    own = _own_plain(measured, contestant)
    plan = measured.plan
    comparable = plan.sampling.greedy or plan.forced or contestant.repeats_draws
    found = _divergences(runs, target, plan) if comparable else []
    count, forwards = sum(run.count for run in runs), sum(run.forwards for run in runs)
    pairs = [pair for run in runs for pair in zip(run.tasks, run.tokens, strict=True)]
    grams = [g for _, tokens in pairs if (g := distinct_4grams(tokens)) is not None]
    return Result(
        method=label,
        peer=contestant.peer,
        guarantee=contestant.guarantee,
        tokens_per_s=median(_speed([cell[label] for cell in row]) for row in rows)
        if rows
        else None,
        ratio_to_plain=median(per_repeat) if rows else None,
        tokens_per_step=count / forwards if forwards else None,
        identical=not found if comparable and runs else None,
        first_divergence=found[0] if found else None,
        seconds=None if contestant.peer or not runs else _seconds(runs),
        spread=Spread.of(cells) if cells else None,
        per_repeat=per_repeat,
        interval=ratio_interval(speeds[label], speeds["plain"]) if label != "plain" else None,
        first_token_s=_first([run for row in rows for cell in row for run in [cell[label]]]),
        **_against_own(rows, label, own),
        divergences=found,
        differing_tokens=sum(differing(t.expected, got) for t, got in pairs) if comparable else 0,
        compared_tokens=sum(len(task.expected) for task, _ in pairs) if comparable else 0,
        near_ties=sum(d.near_tie for d in found),
        distinct_4grams=sum(grams) / len(grams) if grams else None,
        new_tokens=count,
        steps=forwards,
        drafted=sum(s.drafted for run in runs for s in run.stats),
        accepted=sum(s.accepted for run in runs for s in run.stats),
        accepted_by_depth=add_depths(s.accepted_by_depth for run in runs for s in run.stats),
    )


def peer_facts(contestant: Any) -> PeerFacts:
    """As it was when it ended."""
    facts = contestant.facts
    return PeerFacts(
        label=contestant.label, what=catalog.find(contestant.label)[0].what,
        versions=facts.versions, notes=facts.notes, open_seconds=facts.open_seconds,
        peak_mb=facts.peak_mb,
    )  # fmt: skip


def _own_plain(measured: Measured, contestant: Contestant) -> str | None:
    """The plain decoding of a peer's mode, if it was measured."""
    if not contestant.peer:
        return None
    kind, mode = catalog.find(contestant.label)
    known = any(c.label == kind.name for c in measured.contestants)
    return kind.name if mode and known else None


def _against_own(rows: Cells, label: str, own: str | None) -> dict[str, Any]:
    if own is None or not rows:
        return {}
    ratios = [_ratio([cell[label] for cell in row], [cell[own] for cell in row]) for row in rows]
    return {
        "own_plain": own,
        "ratio_to_own_plain": median(ratios),
        "own_interval": ratio_interval(_by_prompt(rows, label), _by_prompt(rows, own)),
    }


def _by_prompt(rows: Cells, label: str) -> list[tuple[float, float]]:
    """(tokens, median seconds) of every group of prompts that all repeats have."""
    groups = min((len(row) for row in rows), default=0)
    runs = [[row[g][label] for row in rows] for g in range(groups)]
    return [(float(same[0].count), median(run.wall for run in same)) for same in runs]


def _first(runs: Sequence[Run]) -> float | None:
    known = [s for run in runs for s in run.first if s is not None]
    return median(known) if known else None


def _speed(runs: Sequence[Run]) -> float:
    """Tokens per second of wall clock."""
    return sum(run.count for run in runs) / sum(run.wall for run in runs)


def _ratio(runs: Sequence[Run], plain: Sequence[Run]) -> float:
    return _speed(runs) / _speed(plain)


def _seconds(runs: Sequence[Run]) -> Seconds:
    parts = {
        part: sum(s.seconds[part] for run in runs for s in run.stats)
        for part in ("draft", "target", "verify")
    }
    return Seconds(**parts, other=sum(run.wall for run in runs) - sum(parts.values()))


def _divergences(runs: Sequence[Run], target: Any, plan: Plan) -> list[Divergence]:
    """The first difference of each prompt, in whichever repeat it was seen first."""
    seen: dict[int, Divergence] = {}
    for run in runs:
        for task, got in zip(run.tasks, run.tokens, strict=True):
            if task.index in seen or task.expected == got:
                continue
            found = divergence(
                target,
                task.prompt.tokens,
                task.expected,
                got,
                index=task.index,
                sampling=plan.sampling_of(task.prompt),
            )
            if found is not None:
                seen[task.index] = found
    return [seen[index] for index in sorted(seen)]


def add_depths(histograms: Iterable[Sequence[int]]) -> list[int]:
    """The sum of histograms of different lengths."""
    out: list[int] = []
    for histogram in histograms:
        out.extend([0] * (len(histogram) - len(out)))
        for depth, steps in enumerate(histogram):
            out[depth] += steps
    return out
