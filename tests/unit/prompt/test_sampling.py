"""Logits to probabilities: against transformers' generate, and the laws of the draw."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation import logits_process as hf

from foretoken.errors import ConfigError, ForetokenError
from foretoken.prompt.chance import Coins, PositionRandom, draw
from foretoken.prompt.processors import build_chain
from foretoken.prompt.sampling import TargetRows, Warper, argmax_rows
from foretoken.tree import DraftTree
from foretoken.types import Sampling

VOCAB, EOS, NEW = 40, 2, 20
PROMPT = [5, 9, 17, 3, 9, 17]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(37)  # its text repeats itself and does not end
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128, initializer_range=0.4,
        bos_token_id=1, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def coins(seed: int = 0, root: int = 0) -> Coins:
    return Coins(PositionRandom(seed), root)


def decode(model, warper: Warper, prompt: list[int], new: int = NEW) -> list[int]:
    tokens = list(prompt)
    with torch.inference_mode():
        while len(tokens) < len(prompt) + new:
            logits = model(torch.tensor([tokens])).logits[0, -1:]
            token = TargetRows(logits, DraftTree(), tokens, warper).token(-1, coins())
            tokens.append(token)
            if token == EOS:
                break
    return tokens[len(prompt) :]


def reference(model, prompt: list[int], new: int = NEW, **kwargs) -> list[int]:
    config = GenerationConfig(
        max_new_tokens=new, do_sample=False, eos_token_id=EOS, pad_token_id=0, bos_token_id=1
    )
    processors = kwargs.pop("logits_processor", None)
    config.update(**kwargs)
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=config,
        logits_processor=processors,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


def bias_config(bias: dict[int, float]) -> list:
    return [[[token], value] for token, value in bias.items()]


def first_tokens(model) -> list[int]:
    return reference(model, PROMPT)


GREEDY = [
    ({"repetition_penalty": 1.6}, {}),
    ({"repetition_penalty": 0.7}, {}),
    ({"no_repeat_ngram_size": 1}, {}),
    ({"no_repeat_ngram_size": 2}, {}),
    ({"no_repeat_ngram_size": 3}, {}),
    ({"forced_eos_token_id": EOS}, {}),
    ({"forced_eos_token_id": 7}, {}),
    ({"min_new_tokens": 15, "logit_bias": {EOS: 6.0}}, {"sequence_bias": bias_config({EOS: 6.0})}),
    ({"logit_bias": {4: 3.5, 6: -2.0}}, {"sequence_bias": bias_config({4: 3.5, 6: -2.0})}),
    ({"suppress_tokens": (1, 4, 8, 16, 20, 21, 22, 30)}, {}),
    (
        {
            "repetition_penalty": 1.3,
            "no_repeat_ngram_size": 2,
            "logit_bias": {4: 2.0},
            "suppress_tokens": (11, 12),
            "min_new_tokens": 5,
            "forced_eos_token_id": EOS,
        },
        {"sequence_bias": bias_config({4: 2.0})},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), GREEDY, ids=lambda x: ",".join(map(str, x)) or "-")
def test_greedy_equals_generate(model, ours, theirs) -> None:
    kwargs = {k: list(v) if isinstance(v, tuple) else v for k, v in ours.items()} | theirs
    kwargs.pop("logit_bias", None)
    warper = Warper(Sampling(**ours), PROMPT, (EOS,), NEW, VOCAB)
    assert not warper.trivial
    got = decode(model, warper, PROMPT)
    assert got == reference(model, PROMPT, **kwargs)
    assert got != first_tokens(model), "the processors changed nothing: the test shows nothing"


def test_bans_of_what_greedy_would_write_equal_generate(model) -> None:
    plain = first_tokens(model)
    for name, value in (
        ("suppress_tokens", plain[:2]),
        ("begin_suppress_tokens", plain[:1]),
        ("bad_words_ids", [plain[:1], plain[3:5]]),
        ("bad_words_ids", [plain[1:4], [EOS]]),
    ):
        ours = [tuple(x) for x in value] if name == "bad_words_ids" else value
        warper = Warper(Sampling(**{name: tuple(ours)}), PROMPT, (EOS,), NEW, VOCAB)
        got = decode(model, warper, PROMPT)
        assert got == reference(model, PROMPT, **{name: value}), name
        assert got != plain, name


def test_forced_bos_acts_after_a_prompt_of_one_token_as_in_generate(model) -> None:
    for prompt in ([1], PROMPT):
        sampling = Sampling(forced_bos_token_id=7, begin_suppress_tokens=(3, 9, 33))
        got = decode(model, Warper(sampling, prompt, (EOS,), NEW, VOCAB), prompt)
        assert got == reference(
            model, prompt, forced_bos_token_id=7, begin_suppress_tokens=[3, 9, 33]
        )
        assert (got[0] == 7) == (prompt == [1])


def test_user_processors_equal_generate(model) -> None:
    def shift(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, int(input_ids[0, -1])] -= 5.0  # in place, and reading the history
        return scores

    own = hf.LogitsProcessorList([shift, hf.RepetitionPenaltyLogitsProcessor(1.9)])
    # the user's repetition penalty takes the place of the configured one
    sampling = Sampling(processors=(own,), repetition_penalty=1.1)
    got = decode(model, Warper(sampling, PROMPT, (EOS,), NEW, VOCAB), PROMPT)
    assert got == reference(model, PROMPT, logits_processor=own, repetition_penalty=1.1)
    only_shift = Warper(Sampling(processors=(shift,)), PROMPT, (EOS,), NEW, VOCAB)
    assert got != decode(model, only_shift, PROMPT)


def test_sampling_only_warpers_do_nothing_in_greedy() -> None:
    sampling = Sampling(
        top_k=3, top_p=0.5, min_p=0.3, typical_p=0.5, epsilon_cutoff=0.1, eta_cutoff=0.1
    )
    assert Warper(sampling, PROMPT, (EOS,), NEW, VOCAB).trivial


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"typical_p": 0.6},
        {"epsilon_cutoff": 0.02},
        {"eta_cutoff": 0.05},
        {"temperature": 1.3, "top_k": 9, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2},
        {"top_k": 12, "typical_p": 0.7, "epsilon_cutoff": 0.03, "eta_cutoff": 0.04},
    ],
    ids=str,
)
def test_sampling_scores_equal_those_of_generate(model, fields) -> None:
    fields = {"temperature": 1.0} | fields
    config = GenerationConfig(
        max_new_tokens=6, do_sample=True, eos_token_id=EOS, pad_token_id=0, top_k=0,
        output_scores=True, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    config.update(**{"top_k": 0} | fields)
    torch.manual_seed(0)
    ids = torch.tensor([PROMPT])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    warper = Warper(Sampling(**fields), PROMPT, (EOS,), 6, VOCAB)
    sequence = out.sequences[0].tolist()
    for i, (raw, scores) in enumerate(zip(out.logits, out.scores, strict=True)):
        row = warper.warp(raw[0], sequence[: len(PROMPT) + i])
        assert torch.equal(row.isinf(), scores[0].isinf())
        assert torch.allclose(row, scores[0], atol=1e-5)


def test_presence_and_frequency_count_the_output_alone() -> None:
    sampling = Sampling(temperature=1.0, presence_penalty=0.5, frequency_penalty=0.25)
    warper = Warper(sampling, [1, 2], (), NEW, 6)
    row = warper.warp(torch.zeros(6), [1, 2, 3, 3, 4])
    assert row.tolist() == [0.0, 0.0, 0.0, -1.0, -0.75, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_warp_leaves_the_row_alone_and_returns_float32(dtype) -> None:
    logits = torch.randn(VOCAB).to(dtype)
    before = logits.clone()
    for sampling in (
        Sampling(temperature=0.7, top_k=3),
        Sampling(),
        Sampling(suppress_tokens=(3,)),
    ):
        row = Warper(sampling, PROMPT, (), NEW, VOCAB).warp(logits, PROMPT)
        assert row.dtype == torch.float32
        row.zero_()
        assert torch.equal(logits, before)


def test_each_node_has_its_own_history() -> None:
    tree = DraftTree([3, 4, 5], [-1, -1, 1])
    logits = torch.zeros(4, 6)
    warper = Warper(Sampling(temperature=1.0, frequency_penalty=1.0), [0], (), NEW, 6)
    rows = TargetRows(logits, tree, [0, 2], warper)
    expected = {-1: [2], 0: [2, 3], 1: [2, 4], 2: [2, 4, 5]}
    for node, seen in expected.items():
        want = torch.tensor([-1.0 if t in seen else 0.0 for t in range(6)]).softmax(-1)
        assert torch.allclose(rows.probs(node), want)


def test_rows_do_not_move_when_commit_appends() -> None:
    tokens = [0, 2]
    warper = Warper(Sampling(temperature=1.0, frequency_penalty=9.0), [0], (), NEW, 6)
    rows = TargetRows(torch.zeros(1, 6), DraftTree(), tokens, warper)
    tokens.append(5)
    assert rows.probs(-1)[5] > rows.probs(-1)[2]
    assert rows.position(-1) == 2


def test_rows_are_processed_when_reached_and_once() -> None:
    calls: list[list[int]] = []

    def spy(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        calls.append(input_ids[0].tolist())
        return scores

    tree = DraftTree.chain([1, 2, 3])
    warper = Warper(Sampling(processors=(spy,)), [0], (), NEW, 6)
    rows = TargetRows(torch.randn(4, 6), tree, [0], warper)
    rows.token(0, coins())
    rows.probs(0)
    rows.token(0, coins())
    assert calls == [[0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ties_go_to_the_lowest_id(dtype) -> None:
    logits = torch.zeros(3, 5000, dtype=dtype)
    logits[1, [70, 4000]] = 3.0
    logits[2, 4999] = 1.0
    assert argmax_rows(logits)[0] == [0, 70, 4999]
    tree = DraftTree.chain([1, 1])
    for fields in ({}, {"suppress_tokens": (1,)}):
        rows = TargetRows(logits, tree, [0], Warper(Sampling(**fields), [0], (), NEW, 5000))
        assert [rows.token(n, coins()) for n in (-1, 0, 1)] == [0, 70, 4999]


def test_temperature_zero_is_a_point_mass() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0]])
    for fields, token in (({}, 1), ({"logit_bias": {2: 1.0}}, 2), ({"suppress_tokens": (1,)}, 2)):
        rows = TargetRows(logits, DraftTree(), [0], Warper(Sampling(**fields), [0], (), NEW, 3))
        assert rows.probs(-1).tolist() == [float(i == token) for i in range(3)]
        assert rows.probs(-1).dtype == torch.float32


def test_logprobs_are_the_raw_targets() -> None:
    logits = torch.randn(3, 50)
    warper = Warper(Sampling(temperature=0.3, top_k=2), [0], (), NEW, 50)
    rows = TargetRows(logits, DraftTree.chain([4, 5]), [0], warper)
    want = logits.log_softmax(-1)
    assert rows.logprob(1, 7) == pytest.approx(float(want[2, 7]), abs=1e-6)
    assert rows.logprobs([-1, 0], [4, 5]) == pytest.approx([float(want[0, 4]), float(want[1, 5])])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_rows_without_a_token_are_refused_when_reached(temperature, bad) -> None:
    logits = torch.zeros(2, 5)
    logits[1] = bad
    warper = Warper(Sampling(temperature=temperature), [0], (), NEW, 5)
    rows = TargetRows(logits, DraftTree.chain([1]), [0], warper)
    rows.token(-1, coins())
    with pytest.raises(ForetokenError, match="NaN" if math.isnan(bad) else "banned"):
        rows.token(0, coins())


def test_one_nan_is_enough_and_infinity_cannot_be_drawn() -> None:
    for temperature in (0.0, 1.0):
        warper = Warper(Sampling(temperature=temperature), [0], (), NEW, 5)
        with pytest.raises(ForetokenError, match="NaN"):
            warper.warp(torch.tensor([0.0, math.nan, 2.0, 0.0, 0.0]), [0])
    with pytest.raises(ForetokenError, match="infinite"):
        warper.warp(torch.tensor([0.0, math.inf, 2.0, 0.0, 0.0]), [0])
    with pytest.raises(ForetokenError, match="banned"):
        Warper(Sampling(suppress_tokens=tuple(range(5))), [0], (), NEW, 5).warp(torch.zeros(5), [0])


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"bad_words_ids": ((3, 99),)}, "bad_words_ids"),
        ({"bad_words_ids": ((),)}, "bad_words_ids"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: math.inf}}, "logit_bias"),
        ({"suppress_tokens": (40,)}, "suppress_tokens"),
        ({"begin_suppress_tokens": (40,)}, "begin_suppress_tokens"),
        ({"forced_bos_token_id": 40}, "forced_bos_token_id"),
        ({"forced_eos_token_id": 40}, "forced_eos_token_id"),
        ({"processors": (3,)}, "processors"),
    ],
)
def test_impossible_fields_are_named(fields, name) -> None:
    with pytest.raises(ConfigError) as caught:
        Warper(Sampling(**fields), PROMPT, (EOS,), NEW, VOCAB)
    assert caught.value.field == name


def test_only_what_reads_the_history_gets_it() -> None:
    chain = build_chain(Sampling(temperature=0.5, top_p=0.9, min_new_tokens=3), 4, (EOS,), NEW)
    assert not chain.reads_tokens
    for fields in (
        {"repetition_penalty": 1.1}, {"presence_penalty": 1.0}, {"frequency_penalty": 1.0},
        {"no_repeat_ngram_size": 2}, {"bad_words_ids": ((1, 2),)}, {"processors": (print,)},
    ):  # fmt: skip
        assert build_chain(Sampling(**fields), 4, (EOS,), NEW).reads_tokens, fields


def test_uniform_is_a_pure_function_and_uniform() -> None:
    random = PositionRandom(7)
    forward = [random.uniform(i) for i in range(4000)]
    assert [PositionRandom(7).uniform(i) for i in reversed(range(4000))] == forward[::-1]
    assert all(0.0 <= u < 1.0 for u in forward)
    assert chisquare(np.histogram(forward, bins=20, range=(0, 1))[0]).pvalue > 1e-4
    others = [[random.uniform(i, stream=1) for i in range(4000)]]
    others.append([PositionRandom(8).uniform(i) for i in range(4000)])
    others.append(forward[1:] + forward[:1])
    for other in others:
        assert abs(np.corrcoef(forward, other)[0, 1]) < 0.07  # 4.4 standard errors


def test_streams_seeds_and_positions_do_not_run_together() -> None:
    keys = [(s, p, t) for s in (0, 1, 11, 111) for p in (0, 1, 11, 111) for t in (0, 1, 11)]
    assert len({PositionRandom(s).uniform(p, t) for s, p, t in keys}) == len(keys)


def test_a_drafters_generator_is_tied_to_its_place_and_no_coin() -> None:
    def numbers(seed: int, position: int) -> list[float]:
        return torch.rand(50, generator=PositionRandom(seed).generator(position)).tolist()

    assert numbers(1, 5) == numbers(1, 5)
    others = [numbers(1, 5), numbers(1, 6), numbers(2, 5), numbers(15, 5)]
    assert len({number for drawn in others for number in drawn}) == 200


def test_acceptance_coins_are_fair_and_never_meet_again() -> None:
    """The next step judges later places of this one anew: its coins must be other ones."""
    kept = []
    for root in range(2000):
        chance = coins(3, root)
        kept.append([chance.accept(0.3) for _ in range(3)])
    share = np.mean(kept, axis=0)
    assert np.abs(share - 0.3).max() < 0.045  # 4.4 standard errors
    flat = np.array(kept, dtype=float)
    for first, second in ((flat[:, 0], flat[:, 1]), (flat[1:, 0], flat[:-1, 1])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    again = coins(3, 7)
    assert [again.accept(0.3) for _ in range(3)] == kept[7]


def test_certain_and_impossible_chances() -> None:
    chance = coins(4)
    assert not any(chance.accept(p) for p in [0.0, -1.0, -math.inf] * 50)
    assert all(chance.accept(p) for p in [1.0, 2.0, math.inf] * 50)
    assert not any(chance.accept(math.nan) for _ in range(50))


def test_the_token_of_a_place_does_not_depend_on_the_coins_spent() -> None:
    probs, fresh, spent = torch.ones(50), coins(5, 3), coins(5, 1)
    for _ in range(4):
        spent.accept(0.5)
    drawn = [fresh.token(probs, place) for place in range(40)]
    assert [spent.token(probs, place) for place in range(40)] == drawn
    assert [draw(probs, PositionRandom(5).uniform(place)) for place in range(40)] == drawn
    assert len(set(drawn)) > 10


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-30, 1.0)), min_size=1, max_size=700),
    st.one_of(st.just(0.0), st.just(1.0 - 2.0**-53), st.floats(0.0, 1.0, exclude_max=True)),
)
def test_draw_inverts_the_distribution(weights, u) -> None:
    probs = torch.tensor(weights, dtype=torch.float32)
    mass = probs.double().numpy()
    if mass.sum() == 0.0:
        with pytest.raises(ForetokenError):
            draw(probs, u)
        return
    token = draw(probs, u)
    assert mass[token] > 0.0
    total = mass.sum()
    assert mass[:token].sum() <= u * total * (1 + 1e-9) + 1e-30
    assert mass[: token + 1].sum() >= u * total * (1 - 1e-9)


def test_draw_refuses_nan() -> None:
    with pytest.raises(ForetokenError):
        draw(torch.tensor([0.5, math.nan]), 0.2)


def test_draw_has_the_distribution_over_a_large_vocabulary() -> None:
    torch.manual_seed(0)
    probs = torch.randn(131_077).softmax(-1)  # 256 does not divide it
    random = PositionRandom(3)
    drawn = np.array([draw(probs, random.uniform(i)) for i in range(1500)])
    ends = np.cumsum(probs.double().numpy())
    quantiles = ends[drawn] / ends[-1]
    assert chisquare(np.histogram(quantiles, bins=10, range=(0, 1))[0]).pvalue > 1e-4
    for u in (0.1, 0.5, 0.9999999):
        assert draw(probs, u) == int(np.searchsorted(ends, u * ends[-1], side="right"))


def test_drawn_text_is_the_same_with_and_without_a_draft(model) -> None:
    sampling = Sampling(temperature=0.8, top_k=10, repetition_penalty=1.2, seed=5)
    warper = Warper(sampling, PROMPT, (), NEW, VOCAB)
    plain = list(PROMPT)
    with torch.inference_mode():
        for _ in range(8):
            logits = model(torch.tensor([plain])).logits[0, -1:]
            rows = TargetRows(logits, DraftTree(), plain, warper)
            plain.append(rows.token(-1, coins(5, len(plain))))
        text = plain[len(PROMPT) :]
        tree = DraftTree.chain(text[:-1])
        scores = model(torch.tensor([plain[:-1]])).logits[0, len(PROMPT) - 1 :]
    rows = TargetRows(scores, tree, PROMPT, warper)
    chance = coins(5, len(PROMPT))  # one verdict, where plain decoding needed eight
    assert [rows.token(node, chance) for node in range(-1, len(tree))] == text
    assert len(set(text)) > 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_on_a_gpu_give_the_tokens_of_the_cpu() -> None:
    torch.manual_seed(0)
    tree, logits = DraftTree.chain([4, 5, 6]), torch.randn(4, VOCAB)
    every = {
        "repetition_penalty": 1.2, "presence_penalty": 0.5, "no_repeat_ngram_size": 2,
        "bad_words_ids": ((3,), (4, 5)), "logit_bias": {7: 1.0}, "suppress_tokens": (8,),
        "begin_suppress_tokens": (9,), "forced_eos_token_id": EOS, "min_new_tokens": 5,
    }  # fmt: skip
    warpers = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "eta_cutoff": 0.001}
    for fields in ({}, every, {"temperature": 1.0}, every | warpers):
        warper = Warper(Sampling(**fields), PROMPT, (EOS,), NEW, VOCAB)
        drawn = [
            [rows.token(n, coins(1)) for n in range(-1, 3)]
            for rows in (
                TargetRows(logits, tree, PROMPT, warper),
                TargetRows(logits.cuda(), tree, PROMPT, warper),
            )
        ]
        assert drawn[0] == drawn[1], fields
