"""Contestants on small streams: offers, prices, outages, curves that change, and the bounds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from foretoken import registry
from foretoken.draft.base import Context
from foretoken.errors import ConfigError
from foretoken.learn.trace import Trace
from foretoken.target.cost import CostCurve
from foretoken.tune.contest import Contest
from foretoken.tune.hindsight import offer, plain, seconds
from foretoken.tune.report import EXP3, OPTIMUM, PLAIN, UCB
from foretoken.tune.runs import Cast, Stream, spans, stretched
from foretoken.tune.stage import (
    Price,
    Shadow,
    candidates,
    check_method,
    check_policy,
    make,
    policies,
)

VOCAB, REQUESTS, LENGTH = 30, 4, 40
CURVE = CostCurve(rows=(1, 9), contexts=(64,), seconds=((1.0, 1.4),))
CONTEXT = Context(VOCAB, (), "")


class Silent:
    def phase(self, name: str, total: int) -> None:
        pass

    def advance(self, by: int = 1) -> None:
        pass


@cache
def stream() -> Stream:
    """Texts that repeat a phrase of their own with noise between."""
    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(REQUESTS):
        phrase = rng.integers(0, VOCAB, 6).tolist()
        text = [t for _ in range(8) for t in (*phrase, *rng.integers(0, VOCAB, 2).tolist())]
        pairs.append((text[:16], text[16 : 16 + LENGTH]))
    return Stream(Trace.from_texts(pairs, VOCAB, curve=CURVE), CURVE, CONTEXT)


def contest(price: Price, *methods: str, of: Stream | None = None) -> Contest:
    made = Contest(of or stream(), methods, ["fixed"], lambda _: price)
    made.record(Silent())
    made.compete(Silent())
    return made


def test_everyone_writes_the_text_and_nobody_beats_the_optimum() -> None:
    done = contest(Price(0.01, 0.01), "prompt-lookup", "aded")
    base, best, ucb, exp3 = done.bounds()
    assert [ran.method for ran in (base, best, ucb, exp3)] == [PLAIN, OPTIMUM, UCB, EXP3]
    for ran in (base, best, ucb, exp3, *done.ran):
        assert [sum(span.tokens for span in run) for run in ran.run] == [LENGTH] * REQUESTS
    least = sum(map(seconds, best.run))
    assert sum(map(seconds, base.run)) == pytest.approx(REQUESTS * LENGTH * 1.0)
    assert least < 0.7 * REQUESTS * LENGTH  # there is something to gain
    for ran in (base, ucb, exp3, *done.ran):
        assert sum(map(seconds, ran.run)) >= least * (1 - 1e-9), ran.method


def test_plain_steps_cost_in_a_replay_what_the_bounds_say() -> None:
    long = CostCurve(rows=(1, 9), contexts=(8, 64), seconds=((1.0, 1.4), (2.0, 3.4)))
    here = replace(stream(), curve=long)
    cast = Cast.of("prompt-lookup", CONTEXT)
    done = here.run(cast, Shadow(8, 8))
    for run, text in zip(spans(done, REQUESTS), here.texts({}), strict=True):
        assert [s.seconds for s in run] == pytest.approx([s.seconds for s in plain(text)])


def test_offers_are_what_the_drafter_proposes_at_every_position() -> None:
    found = stream().offers(Cast.of("prompt-lookup", CONTEXT))
    assert [len(text) for text in found] == [LENGTH] * REQUESTS
    # a copying drafter's proposal depends on the text alone: ask it anew at every position
    from foretoken.draft.ngram_index import NgramIndex, copied
    from foretoken.types import Budget

    options = registry.find("drafter", "prompt-lookup").Options()
    nodes = registry.find("drafter", "prompt-lookup").nodes
    for request, offers in zip(stream().trace.requests, found, strict=True):
        for at in range(LENGTH - 1):
            index = NgramIndex(options.max_ngram, options.min_ngram)
            here = [*request.prompt, *request.output[:at]]
            room = Budget(min(options.length, nodes), LENGTH - at - 1)
            assert offers[at] == offer(copied(index, here, room, ()), request.output[at:])


def test_a_deterministic_drafter_gets_in_a_run_what_its_offers_say() -> None:
    done = contest(Price(0.25, 0.5), "prompt-lookup")
    offers = stream().offers(Cast.of("prompt-lookup", CONTEXT))
    (ran,) = done.ran
    for run, text in zip(ran.run, offers, strict=True):
        at = 0
        for span in run:
            made = text[at]
            assert span.nodes == made.nodes
            assert span.tokens == min(made.accepted(made.nodes), LENGTH - at - 1) + 1
            asked = at < LENGTH - 1  # with room for one token nothing is asked
            paid = CURVE(1 + span.nodes) + 0.5 + 0.25 * asked
            assert span.seconds == pytest.approx(paid)
            at += span.tokens


def test_the_optimum_pays_for_the_proposals_that_it_takes() -> None:
    _, best, *_ = contest(Price(0.25, 0.5), "prompt-lookup").bounds()
    taken = [span for run in best.run for span in run if span.nodes]
    assert taken
    for span in taken:
        assert span.seconds == pytest.approx(CURVE(1 + span.nodes) + 0.25)


def test_an_outage_silences_the_drafter_and_of_a_mixture_the_first_source() -> None:
    out = replace(stream(), outages=[False, True, True, False])
    (single,) = contest(Price(), "prompt-lookup", of=out).ran
    drafted = [sum(span.nodes for span in run) > 0 for run in single.run]
    assert drafted == [True, False, False, True]
    cast = Cast.of("mix", CONTEXT)
    assert cast.sources > 1
    assert cast.victim is cast.whole.inner.parts[0]  # type: ignore[attr-defined]
    done = out.run(cast, out.policy("fixed", cast.whole))
    drafted = [sum(span.nodes for span in run) > 0 for run in spans(done, REQUESTS)]
    assert all(drafted)  # the other sources go on


def test_a_curve_that_changes_changes_the_time_of_further_rows_only() -> None:
    steep = replace(stream(), slopes=[1.0, 4.0, 0.25, 1.0])
    assert [steep.curve_of(i)(5) for i in range(3)] == pytest.approx([1.2, 1.8, 1.05])
    assert stretched(CURVE, 4.0)(1) == 1.0
    (before,), (after,) = (contest(Price(), "prompt-lookup", of=s).ran for s in (stream(), steep))
    for i, (a, b) in enumerate(zip(before.run, after.run, strict=True)):
        slope = steep.slopes[i]
        assert [s.tokens for s in a] == [s.tokens for s in b]
        for one, other in zip(a, b, strict=True):
            assert other.seconds - 1.0 == pytest.approx(slope * (one.seconds - 1.0))


def test_who_cannot_be_judged_is_left_out_and_named() -> None:
    done = contest(Price(), "prompt-lookup", "predicted")
    assert [ran.method for ran in done.ran] == ["prompt-lookup"]
    assert done.left_out == {"predicted": "it proposed nothing on this text"}


def test_candidates_draft_fixed_nodes_without_a_model() -> None:
    names = candidates()
    assert {"aded", "prompt-lookup", "mix", registry.DEFAULT_METHOD} <= set(names)
    assert not {"plain", "lm", "lm-rsd-s", "oracle"} & set(names)
    for name in ("plain", "lm", "no-such"):
        with pytest.raises(ConfigError):
            check_method(name)
    assert make("aded", CONTEXT).name == "aded"


def test_policies_ask_for_nothing_that_a_recorded_text_does_not_give() -> None:
    names = policies()
    assert {"fixed", "confidence", registry.DEFAULT_POLICY} <= set(names)
    assert not {"svip", "adaedl"} & set(names)
    check_policy("confidence")
    for name in ("svip", "no-such"):
        with pytest.raises(ConfigError, match=r"'(svip|no-such)' is not accepted.*confidence"):
            check_policy(name)


def test_two_runs_give_the_same_figures() -> None:
    first, second = (contest(Price(0.01, 0.0), registry.DEFAULT_METHOD) for _ in range(2))
    assert first.ran == second.ran
    assert first.bounds() == second.bounds()
