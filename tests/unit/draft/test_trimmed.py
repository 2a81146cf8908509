"""A model with a trimmed output layer: the kept logits are the whole model's, to the bit."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import transformers as tf
from tests import tiny
from torch import nn

from foretoken.draft.trimmed import TrimmedHead, trimmed, trimmed_head
from foretoken.errors import CapabilityError
from foretoken.target.base import Job
from foretoken.target.hf import HFTarget
from foretoken.target.linear import PackedLinear, pack_linears
from foretoken.tree import DraftTree

KEEP = [0, 3, 4, 20, 96]
FAMILIES = ["llama", "gpt2", "gpt-j", "gemma2", "gpt-neox", "opt"]


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=torch.tensor([[5, 1, 90, 4]]), use_cache=False).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_logits_are_the_models_own(family: str) -> None:
    """Tied or not, with biases (gpt-j) and bounds (gemma2); dropped tokens are ruled out."""
    model = tiny.model(family)
    whole, some = logits(model), logits(trimmed(model, KEEP))
    assert whole.shape == some.shape
    torch.testing.assert_close(some[:, KEEP], whole[:, KEEP], atol=1e-6, rtol=1e-6)
    dropped = [token for token in range(tiny.VOCAB) if token not in KEEP]
    assert bool((some[:, dropped] == -math.inf).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_all_tokens_kept_is_the_untrimmed_model_bit_for_bit(family: str) -> None:
    model = tiny.model(family)
    assert torch.equal(logits(model), logits(trimmed(model, range(tiny.VOCAB))))


def test_the_model_given_is_not_changed_and_weights_are_shared() -> None:
    model = copy.deepcopy(tiny.model("llama"))
    before, head = logits(model), model.get_output_embeddings()
    twin = trimmed(model, KEEP)
    twin.register_forward_hook(lambda *_: None)
    assert model.get_output_embeddings() is head
    assert not model._forward_hooks
    assert torch.equal(logits(model), before)
    assert trimmed_head(model) is None
    assert isinstance(trimmed_head(twin), TrimmedHead)
    assert twin.get_input_embeddings() is model.get_input_embeddings()
    own = {id(p) for p in twin.parameters()} - {id(p) for p in model.parameters()}
    assert len(own) == 1, "the kept rows alone are copied"


def test_a_tied_head_is_copied_and_the_embedding_stays_whole() -> None:
    config = copy.deepcopy(tiny.model("llama").config)
    config.tie_word_embeddings = True
    model = tiny.make(config)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    twin = trimmed(model, KEEP)
    assert len(twin.get_input_embeddings().weight) == tiny.VOCAB
    with torch.no_grad():
        trimmed_head(twin).slice.layer.weight.zero_()
    assert bool(model.get_input_embeddings().weight.any())


@pytest.mark.parametrize("tie", [True, False])
def test_a_packed_output_layer(tie: bool) -> None:
    """As a model that we loaded ourselves has it."""
    config = tf.LlamaConfig(
        **{**tiny._GQA, "hidden_size": 64, "vocab_size": 8200, "tie_word_embeddings": tie}
    )
    model = tiny.make(config)
    before = logits(model)
    assert pack_linears(model) == 1
    assert isinstance(model.get_output_embeddings(), PackedLinear)
    keep = range(3, 8195)
    twin = trimmed(model, keep)
    assert isinstance(trimmed_head(twin).slice.layer, PackedLinear), "the slice is packed as well"
    torch.testing.assert_close(logits(twin)[:, 3:8195], before[:, 3:8195], atol=1e-5, rtol=1e-4)


def test_another_slice_for_a_while() -> None:
    twin = trimmed(tiny.model("llama"), KEEP)
    head, before = trimmed_head(twin), logits(twin)
    assert head is not None
    with head.using(head.cut([1, 2])):
        other = logits(twin)
    assert (other > -math.inf).nonzero()[:, 1].unique().tolist() == [1, 2]
    assert torch.equal(logits(twin), before)


def test_as_a_target_it_scores_trees() -> None:
    """Rows come mapped to the whole vocabulary, whatever asks for them."""
    twin = trimmed(tiny.fresh_target("llama").model, KEEP)
    target = HFTarget(twin)
    assert target.vocab == tiny.VOCAB
    cache = target.new_cache(16)
    scores = target.score([Job(cache, [5, 1, 90], DraftTree([4, 7], [-1, -1]))])[0]
    torch.testing.assert_close(
        scores.logits[1, KEEP], tiny.plain_logits("llama", [5, 1, 90, 4])[-1, KEEP],
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip
    cache.release()


def test_models_that_cannot_be_trimmed_are_refused() -> None:
    model = copy.deepcopy(tiny.model("llama"))
    model.register_forward_hook(
        lambda _, __, out: setattr(out, "logits", out.logits.clamp(-30, 30))
    )
    with pytest.raises(CapabilityError, match="'llama'.*trimmed vocabulary"):
        trimmed(model, KEEP)
    model = copy.deepcopy(tiny.model("llama"))
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(CapabilityError, match="'llama'.*Sequential"):
        trimmed(model, KEEP)
