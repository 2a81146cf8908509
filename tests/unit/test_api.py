"""`foretoken.generate`: every kind of model, prompt and setting; what it refuses."""

import copy
import gc
import threading
import weakref

import pytest
import torch

import foretoken
from foretoken.engine import shared
from foretoken.errors import CapabilityError, ConfigError, ForetokenError
from foretoken.target.hf import HFTarget
from foretoken.target.load import Loaded
from foretoken.types import Completion, Limits, Sampling
from tests import letters, tiny

TEXT = "for i in range(3): for i in"
CALL = {"policy": "fixed", "max_new_tokens": 12}


@pytest.fixture(scope="module")
def model():
    return copy.deepcopy(tiny.model("llama"))


@pytest.fixture(scope="module")
def text():
    return letters.tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, text):
    """A model with its tokenizer on disk."""
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    text.save_pretrained(path)
    return path


def greedy(ids, new=12):
    return tiny.generate("llama", [ids], new)[0]


@pytest.mark.parametrize("method", ["aded", "prompt-lookup", "random", "plain"])
def test_one_prompt_gives_one_completion(model, text, method):
    done = foretoken.generate(model, text, TEXT, method, **CALL)
    assert isinstance(done, Completion)
    assert done.tokens == greedy(text.encode(TEXT))
    assert done.text == text.decode(done.tokens, skip_special_tokens=True)
    assert done.finish_reason == "length"
    assert done.guarantee == "exact"
    stats = done.stats
    assert stats.tokens == 12
    assert 0 <= stats.accepted <= stats.drafted
    assert stats.tokens_per_step == 12 / stats.steps
    assert sum(stats.accepted_by_depth) == stats.accepted
    assert len(stats.drafted_by_depth) >= len(stats.accepted_by_depth)
    assert set(stats.seconds) == {"draft", "target", "verify", "other"}
    assert stats.seconds["target"] > 0
    assert (stats.drafted == 0) == (method == "plain")


def test_kinds_of_prompts(model, text):
    ids = text.encode(TEXT)
    chat = [{"role": "user", "content": "hi"}]
    rendered = text.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    cases = [TEXT, ids, torch.tensor(ids), chat]
    truth = [greedy(ids)] * 3 + [greedy(rendered)]
    for prompt, tokens in zip(cases, truth, strict=True):
        assert foretoken.generate(model, text, prompt, "random", **CALL).tokens == tokens
    many = foretoken.generate(model, text, cases, "random", **CALL)
    assert [c.tokens for c in many] == truth
    assert [c.id for c in many] == ["0", "1", "2", "3"]
    assert foretoken.generate(model, text, [], **CALL) == []
    assert len(foretoken.generate(model, text, [TEXT], **CALL)) == 1


def test_token_ids_need_no_tokenizer(model):
    done = foretoken.generate(model, prompts=[3, 4, 5, 3, 4], **CALL)
    assert done.tokens == greedy([3, 4, 5, 3, 4])
    assert done.text == ""


def test_batches_of_any_size_write_the_same(model):
    prompts = [tiny.prompt(seed, 3 + 2 * seed) for seed in range(5)]
    sampled = {**CALL, "temperature": 1.0, "top_p": 0.9, "seed": 4}
    for call in (CALL, sampled):
        texts = [
            [c.tokens for c in foretoken.generate(model, prompts=prompts, batch_size=n, **call)]
            for n in (1, 2, 8)
        ]
        assert texts[0] == texts[1] == texts[2]


def test_prompt_i_draws_with_seed_plus_i(model):
    call = {**CALL, "temperature": 1.0}
    same = foretoken.generate(model, prompts=[[3, 4, 5]] * 3, seed=7, **call)
    assert len({tuple(c.tokens) for c in same}) == 3
    alone = foretoken.generate(model, prompts=[3, 4, 5], seed=9, **call)
    assert alone.tokens == same[2].tokens


def test_kinds_of_models(model, folder, text):
    truth = greedy(text.encode(TEXT))
    loaded = foretoken.load(str(folder), dtype="float32", device="cpu")
    assert foretoken.generate(loaded, prompts=TEXT, **CALL).tokens == truth
    assert foretoken.generate(loaded.target, text, TEXT, **CALL).tokens == truth
    assert foretoken.generate(str(folder), prompts=TEXT, dtype="float32", **CALL).tokens == truth
    assert foretoken.generate(folder, prompts=TEXT, dtype="float32", **CALL).tokens == truth
    assert foretoken.generate(model, str(folder), TEXT, **CALL).tokens == truth


def test_settings_as_objects_or_by_name(model, text):
    whole = foretoken.generate(
        model, text, TEXT, sampling=Sampling(temperature=0.9, seed=3),
        limits=Limits(max_new_tokens=12, stop=("zz",)), policy="fixed",
    )  # fmt: skip
    named = foretoken.generate(model, text, TEXT, temperature=0.9, seed=3, stop="zz", **CALL)
    assert named.tokens == whole.tokens
    kept = foretoken.generate(model, text, TEXT, keep_logits=True, **CALL)
    assert len(kept.logits) == 12


def test_stop_strings_end_the_text(model, text):
    free = foretoken.generate(model, text, TEXT, **CALL)
    stop = free.text[4:6]
    done = foretoken.generate(model, text, TEXT, "random", stop=stop, **CALL)
    assert done.finish_reason == "stop"
    assert done.text == free.text[: free.text.index(stop)]


def test_repeated_calls_keep_what_was_learnt(model, text):
    fresh = copy.deepcopy(model)
    first = foretoken.generate(fresh, text, TEXT, "aded", **CALL)
    second = foretoken.generate(fresh, text, TEXT, "aded", **CALL)
    assert second.tokens == first.tokens
    assert second.stats.steps < first.stats.steps
    other = foretoken.generate(fresh, text, TEXT, "aded", tenant="else", **CALL)
    assert other.stats.steps == first.stats.steps, "tenants learn apart"
    assert len(shared._seats[shared._targets[fresh][1]].engines) == 1
    again = foretoken.generate(fresh, copy.deepcopy(text), TEXT, "aded", **CALL)
    assert again.stats.steps == second.stats.steps, "an equal tokenizer is the same one"


def test_what_is_shared_dies_with_the_model(model, folder, text):
    makers = (
        lambda: copy.deepcopy(model),
        lambda: foretoken.load(str(folder), dtype="float32").target,
    )
    for make in makers:
        thing = make()
        foretoken.generate(thing, text, TEXT, "aded", **CALL)
        gone = weakref.ref(thing)
        del thing
        gc.collect()
        assert gone() is None


def test_what_is_used_by_default(model, text, monkeypatch):
    monkeypatch.setattr("foretoken.target.cost.REPEATS", 1)
    fresh = copy.deepcopy(model)
    done = foretoken.generate(fresh, text, TEXT, max_new_tokens=12)
    assert done.tokens == greedy(text.encode(TEXT))
    engine = shared._seats[shared._targets[fresh][1]].engines[0]
    assert any((m.name, m.policy.name) == ("auto", "cost-model") for m in engine._methods.values())


def test_a_bad_prompt_leaves_nothing_behind(model, text):
    with pytest.raises(ConfigError, match="prompt"):
        foretoken.generate(model, text, [[1, 2], [10_000]], **CALL)
    engine = shared._seats[shared._targets[model][1]].engines[0]
    assert not engine.sessions
    assert not engine._waiting
    assert foretoken.generate(model, text, TEXT, **CALL).tokens == greedy(text.encode(TEXT))


def test_calls_from_two_threads(model):
    prompts, results, errors = [tiny.prompt(s, 9) for s in range(6)], {}, []

    def work(i):
        try:
            results[i] = foretoken.generate(model, prompts=prompts[i], method="random", **CALL)
        except BaseException as error:  # noqa: BLE001  shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [results[i].tokens for i in range(6)] == [greedy(p) for p in prompts]


def test_a_target_that_is_in_use_says_so(model):
    target = HFTarget(copy.deepcopy(model))
    with shared.shared_engine(target), pytest.raises(ForetokenError, match="in use"):
        foretoken.generate(target, prompts=[1, 2, 3], **CALL)
    assert foretoken.generate(target, prompts=[1, 2, 3], **CALL).tokens == greedy([1, 2, 3])


BAD = {
    "model": ({"model": 3}, "model: 'int'"),
    "missing folder": ({"model": "/nowhere/model"}, "model: '/nowhere/model'"),
    "no prompts": ({"prompts": None}, "prompts: None"),
    "mixed prompt": ({"prompts": [["a", 3]]}, "prompts: "),
    "a number": ({"prompts": [1.5]}, "prompts: 1.5"),
    "empty ids": ({"prompts": [[]]}, "prompt: "),
    "no tokenizer": ({"tokenizer": None}, "tokenizer: None"),
    "method": ({"method": "nonsense"}, "method: 'nonsense'"),
    "option": ({"options": {"nonsense": 1}}, "auto.nonsense: 1"),
    "policy": ({"policy": "nonsense"}, "policy: 'nonsense'"),
    "field": ({"temprature": 1}, "temprature: 1"),
    "temperature": ({"temperature": -1}, "temperature: -1"),
    "max_new_tokens": ({"max_new_tokens": 0}, "max_new_tokens: 0"),
    "batch_size": ({"batch_size": 0}, "batch_size: 0"),
    "twice": ({"sampling": Sampling(), "top_k": 3}, "top_k: 3"),
    "limits twice": ({"limits": Limits()}, "max_new_tokens: 12"),
    "dtype": ({"dtype": "float32"}, "dtype: 'float32'"),
    "device": ({"device": "cpu"}, "device: 'cpu'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_that_names_the_field(model, text, name):
    values, start = BAD[name]
    call = {"model": model, "tokenizer": text, "prompts": TEXT, **CALL, **values}
    with pytest.raises(ConfigError) as caught:
        foretoken.generate(**call)
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


def test_families_that_cannot_be_sped_up():
    from transformers import MambaConfig, MambaForCausalLM

    tiny_mamba = MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(CapabilityError, match="mamba"):
        foretoken.generate(MambaForCausalLM(tiny_mamba), prompts=[1, 2], **CALL)


def test_loaded_keeps_its_own_tokenizer(model, text):
    loaded = Loaded(HFTarget(copy.deepcopy(model)), text, None)
    assert foretoken.generate(loaded, prompts=TEXT, **CALL).text
