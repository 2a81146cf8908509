"""The replayed model: recorded rows on the recorded text, nothing elsewhere, and its own clock."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
import torch

from foretoken.draft.base import Context
from foretoken.engine.build import build
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError, ForetokenError
from foretoken.learn.trace import Trace, TracedRequest
from foretoken.target.base import Job, KVCache, Target
from foretoken.target.cost import CostCurve, cost_curve
from foretoken.target.replay import ReplayTarget
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Limits, Request
from foretoken.verify.forced import Forced

VOCAB, M = 12, 3
CURVE = CostCurve(rows=(1, 11), contexts=(0, 100), seconds=((1.0, 2.0), (3.0, 4.0)))


def curve(rows, context):
    """The same by hand: linear in both."""
    return 1.0 + (rows - 1) / 10 + context / 50


def traced(prompt, output, name="x", m=M, seed=0):
    """Random rows; the output's token is the likeliest of each."""
    dice = np.random.default_rng(seed)
    ids = np.array([[t, (t + 1) % VOCAB, (t + 5) % VOCAB][:m] for t in output], np.int32)
    probs = np.sort(dice.dirichlet(np.ones(M + 1), len(output))[:, :M], axis=1)[:, ::-1][:, :m]
    return TracedRequest(
        name, prompt, output, top_tokens=ids, top_logprobs=np.log(probs).astype(np.float32)
    )


def make(*requests, **options):
    return ReplayTarget(Trace(list(requests), VOCAB, curve=CURVE), **options)


ONE = traced([1, 2, 3], [4, 5, 6, 7])


def test_it_is_a_target():
    target = make(ONE)
    assert isinstance(target, Target)
    assert isinstance(target.new_cache(3), KVCache)


def test_rows_on_the_text_are_the_recorded_ones_and_others_are_unknown():
    target = make(ONE)
    cache = target.new_cache(20)
    #      0 on, 1 off, 2 on, 3 below 1, 4 on, 5 the last token: nothing is known of what follows
    tree = DraftTree([4, 9, 5, 5, 6, 7], [-1, -1, 0, 1, 2, 4])
    (scores,) = target.score([Job(cache, ONE.prompt, tree)])
    assert list(scores.known) == [True, True, False, True, False, True, False]
    probs = scores.logits.softmax(-1)
    torch.testing.assert_close(probs.sum(-1), torch.ones(7))
    tokens, best = scores.top(2)
    everything = scores.top(VOCAB)[0]
    for row, i in ((0, 0), (1, 1), (3, 2), (5, 3)):  # row of the scores, token of the output
        recorded = torch.tensor(np.exp(ONE.top_logprobs[i]))
        ids = ONE.top_tokens[i].tolist()
        torch.testing.assert_close(probs[row, ids], recorded)
        assert probs[row].argmax() == ONE.output[i]
        others = [t for t in range(VOCAB) if t not in ids]
        torch.testing.assert_close(
            probs[row, others], ((1 - recorded.sum()) / len(others)).expand(len(others))
        )
        assert tokens[row] == ids[:2]
        assert best[row] == pytest.approx(recorded[:2].tolist())
        assert everything[row] == ids  # no more than was recorded
    for row in (2, 4, 6):
        assert tokens[row] == best[row] == []
        assert probs[row].max() == probs[row].min()


def test_a_token_alone_has_all_the_mass():
    target = make(traced([1], [4, 5], m=0))
    (scores,) = target.score([Job(target.new_cache(9), [1], DraftTree.chain([4]))])
    assert scores.top(8) == ([[4], [5]], [[1.0], [1.0]])
    assert scores.logits.softmax(-1)[0, 4] > 1 - 1e-6


def test_scoring_keeps_nothing_until_it_is_kept():
    target = make(ONE)
    cache = target.new_cache(9)
    (first,) = target.score([Job(cache, ONE.prompt, DraftTree.chain([4, 5, 9]))])
    assert cache.length == 0
    cache.keep([0, 1])
    assert cache.length == 5
    (after,) = target.score([Job(cache, [6], EMPTY)])
    torch.testing.assert_close(
        after.logits[0].softmax(-1)[7], torch.tensor(ONE.top_logprobs[3, 0]).exp()
    )
    assert len(first.logits) == 4


def test_a_draft_may_be_scored_level_by_level():
    target = make(ONE)
    whole, grown = target.new_cache(9), target.new_cache(9)
    tree = DraftTree([4, 9, 5], [-1, -1, 0])
    (at_once,) = target.score([Job(whole, ONE.prompt, tree)])
    parts = [
        target.score([job])[0].logits
        for job in (
            Job(grown, ONE.prompt, EMPTY), Job(grown, (), tree.first(2)), Job(grown, (), tree, 2),
        )
    ]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts), at_once.logits)
    grown.keep([0])
    assert grown.length == 4


def test_equal_prompts_are_served_in_recorded_order():
    a, b = traced([1], [4, 5], "a"), traced([1], [6, 7], "b")
    target = make(a, traced([2], [9], "other"), b)
    first = []
    for _ in range(3):  # the third time begins again
        (scores,) = target.score([Job(target.new_cache(9), [1], EMPTY)])
        first.append(int(scores.logits[0].argmax()))
    assert first == [4, 6, 4]


def test_the_engine_writes_greedy_text_from_the_rows_alone():
    target = make(ONE, traced([2, 2], [8, 8, 8, 8], "y"))
    engine = Engine(target, method="prompt-lookup", policy="fixed")
    asked = [Request(p, limits=Limits(max_new_tokens=4)) for p in ([1, 2, 3], [2, 2])]
    assert [done.tokens for done in engine.run(asked)] == [[4, 5, 6, 7], [8] * 4]


def test_a_conversation_goes_on_in_its_cache():
    """The next turn takes the rows over and is another recorded request."""
    turns = [traced([1, 2], [3, 4], "first"), traced([1, 2, 3, 4, 5], [6, 7], "second")]
    engine = Engine(make(*turns), method="plain", policy="fixed")
    limits = Limits(max_new_tokens=2)
    first = engine.add(Request([1, 2], limits=limits, keep_cache=True))
    while engine.step():
        pass
    second = engine.add(Request(turns[1].prompt, limits=limits), resume=first)
    while steps := engine.step():
        assert steps[0][1].fresh < 5
    assert (first.output, second.output) == ([3, 4], [6, 7])


def test_text_that_was_not_recorded_is_an_error():
    target = make(ONE)
    with pytest.raises(ForetokenError, match="not recorded"):
        target.score([Job(target.new_cache(9), [1, 2], EMPTY)])
    cache = target.new_cache(9)
    target.score([Job(cache, ONE.prompt, EMPTY)])
    cache.keep([])
    with pytest.raises(ForetokenError, match="not recorded"):
        target.score([Job(cache, [9], EMPTY)])


# -------------------------------------------------------------------------------------------- clock


def test_a_forward_takes_what_the_curve_says():
    target = make(ONE, traced([5], [6, 7], "y"))
    one, two = target.new_cache(9), target.new_cache(9)
    target.score([Job(one, ONE.prompt, DraftTree.chain([4, 5]))])
    assert target.now() == pytest.approx(curve(5, 0))
    assert target.prompt_seconds == pytest.approx(curve(5, 0) - curve(3, 2))
    one.keep([0])
    began = target.now()
    target.score([Job(one, [5], DraftTree.chain([6])), Job(two, [5], EMPTY)])
    assert target.now() - began == pytest.approx(curve(4, (4 + 0) / 2))  # as wide as the widest
    assert target.prompt_seconds == 0
    began = target.now()
    target.spend(2.5)
    assert target.now() - began == 2.5


def test_the_curve_may_change_while_it_runs():
    target = make(ONE)
    target.curve = CostCurve(rows=(1,), contexts=(0,), seconds=((7.0,),))
    target.score([Job(target.new_cache(9), ONE.prompt, EMPTY)])
    assert target.now() == 7.0


def test_the_wall_counts_but_for_the_look_up():
    target = make(ONE, clock="wall+virtual")
    cache = target.new_cache(9)
    start, began = target.now(), perf_counter()
    target.score([Job(cache, ONE.prompt, EMPTY)])
    outside = perf_counter() - began
    assert curve(3, 0) <= target.now() - start < curve(3, 0) + outside
    before = target.now()
    end = perf_counter() + 0.01
    while perf_counter() < end:
        pass
    assert target.now() - before >= 0.01


def test_policies_get_the_curve_of_the_trace():
    target = make(ONE)
    assert cost_curve(target) is CURVE
    method = build(target, Context(VOCAB, (), ""), "aded", "marginal")
    assert method.policy.curve is CURVE


@pytest.mark.parametrize(
    ("trace", "options", "named"),
    [
        (Trace([ONE], VOCAB), {}, "curve"),
        (Trace([], VOCAB, curve=CURVE), {}, "trace"),
        (Trace([ONE], VOCAB, curve=CURVE), {"clock": "sundial"}, "sundial"),
    ],
)
def test_what_cannot_be_replayed_is_refused(trace, options, named):
    with pytest.raises(ConfigError, match=named):
        ReplayTarget(trace, **options)


# ------------------------------------------------------------------------------------- forced rule


def test_forced_follows_the_text_to_its_end_whatever_the_rows_say():
    target = make(traced([1, 2], [3, 4, 5]))
    text = [1, 2, 4, 4, 4]  # not what was recorded: rows are not asked
    tree = DraftTree([4, 4, 4], [-1, 0, 1])
    from foretoken.prompt.chance import Coins, PositionRandom
    from foretoken.prompt.sampling import TargetRows, Warper
    from foretoken.types import Sampling

    (scores,) = target.score([Job(target.new_cache(9), [1, 2], tree)])
    warper = Warper(Sampling(temperature=1.0), [1, 2], (), 3, VOCAB)
    for choose in (True, False):
        rows = TargetRows(scores.logits, tree, [1, 2], warper)
        verdict = Forced(text, choose).judge(tree, rows, Coins(PositionRandom(0), 2))
        assert verdict.path == (0, 1)  # the last token is the bonus, though it was drafted
        assert verdict.bonus == 4
        assert bool(rows._probs) == choose


def test_a_trace_of_other_dimensions_is_not_mixed_up():
    """The same prompt in another trace is another request."""
    one, two = make(ONE), make(replace(ONE, output=[7, 6, 5, 4]))
    rows = [
        t.score([Job(t.new_cache(9), ONE.prompt, DraftTree.chain([7]))])[0].known
        for t in (one, two)
    ]
    assert [list(known) for known in rows] == [[True, False], [True, True]]
