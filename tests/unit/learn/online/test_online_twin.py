"""Copies of weights: independent, of the model's own outputs, and small when saved."""

import base64
import copy

import pytest
import torch
import transformers as tf
from tests import tiny
from tests.unit.learn.online.toys import llama as drafter

from foretoken.errors import ArtifactError
from foretoken.learn.online.twin import (
    add_changes,
    dense_twin,
    encoded,
    fingerprint,
    serving_twin,
)
from foretoken.target.hf import HFTarget
from foretoken.target.linear import PackedLinear, pack_linears
from foretoken.target.narrow import Widths, narrow

IDS = torch.tensor([[1, 5, 2, 9]])


def outputs(model: object) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


@pytest.fixture
def packed() -> object:
    config = tf.LlamaConfig(
        vocab_size=1024, hidden_size=512, intermediate_size=1024, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        bos_token_id=None, eos_token_id=None, tie_word_embeddings=True, attention_bias=True,
        mlp_bias=True,
    )  # fmt: skip
    model = tiny.make(config, std=0.05)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    assert pack_linears(model) > 2
    return model


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_every_family_has_twins(name: str) -> None:
    model = tiny.model(name)
    twin = dense_twin(model)
    torch.testing.assert_close(outputs(twin), outputs(model))
    held = {id(weight) for weight in model.parameters()}
    assert not held & {id(weight) for weight in twin.parameters()}
    assert not twin.training


def test_packed_layers_become_plain_ones_and_back(packed: object) -> None:
    twin = dense_twin(packed)
    assert not any(isinstance(m, PackedLinear) for m in twin.modules())
    assert twin.lm_head.weight is twin.get_input_embeddings().weight
    torch.testing.assert_close(outputs(twin), outputs(packed), atol=1e-5, rtol=1e-4)
    served = serving_twin(twin, packed)
    kinds = [type(m) for m in packed.modules()]
    assert [type(m) for m in served.modules()] == kinds
    torch.testing.assert_close(outputs(served), outputs(packed), atol=1e-5, rtol=1e-4)


def test_nobodys_hooks_are_copied() -> None:
    """They hold the engine's memory."""
    target = HFTarget(copy.deepcopy(drafter()))
    target.watch_hidden()
    calls = []
    target.model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    twin = dense_twin(target.model)
    outputs(twin)
    assert not calls
    assert not twin.get_output_embeddings()._forward_pre_hooks
    outputs(target.model)
    assert len(calls) == 1, "the given model keeps its own"


def test_a_served_twin_is_of_the_given_dtype() -> None:
    like = copy.deepcopy(drafter()).to(torch.bfloat16)
    assert next(serving_twin(dense_twin(like), like).parameters()).dtype == torch.bfloat16
    assert next(dense_twin(like).parameters()).dtype == torch.float32


def test_layers_of_different_widths() -> None:
    """What no configuration says."""
    model = narrow(copy.deepcopy(tiny.model("llama")), Widths((1, 2), (7, 48)))
    twin = dense_twin(model)
    torch.testing.assert_close(outputs(twin), outputs(model))


def test_changes_are_saved_and_added() -> None:
    before = [weight.detach().clone() for weight in drafter().parameters()]
    after = [weight.clone() for weight in before]
    after[0] += 0.01 * torch.randn(after[0].shape)
    after[2] *= 1.02
    changes = encoded(after, before)
    assert sum(map(bool, changes)) == 2
    assert len(base64.b64decode(changes[0])) == 2 * after[0].numel()
    found = [weight.clone() for weight in before]
    add_changes(found, changes)
    for a, b, start in zip(found, after, before, strict=True):
        torch.testing.assert_close(a - start, b - start, rtol=0.01, atol=1e-6)
    assert torch.equal(found[1], before[1])


def test_changes_of_another_model_are_refused() -> None:
    weights = [weight.detach().clone() for weight in drafter().parameters()]
    other = [weight.detach().clone() for weight in drafter(hidden=8).parameters()]
    changes = encoded([weight + 1 for weight in other], other)
    with pytest.raises(ArtifactError, match="another drafter model"):
        add_changes(weights, changes)
    with pytest.raises(ArtifactError, match="another drafter model"):
        add_changes(weights, changes[:-1])
    assert all(torch.equal(a, b) for a, b in zip(weights, drafter().parameters(), strict=True))


def test_a_fingerprint_tells_weights_apart() -> None:
    twin = dense_twin(drafter())
    assert fingerprint(twin) == fingerprint(drafter())
    with torch.no_grad():
        twin.lm_head.weight[3, 3] += 0.01
    assert fingerprint(twin) != fingerprint(drafter())
