"""The same `generate` calls with and without foretoken: tokens, scores, streams, errors."""

import copy
import gc
import weakref

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList
from transformers.generation.stopping_criteria import (
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

import foretoken
from foretoken.engine import shared
from foretoken.errors import CapabilityError, ConfigError
from tests import letters, tiny

FAMILIES = ["llama", "qwen2", "gpt2"]
NEW = 16
PAD = 0


@pytest.fixture(scope="module")
def models():
    """Copies, so that what a test finds unchanged was really in our hands."""
    return {name: copy.deepcopy(tiny.model(name)) for name in FAMILIES}


@pytest.fixture(scope="module")
def llama(models):
    return models["llama"]


def padded(lengths=(9, 4, 14), seed=3):
    """A batch padded on the left; tokens from 1, so that none looks like padding."""
    rows = [[t % 95 + 1 for t in tiny.prompt(seed + i, n)] for i, n in enumerate(lengths)]
    width = max(lengths)
    ids = torch.tensor([[PAD] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    return {"input_ids": ids, "attention_mask": mask}


_known = {}


def reference(model, **call):
    """transformers' own answer, computed once."""
    key = (id(model), repr(call))
    if key not in _known:
        _known[key] = model.generate(**call)
    return _known[key]


def ours(model, method="prompt-lookup", policy="fixed", **call):
    return model.generate(custom_generate=foretoken.hf, method=method, policy=policy, **call)


_eos = {}


def some_eos(model, **call):
    """Tokens that the greedy text really contains, at different places in different rows."""
    key = (id(model), repr(call))
    if key not in _eos:
        batch = padded()
        text = model.generate(**batch, max_new_tokens=12, **call)
        text = text[:, batch["input_ids"].shape[1] :]
        _eos[key] = [int(text[0, 5]), int(text[1, 11])]
    return _eos[key]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["aded", "prompt-lookup", "random", "plain"])
def test_greedy_batches_with_padding(models, family, method):
    model, batch = models[family], padded()
    eos = some_eos(model)
    for ends in ({}, {"eos_token_id": eos[0]}, {"eos_token_id": eos}):
        call = {**batch, "max_new_tokens": NEW, **ends}
        expected = reference(model, **call)
        for _ in range(2 if method == "aded" else 1):  # the second time, it has learnt
            assert torch.equal(ours(model, method, **call), expected)


def test_drafts_are_really_accepted(llama):
    call = {**padded(), "max_new_tokens": NEW, "return_dict_in_generate": True}
    ours(llama, "aded", **call)
    again = ours(llama, "aded", **call)
    assert sum(s.tokens for s in again.stats) > 1.5 * sum(s.steps for s in again.stats)
    assert again.past_key_values is None


def allowed(row, ids):
    """Depends on the row and on the padded length."""
    return [t for t in range(1, 96) if (t + len(ids) + row) % 3]


CONFIGS = {
    "repetition_penalty": {"repetition_penalty": 1.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[5], [7, 8], [20, 21, 22]]},
    "min_new_tokens": {"min_new_tokens": 11},
    "min_length": {"min_length": 26},
    "max_length": {"max_length": 26, "max_new_tokens": None},
    "suppress_tokens": {"suppress_tokens": list(range(10, 40))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(40, 90))},
    "forced_eos_token_id": {"forced_eos_token_id": 33},
    "forced_bos_token_id": {"forced_bos_token_id": 44},
    "sequence_bias": {"sequence_bias": [[[4], 3.0], [[6, 7], -5.0]]},
    "exponential_decay": {"exponential_decay_length_penalty": (4, 1.3)},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.5},
    "encoder_no_repeat": {"encoder_no_repeat_ngram_size": 2},
    "guidance_scale": {"guidance_scale": 1.5},
    "renormalize": {"renormalize_logits": True},
    "remove_invalid": {"remove_invalid_values": True},
    "max_time": {"max_time": 1000.0},
    "prefix_allowed": {"prefix_allowed_tokens_fn": allowed},
    "use_cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "contrastive off": {"penalty_alpha": 0.0, "top_k": 4},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_configs(llama, name):
    for eos in (None, some_eos(llama)):
        if eos is None and name == "exponential_decay":
            continue  # it needs an end-of-text token
        call = {**padded(), "max_new_tokens": NEW, "eos_token_id": eos, **CONFIGS[name]}
        expected = llama.generate(**call)
        method = "random" if eos is None else "prompt-lookup"
        assert torch.equal(ours(llama, method, **call), expected)


def test_a_generation_config_object(llama):
    config = GenerationConfig(max_new_tokens=NEW, repetition_penalty=1.2, pad_token_id=PAD)
    before = config.to_dict()
    expected = llama.generate(**padded(), generation_config=config)
    assert torch.equal(ours(llama, **padded(), generation_config=config), expected)
    assert config.to_dict() == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rules", [{}, {"repetition_penalty": 1.3}])
def test_scores_and_logits(models, family, rules):
    model = models[family]
    call = {**padded(), "max_new_tokens": NEW, "eos_token_id": some_eos(model, **rules), **rules}
    call |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    expected, got = model.generate(**call), ours(model, "random", **call)
    width = call["input_ids"].shape[1]
    assert torch.equal(got.sequences, expected.sequences)
    assert len(got.scores) == len(got.logits) == len(expected.scores)
    for i, (mine, theirs) in enumerate(
        zip((*got.scores, *got.logits), (*expected.scores, *expected.logits), strict=True)
    ):
        at = i % len(got.scores)
        if at == 0:
            ended = torch.zeros(3, dtype=torch.bool)
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine[~ended], theirs[~ended], atol=1e-4, rtol=0)
        assert (mine[ended].argmax(-1) == PAD).all()
        assert (mine[ended].softmax(-1).amax(-1) == 1).all()
        ended |= torch.isin(got.sequences[:, width + at], torch.tensor(call["eos_token_id"]))
    mine = model.compute_transition_scores(got.sequences, got.scores, normalize_logits=True)
    theirs = model.compute_transition_scores(
        expected.sequences, expected.scores, normalize_logits=True
    )
    real = got.sequences[:, width:] != PAD
    torch.testing.assert_close(mine[real], theirs[real], atol=1e-4, rtol=0)


class Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.got, self.ended = [], 0

    def put(self, value):
        assert value.device.type == "cpu"
        self.got.append(value.tolist())

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("lengths", [(9,), (9, 4, 14)])
def test_streamers(llama, lengths):
    call = {**padded(lengths), "max_new_tokens": NEW, "eos_token_id": some_eos(llama)}
    theirs, mine = Recorder(), Recorder()
    llama.generate(**call, streamer=theirs)
    ours(llama, "random", **call, streamer=mine)
    assert mine.got == theirs.got
    assert mine.ended == theirs.ended == 1

    wrapped = Recorder()  # through a callable of the user's

    def decode(model, *args, **kwargs):
        return foretoken.hf(model, *args, method="random", policy="fixed", **kwargs)

    llama.generate(**call, streamer=wrapped, custom_generate=decode)
    assert wrapped.got == theirs.got


class EveryThird(LogitsProcessor):
    """Depends on the padded length."""

    def __call__(self, input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0]
        out = scores.clone()
        out[:, input_ids.shape[1] % 3 :: 3] -= 1.0
        return out


class Seen(StoppingCriteria):
    """Stops when a token was written twice in a row of the output; counts its calls."""

    def __init__(self, width):
        self.width, self.calls = width, 0

    def __call__(self, input_ids, scores, **kwargs):
        self.calls += 1
        assert scores is None
        out = input_ids[:, self.width :]
        return torch.tensor([len(set(row)) < len(row) for row in out.tolist()])


def test_own_processors_and_criteria(llama):
    batch = padded()
    width = batch["input_ids"].shape[1]

    def call(criterion):
        return {
            **batch,
            "max_new_tokens": NEW,
            "eos_token_id": 96,
            "logits_processor": LogitsProcessorList([EveryThird()]),
            "stopping_criteria": StoppingCriteriaList([criterion]),
        }

    theirs, mine = Seen(width), Seen(width)
    expected = llama.generate(**call(theirs))
    assert width + 2 < expected.shape[1] < width + NEW, "the criterion must stop something"
    for method in ("random", "aded", "aded"):
        mine.calls = 0
        got = ours(llama, method, **call(mine))
        assert torch.equal(got, expected)
        written = (got[:, width:] != PAD).sum()
        assert mine.calls == written


def test_a_criterion_sees_the_scores_if_they_are_kept(llama):
    seen = []

    class Look(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            seen.append((input_ids.shape[1], [tuple(s.shape) for s in scores]))
            return torch.zeros(len(input_ids), dtype=torch.bool)

    call = {**padded((6,)), "max_new_tokens": 4}
    call["stopping_criteria"] = StoppingCriteriaList([Look()])
    call |= {"return_dict_in_generate": True, "output_scores": True}
    llama.generate(**call)
    theirs = list(seen)
    seen.clear()
    ours(llama, "random", **call)
    assert seen == theirs


def test_stop_strings_with_a_tokenizer(llama):
    text = letters.tokenizer()
    batch = padded((9,))
    greedy = llama.generate(**batch, max_new_tokens=NEW)[0, 9:]
    stop = text.decode(greedy[6:8])
    expected = llama.generate(**batch, max_new_tokens=NEW, stop_strings=[stop], tokenizer=text)
    assert expected.shape[1] < 9 + NEW
    more = {"method": "random", "policy": "fixed"}
    call = {**batch, "max_new_tokens": NEW}
    got = foretoken.hf.generate(llama, **call, stop_strings=[stop], tokenizer=text, **more)
    assert torch.equal(got, expected)
    config = GenerationConfig(max_new_tokens=NEW, stop_strings=[stop], pad_token_id=PAD)
    got = foretoken.hf.generate(llama, **batch, generation_config=config, tokenizer=text, **more)
    assert torch.equal(got, expected)
    assert config.stop_strings == [stop]
    criteria = StoppingCriteriaList([StopStringCriteria(tokenizer=text, stop_strings=[stop])])
    assert torch.equal(ours(llama, **call, stopping_criteria=criteria), expected)
    assert torch.equal(foretoken.hf.generate(llama, **call, **more), llama.generate(**call)), (
        "nothing to stop at"
    )


def test_a_length_criterion_of_the_users(llama):
    for length in (5, 20):  # 5 is shorter than the prompt: transformers writes one token
        call = {**padded((9,)), "max_new_tokens": NEW}
        call["stopping_criteria"] = StoppingCriteriaList([MaxLengthCriteria(length)])
        assert torch.equal(ours(llama, **call), llama.generate(**call))


def test_stops_inside_an_accepted_run(llama):
    batch = padded((9,))
    greedy = llama.generate(**batch, max_new_tokens=NEW)[0, 9:].tolist()
    answer = {"method_options": {"continuation": greedy}}
    for eos in (None, greedy[6], greedy[12]):
        call = {**batch, "max_new_tokens": NEW, "eos_token_id": eos}
        call["return_dict_in_generate"] = True
        got = ours(llama, "oracle", **call, **answer)
        assert torch.equal(got.sequences, llama.generate(**call).sequences)
        assert got.stats[0].steps <= 3, "the whole text was drafted"


def test_nobody_is_asked_about_tokens_behind_the_end(llama):
    batch = padded((9,))
    greedy = llama.generate(**batch, max_new_tokens=NEW)[0, 9:].tolist()
    eos = greedy[6]

    def never_after_the_end(row, ids):
        assert eos not in ids[9:].tolist()
        return list(range(97))

    call = {**batch, "max_new_tokens": NEW, "eos_token_id": eos}
    got = ours(llama, "oracle", **call, method_options={"continuation": greedy},
               prefix_allowed_tokens_fn=never_after_the_end)  # fmt: skip
    assert torch.equal(got, llama.generate(**call))


def test_without_an_end_rows_that_a_criterion_ended_are_padded(llama):
    batch = padded()
    width = batch["input_ids"].shape[1]
    call = {**batch, "max_new_tokens": NEW}
    call["stopping_criteria"] = StoppingCriteriaList([Seen(width)])
    got, theirs = ours(llama, **call), llama.generate(**call)
    assert got.shape == theirs.shape
    real = got[:, width:] != PAD
    assert torch.equal(got[:, width:][real], theirs[:, width:][real])
    assert not real.all()
    model, config = copy.deepcopy(llama), GenerationConfig(max_new_tokens=NEW)
    model.generation_config, model.config.pad_token_id = GenerationConfig(), None
    del call["max_new_tokens"]
    with pytest.raises(ConfigError, match="pad_token_id"):
        ours(model, **call, generation_config=config)


# sampling


def test_seeds_make_calls_repeatable_whatever_is_drafted(llama):
    call = {**padded(), "max_new_tokens": NEW, "do_sample": True, "temperature": 0.8, "top_k": 20}
    texts = []
    for method in ("plain", "random", "aded", "aded"):
        torch.manual_seed(5)
        texts.append(ours(llama, method, **call))
        after = torch.rand(1)
    assert all(torch.equal(text, texts[0]) for text in texts)
    torch.manual_seed(5)
    ours(llama, "plain", **call)
    assert torch.equal(torch.rand(1), after), "one draw a call"
    assert not torch.equal(ours(llama, "plain", **call), texts[0]), "the generator moved on"


def test_samples_of_one_prompt_differ_and_keep_their_order(llama):
    call = {**padded((9, 4)), "max_new_tokens": 12, "do_sample": True, "num_return_sequences": 3}
    got = ours(llama, "random", **call)
    assert got.shape == (6, 9 + 12)
    assert torch.equal(got[:, :9], call["input_ids"].repeat_interleave(3, dim=0))
    assert len({tuple(row) for row in got.tolist()}) == 6


@pytest.mark.parametrize("method", ["random", "aded"])
def test_sampled_tokens_have_transformers_distribution(method):
    """Chi-square of the first two tokens against the exact probabilities of the processed rows.

    2,000 samples, vocabulary 6. False-alarm rate 1e-4 per method; the seed is fixed, so that a
    pass stays a pass. The same statistic must reject another temperature.
    """
    model, n = copy.deepcopy(tiny.model("six")), 2000
    config = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "repetition_penalty": 1.2}
    ids = torch.tensor([[1, 4, 2, 1, 4]])
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **config}
    torch.manual_seed(11)
    more = {"top_k": 0, "max_new_tokens": 2, "num_return_sequences": 100}
    got = torch.cat([ours(model, method, **call, **more) for _ in range(n // 100)])
    pairs = got[:, 5] * 6 + got[:, 6]
    observed = torch.bincount(pairs, minlength=36).double()

    def exact(temperature):
        probs = torch.zeros(36, dtype=torch.double)
        rules = {**call, "temperature": temperature, "top_k": 0, "max_new_tokens": 1,
                 "output_scores": True, "return_dict_in_generate": True}  # fmt: skip
        first = model.generate(**rules).scores[0][0].double().softmax(-1)
        for a in range(6):
            if first[a] == 0:
                continue
            ids = torch.tensor([[1, 4, 2, 1, 4, a]])
            rules |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            then = model.generate(**rules).scores[0][0].double().softmax(-1)
            probs[6 * a : 6 * a + 6] = first[a] * then
        return probs

    def p_value(probs):
        assert (observed[probs == 0] == 0).all() or probs is not right
        some = probs * n >= 5
        expected = torch.cat((probs[some] * n, probs[~some].sum()[None] * n + 1e-9))
        seen = torch.cat((observed[some], observed[~some].sum()[None] + 1e-9))
        return chisquare(seen.numpy(), (expected * seen.sum() / expected.sum()).numpy()).pvalue

    right = exact(0.7)
    assert (right > 0).sum() > 8, "a distribution worth testing"
    assert p_value(right) > 1e-4
    assert p_value(exact(1.0)) < 1e-4, "the test can fail"


# what is refused


REFUSED = {
    "num_beams": {"num_beams": 2},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": {"dola_layers": "low"},
    "output_attentions": {"output_attentions": True, "return_dict_in_generate": True},
    "output_hidden_states": {"output_hidden_states": True, "return_dict_in_generate": True},
    "cache_implementation": {"cache_implementation": "offloaded"},
    "position_ids": {"position_ids": torch.arange(3, 12)[None]},
    "inputs_embeds": {"inputs_embeds": torch.zeros(1, 9, 32), "input_ids": None},
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_ways_of_decoding_are_refused_by_name(llama, name):
    with pytest.raises(ConfigError, match=rf"^{name}: ") as caught:
        ours(llama, **{**padded((9,)), "max_new_tokens": 4, **REFUSED[name]})
    assert "\n" not in str(caught.value)


def test_an_assistant_model_is_not_dropped_silently(llama):
    with pytest.raises(ConfigError, match="assistant_model"):
        ours(llama, **padded((9,)), max_new_tokens=4, assistant_model=tiny.model("llama"))


def test_a_cache_of_the_users_is_refused(llama):
    from transformers import DynamicCache

    with pytest.raises(ConfigError, match="past_key_values"):
        ours(llama, **padded((9,)), max_new_tokens=4, past_key_values=DynamicCache())


@pytest.mark.parametrize("mask", [[1, 1, 0], [1, 0, 1], [0, 0, 0]])
def test_padding_on_the_right_is_refused(llama, mask):
    ids = torch.tensor([[5, 6, 7], [5, 6, 7]])
    with pytest.raises(ConfigError, match=r"attention_mask\[1\]"):
        ours(llama, input_ids=ids, attention_mask=torch.tensor([[1, 1, 1], mask]), max_new_tokens=4)


def test_models_that_cannot_be_sped_up_are_refused():
    t5 = T5Config(vocab_size=97, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
                  decoder_start_token_id=0)  # fmt: skip
    with pytest.raises(CapabilityError, match="encoder-decoder"):
        ours(T5ForConditionalGeneration(t5), input_ids=torch.tensor([[5, 6]]), max_new_tokens=4)


def test_an_attention_that_ignores_masks_is_refused(llama):
    model = copy.deepcopy(llama)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ConfigError, match="attn_implementation"):
        ours(model, **padded((9,)), max_new_tokens=4)


def test_unknown_methods_and_options_are_refused(llama):
    for more in ({"method": "nonsense"}, {"method_options": {"nonsense": 1}}):
        with pytest.raises(ConfigError, match="nonsense"):
            ours(llama, **{**padded((9,)), "max_new_tokens": 4, **more})
    with pytest.raises(ValueError, match="nonsense"):
        ours(llama, **padded((9,)), max_new_tokens=4, nonsense=1)


def test_the_wrong_door_is_named(llama):
    with pytest.raises(ConfigError, match="custom_generate"):
        llama.generate(**padded((9,)), max_new_tokens=4, custom_generate=foretoken.hf.generate)
    with pytest.raises(ConfigError, match="tokenizer"):
        foretoken.hf.generate(llama, **padded((9,)), stop_strings=["x"])


# the model object


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_model_is_left_as_it_was(attention):
    model = copy.deepcopy(tiny.model("llama"))
    model.set_attn_implementation(attention)
    model.train()
    model.model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = set(vars(model))
    before = (model.config.to_dict(), model.generation_config.to_dict())
    ours(model, "random", **padded(), max_new_tokens=8, repetition_penalty=1.2)
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before
    assert model.config._attn_implementation == attention
    assert [m.training for m in model.modules()] == modes
    assert set(vars(model)) == attributes
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_nothing_keeps_the_model_alive():
    model = copy.deepcopy(tiny.model("llama"))
    ours(model, "aded", **padded(), max_new_tokens=8)
    assert model in shared._targets
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_idle_models_give_back_large_memory(monkeypatch):
    model = copy.deepcopy(tiny.model("llama"))
    call = {**padded(), "max_new_tokens": 8}
    expected = model.generate(**call)
    ours(model, **call)
    target = shared._targets[model][1]
    assert target.pool.nbytes > 0
    monkeypatch.setattr(shared, "KEEP_BYTES", 0)
    for _ in range(2):
        assert torch.equal(ours(model, **call), expected)
        assert target.pool.nbytes == 0


def test_changes_of_the_model_are_seen():
    model = copy.deepcopy(tiny.model("llama"))
    call = {**padded((9,)), "max_new_tokens": 8}
    ours(model, **call)
    model.double()
    assert torch.equal(ours(model, **call), model.generate(**call))
    model.set_attn_implementation("sdpa")
    assert torch.equal(ours(model, **call), model.generate(**call))


def test_a_call_inside_a_call(llama):
    batch = padded((9,))
    inner = []

    def nested(row, ids):
        if not inner:
            inner.append(ours(llama, **batch, max_new_tokens=4))
        return list(range(97))

    got = ours(llama, **batch, max_new_tokens=NEW, prefix_allowed_tokens_fn=nested)
    assert torch.equal(got, llama.generate(**batch, max_new_tokens=NEW))
    assert torch.equal(inner[0], llama.generate(**batch, max_new_tokens=4))


def test_after_an_exception_the_model_is_usable(llama):
    class Raises(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            raise RuntimeError("mine")

    call = {**padded(), "max_new_tokens": 8}
    with pytest.raises(RuntimeError, match="mine"):
        ours(llama, **call, stopping_criteria=StoppingCriteriaList([Raises()]))
    assert torch.equal(ours(llama, **call), llama.generate(**call))
    target = shared._targets[llama][1]
    assert not target.pool.handles
