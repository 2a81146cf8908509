"""A request's prediction: through `foretoken.generate`, `foretoken.hf` and the engine."""

import copy

import pytest
import torch

import foretoken
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.types import Limits, Request
from tests import letters, tiny

PROMPTS = [tiny.prompt(1, 9), tiny.prompt(2, 5)]
NEW = 20
CALL = {"policy": "fixed", "policy_options": {"nodes": 32}, "max_new_tokens": NEW}


@pytest.fixture(scope="module")
def model():
    return copy.deepcopy(tiny.model("llama"))


@pytest.fixture(scope="module")
def truth():
    return tiny.generate("llama", PROMPTS, NEW)


def test_a_right_prediction_saves_steps_and_a_wrong_one_changes_nothing(model, truth):
    for prediction, most in ((truth[0], 1), (truth[0][3:], NEW - 10), ([5] * 40, NEW)):
        done = foretoken.generate(
            model, prompts=PROMPTS[0], method="predicted", prediction=prediction, **CALL
        )
        assert done.tokens == truth[0]
        assert done.stats.steps <= most


@pytest.mark.parametrize("method", ["predicted", "mix", "auto"])
def test_every_prompt_has_its_own(model, truth, method):
    done = foretoken.generate(
        model, prompts=[*PROMPTS, PROMPTS[0]], method=method,
        prediction=[truth[0], torch.tensor(truth[1]), None], **CALL,
    )  # fmt: skip
    assert [c.tokens for c in done] == [*truth, truth[0]]
    assert [c.stats.steps < NEW // 2 for c in done[:2]] == [True, True]
    if method == "predicted":
        assert done[2].stats.drafted == 0


def test_text_is_encoded_without_what_a_prompt_begins_with(model):
    tokenizer = letters.tokenizer()
    plain = foretoken.generate(model, tokenizer, "ab", "plain", max_new_tokens=NEW)
    text = tokenizer.decode(plain.tokens)
    done = foretoken.generate(model, tokenizer, "ab", "predicted", prediction=text, **CALL)
    assert done.tokens == plain.tokens
    assert done.stats.steps == 1


@pytest.mark.parametrize(
    ("method", "prediction", "named"),
    [
        ("prompt-lookup", [1, 2], "method: 'prompt-lookup'"),
        ("predicted", "some text", "tokenizer"),
        ("predicted", [1, 2.5], "prediction: "),
        ("predicted", [1, 97], "prediction: 97"),
        ("predicted", [-1], "prediction: -1"),
        ("predicted", 7, "prediction: 7"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(model, method, prediction, named):
    with pytest.raises(ConfigError) as error:
        foretoken.generate(model, prompts=PROMPTS[0], method=method, prediction=prediction, **CALL)
    assert str(error.value).startswith(named)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prediction", [[[1]], "text", [1, 2], [[1], None, None]])
def test_a_list_of_prompts_wants_a_list_as_long(model, prediction):
    with pytest.raises(ConfigError, match="prediction"):
        foretoken.generate(
            model, prompts=PROMPTS, method="predicted", prediction=prediction, **CALL
        )


def test_the_engine_refuses_ids_that_the_model_has_not():
    engine = Engine(tiny.target("llama"), method="predicted", policy="fixed")
    with pytest.raises(ConfigError, match="prediction: 97"):
        engine.add(Request([1], limits=Limits(max_new_tokens=2), prediction=[97]))
    assert not engine._waiting


def test_the_drop_in_takes_a_list_for_each_prompt(model):
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
    call = {
        "attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "do_sample": False,
        "return_dict_in_generate": True,
    }  # fmt: skip
    plain = model.generate(ids, **call).sequences
    new = plain[:, 4:]
    ours = {
        "custom_generate": foretoken.hf, "method": "predicted", "policy": "fixed",
        "policy_options": {"nodes": 32},
    }  # fmt: skip
    for prediction, steps in ((new, [1, 1]), ([new[0].tolist(), None], [1, NEW])):
        out = model.generate(ids, prediction=prediction, **call, **ours)
        assert torch.equal(out.sequences, plain)
        assert [stats.steps for stats in out.stats] == steps
    with pytest.raises(ConfigError, match="prediction"):
        model.generate(ids, prediction=[[1]], **call, **ours)


def test_samples_of_a_prompt_share_its_prediction(model):
    ids = torch.tensor([[3, 4, 5, 6]])
    call = {
        "attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": True, "top_k": 1,
        "num_return_sequences": 2, "return_dict_in_generate": True,
    }  # fmt: skip
    plain = model.generate(ids, **call).sequences
    out = model.generate(
        ids, custom_generate=foretoken.hf, method="predicted", policy="fixed",
        prediction=plain[:1, 4:], **call,
    )  # fmt: skip
    assert torch.equal(out.sequences, plain)
    assert [stats.steps for stats in out.stats] == [1, 1]
