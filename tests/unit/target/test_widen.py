"""widen: a larger model of the same function."""

import pytest
import torch
import transformers as tf

from foretoken.errors import CapabilityError, ConfigError
from foretoken.target.widen import widen
from tests import tiny


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_logits_are_equal(family: str, k: int) -> None:
    small = tiny.model(family)
    wide = widen(small, k)
    ids = torch.randint(0, tiny.VOCAB, (2, 15))
    with torch.inference_mode():
        a, b = small(ids, use_cache=False).logits, wide(ids, use_cache=False).logits
    assert (a - b).abs().max() <= 1e-4 * a.abs().max()


@pytest.mark.parametrize("tied", [True, False])
def test_shapes_and_parameters_grow_as_said(tied: bool) -> None:
    """Layers grow by about k**3: k times as many, each k**2 as large; embeddings by k."""
    k = 2
    config = tf.LlamaConfig(**tiny._GQA, tie_word_embeddings=tied)
    small = tiny.make(config)
    wide = widen(small, k)
    for field in (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_hidden_layers",
    ):
        assert getattr(wide.config, field) == k * getattr(config, field)
    matrices = lambda m: sum(
        p.numel() for n, p in m.named_parameters() if "layers" in n and p.dim() == 2
    )
    assert matrices(wide) == k**3 * matrices(small)
    assert (wide.lm_head.weight is wide.model.embed_tokens.weight) is tied
    assert wide.model.embed_tokens.weight.numel() == k * small.model.embed_tokens.weight.numel()
    assert not {p.data_ptr() for p in wide.parameters()} & {
        p.data_ptr() for p in small.parameters()
    }


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "phi3"])
def test_other_families_are_refused(family: str) -> None:
    with pytest.raises(CapabilityError, match="widen: family .* is not one of llama"):
        widen(tiny.model(family), 2)


def test_bad_factor() -> None:
    with pytest.raises(ConfigError, match="widen: 0 is not accepted"):
        widen(tiny.model("llama"), 0)
