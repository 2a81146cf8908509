import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests import letters, talking, tiny

from foretoken.bench.contest import Plan
from foretoken.bench.prompts import Prompt
from foretoken.bench.spec import parse_methods
from foretoken.draft.trim import Trim
from foretoken.draft.trimmed import trimmed
from foretoken.errors import CapabilityError, ConfigError
from foretoken.learn.recipes.export import export
from foretoken.learn.recipes.overlap import overlap, text_rows
from foretoken.learn.recipes.reading import weights_read
from foretoken.learn.recipes.simulate import candidates, mbsu, names_of, simulate
from foretoken.prompt.samples import demo_model
from foretoken.target.hf import HFTarget
from foretoken.target.linear import pack_linears
from foretoken.target.load import load
from foretoken.types import Limits, Request, Sampling

DRAWN = Sampling(temperature=0.8)


@pytest.fixture(scope="module")
def near():
    """A drafter near the target: the same weights with noise."""
    model = copy.deepcopy(talking.model())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn(parameter.shape) * 0.02)
    return HFTarget(model, name="near")


@pytest.fixture(scope="module")
def far():
    return HFTarget(copy.deepcopy(talking.model(seed=5, layers=1)), name="far")


def prompts(n=6, length=9):
    return [Prompt(str(i), tiny.prompt(i, length), "", seed=i) for i in range(n)]


def run(drafters, methods="lm", depths=(4,), sampling=None, new=24, policy="fixed", **options):
    specs = parse_methods(methods, policy)[1:]
    plan = Plan(new, 1, 1, sampling or Sampling(), cut_loops=False, **options)
    return simulate(talking.engine(), candidates(drafters, specs, depths), prompts(), plan)


@pytest.mark.parametrize("sampling", [Sampling(), DRAWN], ids=["greedy", "drawn"])
def test_the_figures_are_those_of_the_live_loop(near, sampling):
    """Same seeds: steps, drafted and accepted tokens are what the engine counts while it serves."""
    (figures,) = run([near], "lm-sampled", sampling=sampling).figures
    engine = talking.engine()
    method = engine.use("lm-sampled", "fixed", None, {"model": near, "depth": 4}, {"nodes": 4})
    requests = [
        Request(p.tokens, sampling.model_copy(update={"seed": p.seed}), Limits(max_new_tokens=24))
        for p in prompts()
    ]
    stats = [done.stats for done in engine.run(requests, method)]
    assert figures.steps == sum(s.steps for s in stats)
    assert figures.drafted == sum(s.drafted for s in stats)
    assert figures.accepted == sum(s.accepted for s in stats)
    assert figures.tokens_per_step == sum(s.tokens for s in stats) / figures.steps


def test_tokens_per_step_are_one_and_what_was_accepted_per_step(near):
    figures, other = run([near], "lm,lm-top-k", sampling=DRAWN, forced=False).figures
    for f in (figures, other):
        # a text that ends with an accepted token has no token of the target's own in its last step
        assert f.tokens_per_step * f.steps == pytest.approx(f.accepted + f.steps, abs=6)
        assert 0 < f.accepted_share < 1
        assert f.refused <= f.steps
    judged = figures.accepted + figures.refused
    assert figures.acceptance == pytest.approx(figures.accepted / judged, abs=0.1)


def test_a_drafter_that_is_the_target_is_never_refused(near):
    (same,) = run([talking.target()], depths=[3]).figures
    assert same.acceptance == 1.0
    assert same.alpha == same.alpha_likeliest == 1.0
    assert same.refused == 0
    assert same.cost == 1.0
    assert same.by_depth[0] == 1.0
    assert same.tokens_per_step > 3.5
    (drawn,) = run([talking.target()], "lm-sampled", depths=[3], sampling=DRAWN).figures
    assert drawn.acceptance == 1.0
    assert drawn.alpha == pytest.approx(1.0, abs=1e-5)


def test_drafters_are_ranked_and_alpha_foretells_acceptance(near, far):
    good, bad = run([near, far], "lm-sampled", depths=[4], sampling=DRAWN, new=48).figures
    assert [good.drafter, bad.drafter] == ["near", "far"]
    assert good.alpha > bad.alpha + 0.2
    assert good.tokens_per_step > bad.tokens_per_step
    for f in (good, bad):
        assert f.acceptance == pytest.approx(f.alpha, abs=0.12)  # some hundred judged tokens
    assert bad.cost < good.cost == 1.0


def test_deeper_drafts_take_more_forwards(near):
    out = run([near], "lm", depths=[1, 3, 6])
    forwards = [f.forwards_per_step for f in out.figures]
    assert [f.depth for f in out.figures] == [1, 3, 6]
    assert forwards[0] <= 1 < forwards[1] <= 3 < forwards[2] <= 6
    assert all(a.tokens_per_step < b.tokens_per_step for a, b in pairwise(out.figures))
    for f in out.figures:
        assert f.mbsu == pytest.approx(f.tokens_per_step / (1 + f.cost * f.forwards_per_step))
        assert f.identical
        assert f.ratio_to_plain > 0
    assert out.report.results[0].method == "plain"


def test_a_policy_that_ends_a_draft_refuses_nothing(near):
    (figures,) = run([near], depths=(), policy="svip").figures
    assert figures.policy == "svip"
    assert figures.accepted + figures.refused <= figures.drafted + figures.steps
    assert figures.refused < figures.steps


def test_given_answers_are_followed(near):
    """Forced: the text is the reference, whatever the model would write."""
    given = [
        Prompt(str(i), tiny.prompt(i, 9), "", reference=tiny.prompt(50 + i, 20)) for i in range(4)
    ]
    plan = Plan(16, 1, 1, DRAWN, forced=True)
    specs = parse_methods("lm", "fixed")[1:]
    out = simulate(talking.engine(), candidates([near], specs, [3]), given, plan)
    assert out.report.mode == "forced"
    assert out.report.results[1].new_tokens == 4 * 16
    texts = [(p.tokens, p.reference[:16]) for p in given]
    mean = overlap(talking.target(), near, texts, DRAWN)
    assert (out.figures[0].alpha, out.figures[0].alpha_likeliest) == mean.means()


def test_alpha_equals_brute_force(near):
    """Plain forwards of both models, row by row, with the request's temperature and top-p."""
    sampling = Sampling(temperature=0.7, top_p=0.9)
    prompt, answer = tiny.prompt(3, 7), tiny.prompt(4, 11)
    got = overlap(talking.target(), near, [(prompt, answer)], sampling)
    alpha = likeliest = 0.0
    for i in range(len(answer)):
        ids = torch.tensor([[*prompt, *answer[:i]]])
        rows = []
        for model in (talking.model(), near.model):
            with torch.inference_mode():
                row = model(ids, use_cache=False).logits[0, -1] / 0.7
            probs, order = row.softmax(-1).sort(descending=True)
            probs[probs.cumsum(0) - probs >= 0.9] = 0
            rows.append(torch.zeros(97).scatter(0, order, probs / probs.sum()))
        p, q = rows
        alpha += float(torch.minimum(p, q).sum())
        likeliest += float(p[q.argmax()])
    assert got.positions == 11
    assert got.alpha == pytest.approx(alpha, abs=1e-4)
    assert got.greedy == pytest.approx(likeliest, abs=1e-4)


def test_rows_of_a_long_text_are_those_of_one_forward(near):
    prompt, answer = tiny.prompt(3, 7), tiny.prompt(4, 40)
    whole = text_rows(near, prompt, answer)
    with torch.inference_mode():
        ids = torch.tensor([prompt + answer])
        plain = near.model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    torch.testing.assert_close(whole, plain, atol=2e-5, rtol=0)
    short = copy.copy(near)
    short.max_draft = 6
    torch.testing.assert_close(text_rows(short, prompt, answer), plain, atol=2e-5, rtol=0)


def test_what_a_small_context_cannot_hold_is_left_out(near):
    short = copy.copy(near)
    short.max_context = 16
    found = overlap(talking.target(), short, [(tiny.prompt(1, 9), tiny.prompt(2, 20))], DRAWN)
    assert found.positions == 7
    nothing = overlap(talking.target(), short, [(tiny.prompt(1, 20), [1, 2])], DRAWN)
    assert nothing.means() == (None, None)


def test_weights_read_leave_out_the_table_of_which_one_row_is_read():
    model = talking.model()
    total = sum(p.numel() for p in model.parameters())
    assert weights_read(model) == total - 97 * 32  # untied: the input embedding
    tied = copy.deepcopy(talking.model(seed=1))
    tied.lm_head.weight = tied.model.embed_tokens.weight
    assert weights_read(tied) == total - 97 * 32  # the shared table once, as output layer
    cut = trimmed(talking.model(), list(range(10)))
    assert weights_read(cut) == total - 97 * 32 - 87 * 32
    assert weights_read(trimmed(tied, list(range(10)))) == total - 97 * 32 - 87 * 32


def test_packed_layers_count_as_what_they_hold():
    loaded = load(str(demo_model()), dtype="float32", pack=False)
    plain = weights_read(loaded.target.model)
    assert pack_linears(loaded.target.model) > 0
    assert weights_read(loaded.target.model) == plain


def test_memory_bound_speed_up_at_its_ends():
    gamma = 5
    assert mbsu(gamma + 1, 1e-12, gamma) == pytest.approx(gamma + 1)
    assert all(mbsu(1.0, c, gamma) < 1 for c in (1e-3, 0.1, 1.0))
    # c tau / (g + c) with c = target / draft is the same
    assert mbsu(2.0, 0.25, 3) == pytest.approx(4 * 2.0 / (3 + 4))
    # break-even of a trimmed head: tau' / tau = (c' g + 1) / (c g + 1)
    c, smaller = 0.098, 0.067
    even = 2.0 * (smaller * gamma + 1) / (c * gamma + 1)
    assert mbsu(even, smaller, gamma) == pytest.approx(mbsu(2.0, c, gamma))


def test_independent_acceptance_gives_the_closed_form():
    """tau = (1 - alpha^(g+1)) / (1 - alpha), with the figures defined as above."""
    generator = torch.Generator().manual_seed(0)
    alpha, gamma, steps = 0.7, 4, 40_000
    coins = torch.rand(steps, gamma, generator=generator) < alpha
    stood = coins.long().cumprod(1).sum(1)
    tau = 1 + float(stood.double().mean())
    assert tau == pytest.approx((1 - alpha ** (gamma + 1)) / (1 - alpha), abs=0.02)
    refused = int((stood < gamma).sum())
    assert int(stood.sum()) / (int(stood.sum()) + refused) == pytest.approx(alpha, abs=0.005)


def test_what_cannot_be_is_said_before_any_work(near, tmp_path):
    with pytest.raises(ConfigError, match="method: 'prompt-lookup'"):
        candidates([near], parse_methods("prompt-lookup")[1:])
    with pytest.raises(ConfigError, match="97"):
        run([tiny.small_model(98)])
    with pytest.raises(ConfigError, match=r"lm\.model"):
        run([str(tmp_path / "missing")])
    with pytest.raises(CapabilityError):
        run([near], "lm:verifier=recursive")


def test_folders_are_told_apart_by_as_little_as_needed(tmp_path):
    for name in ("one/drafter", "two/drafter", "three"):
        (tmp_path / name).mkdir(parents=True)
    one, two, three = (tmp_path / n for n in ("one/drafter", "two/drafter", "three"))
    assert names_of([one, three]) == ["drafter", "three"]
    assert names_of([one, str(two)]) == ["one/drafter", "two/drafter"]
    assert names_of([None]) == ["drafter"]
    assert len(set(names_of([one, one]))) == 2


def test_a_trimmed_folder_reads_less_and_its_alpha_is_over_the_whole_vocabulary(near, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        export(near.model, talking.tokenizer(), folder, {"recipe": "none"})
    Trim.of(np.arange(97)[::-1], 40, [letters.EOS]).write(part)
    full, cut = run([whole, part], "lm-sampled", depths=[3], sampling=DRAWN).figures
    assert cut.cost == pytest.approx(full.cost - 57 * 32 / weights_read(talking.model()))
    assert 0 < cut.alpha < full.alpha  # what was dropped counts as never accepted
