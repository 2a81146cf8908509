import pytest
import torch
from tests import tiny
from transformers import LlamaForCausalLM

from foretoken.errors import ConfigError
from foretoken.learn.bpe import save_tokenizer, train_bpe
from foretoken.learn.recipes.load import DrafterShape, load_model, new_drafter, vocabulary
from foretoken.prompt.tokens import tokenizer_hash

SHAPE = DrafterShape(layers=1, hidden=16, heads=2, kv_heads=1, ffn=24)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["one and two and three"], 300, 64)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A target of another family, whose output has more rows than its tokenizer has tokens."""
    config = tiny.FAMILIES["qwen3"]()
    config.vocab_size = 320
    config.eos_token_id = 0
    path = tmp_path_factory.mktemp("target")
    tiny.make(config).save_pretrained(path)
    save_tokenizer(tokenizer, path)
    return path


def test_a_target_is_frozen(folder, tokenizer):
    model, loaded = load_model(folder, dtype="float32")
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    assert vocabulary(model) == 320


def test_a_drafter_is_trained_in_float32(folder):
    model, _ = load_model(folder, train=True)
    assert model.training
    assert all(w.requires_grad and w.dtype == torch.float32 for w in model.parameters())


@pytest.mark.parametrize("tie", [True, False])
def test_a_new_drafter_has_the_targets_padded_vocabulary(folder, tie):
    target, _ = load_model(folder)
    shape = SHAPE.model_copy(update={"tie": tie})
    torch.manual_seed(5)
    drafter = new_drafter(target, shape, seed=1)
    assert type(drafter) is LlamaForCausalLM
    assert drafter.get_output_embeddings().weight.shape == (320, 16)
    tied = drafter.get_output_embeddings().weight is drafter.get_input_embeddings().weight
    assert tied == tie
    assert drafter.config.max_position_embeddings == 256
    again = new_drafter(target, shape, seed=1)
    for a, b in zip(drafter.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.initial_seed() == 5  # nobody else's randomness moved


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(ConfigError, match="^model: .*config.json"):
        load_model(tmp_path)
    with pytest.raises(ConfigError, match="^heads: 3"):
        new_drafter(tiny.model("llama"), SHAPE.model_copy(update={"heads": 3}))
    with pytest.raises(ConfigError, match="^kv_heads: 3"):
        new_drafter(tiny.model("llama"), SHAPE.model_copy(update={"kv_heads": 3}))
