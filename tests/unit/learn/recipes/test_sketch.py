"""sketch: tables alone are trained, gradients by code, and what training wins back."""

import copy
from pathlib import Path

import pytest
import torch
import transformers as tf
from tests import tiny

from foretoken.draft.sketched import FILE, encoded, gathered, load_sketched
from foretoken.errors import CapabilityError, ConfigError
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.sketch import SketchRun, find_codes
from foretoken.learn.recipes.sketch_config import SketchConfig
from foretoken.learn.recipes.sketch_layers import fitting, sketch_layers
from foretoken.learn.recipes.sketch_linear import SketchedLinear, tables_of
from foretoken.learn.recipes.trainer import StoppedError

VOCAB = 24
SIZES = {
    **tiny._NONE, "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip


def target():
    return tiny.make(tf.LlamaConfig(**SIZES), 0, std=0.25).requires_grad_(False)


def drafter_of(model, noise: float = 0.05):
    """A model near the target: its weights and some noise."""
    made, g = copy.deepcopy(model), torch.Generator().manual_seed(3)
    for parameter in made.parameters():
        parameter.add_(noise * torch.randn(parameter.shape, generator=g))
    return made


@torch.no_grad()
def rows(model, count: int = 200) -> Rows:
    g = torch.Generator().manual_seed(5)
    ids = torch.randint(0, VOCAB, (count, 1), generator=g)
    for _ in range(15):
        probs = model(ids, use_cache=False).logits[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probs, 1, generator=g)], dim=1)
    return Rows.of([(row, 1) for row in ids.tolist()], seq=16, held_out=0.15)


def config(**more) -> SketchConfig:
    usual = {
        "groups": 1, "calibration": 32, "steps": 6, "batch": 4, "micro": 4, "seq": 16, "lr": 1e-3,
        "checkpoint_every": 1,
    }  # fmt: skip
    return SketchConfig.checked(**{**usual, **more})


def layer(seed: int = 0, r: int = 6, groups: int = 2, m: int = 5, bits: int = 2, bias: bool = True):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (r, groups, m), generator=g, dtype=torch.uint8)
    table = torch.randn(r, groups, 1 << bits, generator=g)
    return SketchedLinear(codes, table, torch.randn(r, generator=g) if bias else None)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_one_hot_products(bias: bool) -> None:
    made = layer(bias=bias)
    x = torch.randn(3, 4, 10, requires_grad=True)
    out = made(x)
    weight = torch.randn_like(out)
    out.mul(weight).sum().backward()
    table = made.table.detach().clone().requires_grad_(True)
    again = x.detach().clone().requires_grad_(True)
    one_hot = torch.nn.functional.one_hot(made.codes.long(), 4).float()  # [r, G, m, 4]
    w = torch.einsum("rgmk,rgk->rgm", one_hot, table).flatten(1)
    want = torch.nn.functional.linear(again, w, made.bias)
    want.mul(weight).sum().backward()
    assert torch.allclose(out, want, atol=1e-5)
    assert torch.allclose(made.table.grad, table.grad, atol=1e-5)
    assert torch.allclose(x.grad, again.grad, atol=1e-5)
    assert made.bias is None or not made.bias.requires_grad


@pytest.mark.parametrize("fused", [True, False])
def test_weights_are_made_once_per_change_of_the_table(fused: bool) -> None:
    made = layer()
    x = torch.randn(2, 10)
    with torch.no_grad():
        first = made(x)
        kept = made._weight
        assert torch.equal(made(x), first)
        assert made._weight is kept
        made.table.mul_(2)  # writing is noticed
        assert torch.allclose(made(x) - made.bias, 2 * (first - made.bias), atol=1e-5)
    optimiser = torch.optim.AdamW([made.table], lr=0.1, fused=fused)
    made(x).sum().backward()
    optimiser.step()
    with torch.no_grad():
        w = gathered(made.table, made.codes)
        assert torch.equal(made(x), torch.nn.functional.linear(x, w, made.bias))


def test_a_model_of_few_weights_per_row_is_sketched_without_loss() -> None:
    model = target()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2 and "layers" in name:
                p.copy_((p * 8).round().clamp(-7, 7) / 8)  # 15 values
    before, data = copy.deepcopy(model), rows(model, 40)
    sketch_layers(model, [data.batch(0, 8)], bits=4, groups=2)
    ids = data.batch(1, 4).ids
    assert torch.equal(model(ids).logits, before(ids).logits)


def test_every_block_linear_is_sketched_and_counted() -> None:
    model = target()
    sketch = sketch_layers(copy.deepcopy(model), [rows(model, 40).batch(0, 8)], bits=2, groups=5)
    assert len(sketch.codes) == 2 * 7
    count = 0
    for name, codes in sketch.codes.items():
        linear = model.get_submodule(name)
        g = fitting(linear.in_features, 5)
        assert codes.shape == (linear.out_features, g, linear.in_features // g)
        assert int(codes.max()) < 4
        count += linear.out_features * g * 4
    assert sum(table.numel() for table in sketch.tables.values()) == count
    assert (fitting(48, 5), fitting(7, 4), fitting(8, 4)) == (4, 1, 4)


def test_later_layers_are_found_on_what_the_sketched_ones_give_out() -> None:
    """The first layer's codes do not know of the second; the second's do of the first."""
    model, data = target(), [rows(target(), 60).batch(0, 16)]
    sequential = sketch_layers(copy.deepcopy(model), data, bits=2, groups=1)
    spoilt = copy.deepcopy(model)
    with torch.no_grad():
        spoilt.model.layers[0].mlp.down_proj.weight.zero_()
    other = sketch_layers(spoilt, data, bits=2, groups=1)
    first, second = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"
    assert torch.equal(sequential.codes[first], other.codes[first])
    assert not torch.equal(sequential.codes[second], other.codes[second])


def test_padding_does_not_count() -> None:
    model = target()
    ids = torch.randint(0, VOCAB, (4, 12))
    positions = torch.arange(12).repeat(4, 1)
    positions[:, 8:] = 0
    mask = positions > 0
    found = []
    for filler in (0, 5):
        padded = torch.where(mask, ids, filler)
        padded[:, 0] = ids[:, 0]
        batch = Batch(padded, mask, positions)
        found.append(sketch_layers(copy.deepcopy(model), [batch], bits=2, groups=1))
    assert found[0].identity == found[1].identity


def test_tables_alone_are_trained_and_saved_ones_give_the_same_logits(tmp_path: Path) -> None:
    model = target()
    data, drafter = rows(model), drafter_of(model)
    before = {n: p.clone() for n, p in drafter.state_dict().items()}
    sketch = find_codes(drafter, data, config())
    run = SketchRun(model, drafter, sketch, data, config())
    trainable = sum(w.numel() for w in run.trainer.weights.values())
    assert trainable == sum(c.shape[0] * c.shape[1] * 16 for c in sketch.codes.values())
    run.train()
    after = run.model.state_dict()
    for name, value in before.items():
        if name.removesuffix(".weight") not in sketch.codes:
            assert torch.equal(after[name], value), name
    now = tables_of(run.model)
    assert all(not torch.equal(now[n], t) for n, t in sketch.tables.items())
    tiny_config = drafter.config
    tiny_config.save_pretrained(tmp_path)
    (tmp_path / FILE).write_bytes(encoded(run.sketch, run.rest))
    loaded = load_sketched(tmp_path)
    for name, codes in run.sketch.codes.items():
        own = gathered(now[name].half().float(), codes)
        assert torch.equal(loaded.get_submodule(name).weight, own)
    ids = data.batch(0, 2).ids
    with torch.no_grad():
        assert (loaded(ids).logits - run.model(ids).logits).abs().max() < 2e-2


def test_training_tables_wins_back_what_the_sketch_lost() -> None:
    model = target()
    data, drafter = rows(model, 400), drafter_of(model)
    settings = config(bits=3, steps=60, lr=2e-3, batch=16, micro=16)
    dense = SketchRun(
        model, drafter, find_codes(copy.deepcopy(drafter), data, config(groups=16)), data, settings
    )
    drafter = drafter_of(model)
    run = SketchRun(model, drafter, find_codes(drafter, data, settings), data, settings)
    run.train()
    exact = dense.figures["sketched"]["alpha"]  # two columns per table: nothing is lost
    lost = exact - run.figures["sketched"]["alpha"]
    won = run.figures["tuned"]["alpha"] - run.figures["sketched"]["alpha"]
    assert lost > 0.01
    assert won >= 0.8 * lost


def test_an_interrupted_run_ends_with_the_same_tables(tmp_path: Path) -> None:
    model = target()
    data = rows(model, 60)

    def run(work):
        drafter = drafter_of(model)
        sketch = find_codes(drafter, data, config(), work)
        return SketchRun(model, drafter, sketch, data, config(), work)

    whole = run(None)
    whole.train()
    made: list[int] = []
    with pytest.raises(StoppedError):
        run(tmp_path).train(lambda _: made.append(1), lambda: len(made) == 3)
    again = run(tmp_path)
    assert again.trainer.step == 3
    again.train()
    for name, table in whole.sketch.tables.items():
        assert torch.equal(table, again.sketch.tables[name])
    with pytest.raises(ConfigError, match="bits: 2 is not accepted; 4 as in"):
        find_codes(drafter_of(model), data, config(bits=2), tmp_path)


def test_what_cannot_be_sketched_is_refused() -> None:
    data = rows(target(), 40)
    with pytest.raises(CapabilityError, match="sketch: family 'gpt2'"):
        find_codes(copy.deepcopy(tiny.model("gpt2")), data, config())
    for field, value in (("bits", 5), ("loss", "none"), ("optimiser", "muon")):
        with pytest.raises(ConfigError, match=f"^{field}: "):
            config(**{field: value})
