"""narrow: fewer layers, heads and neurons; padded folders that every program can read."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers as tf

from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, CapabilityError
from foretoken.target.hf import HFTarget
from foretoken.target.load import set_attention
from foretoken.target.narrow import (
    SIDE_FILE,
    Widths,
    check_family,
    keep_layers,
    keep_units,
    layers_of,
    padded,
    unpadded,
    widths_of,
)
from tests import tiny

FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]
IDS = torch.randint(0, tiny.VOCAB, (2, 15), generator=torch.Generator().manual_seed(1))


def twin(family: str = "llama"):
    return copy.deepcopy(tiny.model(family))


@torch.inference_mode()
def logits(model):
    return model(IDS, use_cache=False).logits


def uneven(family: str = "llama"):
    model = twin(family)
    keep_units(layers_of(model)[0], [1], [0, 2, 5, 40])
    keep_units(layers_of(model)[1], [0, 1], range(7))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_units_of_zero_weights_may_go(family: str) -> None:
    model = twin(family)
    layer, group = layers_of(model)[1], model.model.layers[1].self_attn.num_key_value_groups
    dim = layer.self_attn.head_dim
    with torch.no_grad():
        layer.self_attn.o_proj.weight[:, : group * dim] = 0
        layer.mlp.down_proj.weight[:, [3, 11]] = 0
    before = logits(model)
    keep_units(layer, [1], [i for i in range(48) if i not in (3, 11)])
    assert widths_of(model) == Widths((2, 1), (48, 46))
    assert (logits(model) - before).abs().max() < 1e-5
    for name, linear in layer.named_modules():
        if isinstance(linear, torch.nn.Linear):
            assert linear.weight.shape == (linear.out_features, linear.in_features), name


@pytest.mark.parametrize("family", FAMILIES)
def test_order_of_units_does_not_matter(family: str) -> None:
    """A permutation is a change of names: it finds a wrong map from query to key heads."""
    model = twin(family)
    before = logits(model)
    keep_units(layers_of(model)[0], [1, 0], list(range(48))[::-1])
    assert (logits(model) - before).abs().max() < 1e-5 * before.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_widths_with_cache_equal_those_without(family: str) -> None:
    model = uneven(family)
    prompts = [tiny.prompt(s, 9) for s in range(2)]
    reference = copy.deepcopy(model)
    out = reference.generate(
        torch.tensor(prompts), attention_mask=torch.ones(2, 9, dtype=torch.long),
        do_sample=False, max_new_tokens=8,
    )  # fmt: skip
    again = []
    for row in prompts:
        ids = list(row)
        for _ in range(8):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        again.append(ids)
    assert out.tolist() == again
    set_attention(model)
    engine = Engine(HFTarget(model), method="plain")
    ours = [engine.run([tiny.request(row, new=8)])[0].tokens for row in prompts]
    assert [[*p, *o] for p, o in zip(prompts, ours, strict=True)] == again


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_folder_loads_with_plain_transformers(family: str, tmp_path: Path) -> None:
    model = uneven(family)
    padded(model).save_pretrained(tmp_path)
    (tmp_path / SIDE_FILE).write_bytes(widths_of(model).encoded())
    loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert widths_of(loaded) == Widths((2, 2), (7, 7))
    want = logits(model)
    assert (logits(loaded) - want).abs().max() < 1e-5 * want.abs().max()
    bare = unpadded(loaded, tmp_path)
    assert widths_of(bare) == Widths((1, 2), (4, 7))
    assert (logits(bare) - want).abs().max() < 1e-5 * want.abs().max()


def test_padding_makes_head_counts_that_divide_the_hidden_size() -> None:
    sizes = {**tiny._GQA, "num_attention_heads": 8, "num_key_value_heads": 4}
    model = tiny.make(tf.LlamaConfig(**sizes))
    for layer in layers_of(model):
        keep_units(layer, [0, 1, 3], range(5))  # six query heads do not divide 32
    full = padded(model)
    assert widths_of(full) == Widths((4, 4), (5, 5))
    assert (logits(full) - logits(model)).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_dropped_layers(family: str, tmp_path: Path) -> None:
    """A layer that adds nothing may go; the folder loads, and generates with a cache."""
    model = twin(family)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    before = logits(model)
    keep_layers(model, [1])
    assert model.config.num_hidden_layers == 1
    assert (logits(model) - before).abs().max() < 1e-5
    padded(model).save_pretrained(tmp_path)
    loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert (logits(loaded) - before).abs().max() < 1e-5
    out = [
        loaded.generate(
            IDS, attention_mask=torch.ones_like(IDS), do_sample=False, max_new_tokens=5,
            use_cache=cached,
        )
        for cached in (False, True)
    ]  # fmt: skip
    assert out[0].tolist() == out[1].tolist()


def test_the_original_is_not_touched() -> None:
    model = twin()
    before = logits(model)
    cut = copy.deepcopy(model)
    keep_layers(cut, [1])
    keep_units(layers_of(cut)[0], [0], [1])
    assert model.config.num_hidden_layers == 2
    assert torch.equal(logits(model), before)


def test_other_families_and_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="cut: family 'gpt2' is not one of llama"):
        check_family(tiny.model("gpt2"), "cut")
    file = tmp_path / SIDE_FILE
    for text in ("{", "{}", '{"kv_heads": [1], "ffn": []}', '{"kv_heads": [0], "ffn": [1]}'):
        file.write_text(text)
        with pytest.raises(ArtifactError, match="not a list of widths"):
            unpadded(twin(), tmp_path)
    for widths in ({"kv_heads": [1], "ffn": [1]}, {"kv_heads": [1, 3], "ffn": [1, 1]}):
        file.write_text(json.dumps(widths))
        with pytest.raises(ArtifactError, match="widths of another model"):
            unpadded(twin(), tmp_path)
