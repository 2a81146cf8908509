"""cut: importance, shares, Taylor scores, and the order in which things go."""

import copy

import pytest
import torch
import transformers as tf
from tests import tiny

from foretoken.errors import ConfigError
from foretoken.learn.recipes.cut_scores import normalised, scored, unit_scores
from foretoken.learn.recipes.cut_steps import (
    Cutter,
    Shares,
    best,
    fewest,
    goals,
    kl_to,
    label_loss,
    read_per_step,
    slices,
    spaced,
)
from foretoken.learn.recipes.rows import Batch
from foretoken.target.narrow import layers_of, widths_of


def toy(layers: int = 4, seed: int = 0, **more):
    sizes = {**tiny._GQA, "num_attention_heads": 8, "num_key_value_heads": 4}
    return tiny.make(tf.LlamaConfig(**{**sizes, "num_hidden_layers": layers, **more}), seed)


@torch.no_grad()
def written(model, rows: int = 16, length: int = 24) -> Batch:
    """What the model itself writes, sampled; the first token is the prompt."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, tiny.VOCAB, (rows, 1), generator=generator)
    for _ in range(length - 1):
        probs = model(ids, use_cache=False).logits[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probs, 1, generator=generator)], dim=1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    return Batch(ids, mask)


def cutter(target, batch, **more) -> Cutter:
    more.setdefault("layers", len(layers_of(target)))
    return Cutter(copy.deepcopy(target), target, lambda _: batch, **more)


def nearly_identity(model, layer: int, scale: float) -> None:
    with torch.no_grad():
        model.model.layers[layer].self_attn.o_proj.weight *= scale
        model.model.layers[layer].mlp.down_proj.weight *= scale


def test_importance_has_mean_zero_and_largest_one() -> None:
    s = normalised(torch.tensor([-0.9, -0.2, -0.7, -0.95], dtype=torch.float64))
    assert float(s.mean()) == pytest.approx(0, abs=1e-12)
    assert float(s.abs().max()) == pytest.approx(1)
    assert s.argmax() == 1
    assert normalised(torch.full((3,), -0.5)).tolist() == [0, 0, 0]


def test_the_mean_share_rises_by_delta_also_where_a_layer_is_clipped() -> None:
    generator = torch.Generator().manual_seed(0)
    shares, clipped = Shares((4,) * 5, (48,) * 5), False
    for n in range(1, 60):
        s = normalised(
            torch.rand(5, generator=generator, dtype=torch.float64) + torch.arange(5) / 4
        )
        plain = shares.share + 0.02 - 0.02 * s
        before = shares.share
        shares.rise(s, 0.02, 0.02)
        if bool(((plain >= 0) & (plain <= 0.99)).all()):
            assert torch.equal(shares.share, plain)  # the rule as it stands in the source
        else:
            clipped = True
        assert float(shares.share.mean()) == pytest.approx(min(0.02 * n, 0.99), abs=1e-6)
        assert bool((shares.share >= before - 1e-9).all())
    assert clipped
    assert float(shares.share.min()) == pytest.approx(0.99)


def test_heads_go_whole_and_one_of_each_always_stays() -> None:
    shares = Shares((4,), (10,))
    kept = []
    for share in (0.1, 0.2, 0.25, 0.5, 0.7, 0.99):
        shares.share = torch.tensor([share], dtype=torch.float64)
        kept.append(shares.keep(0, 4, 10, 8))
    assert kept == [(4, 9), (4, 8), (3, 7), (2, 5), (2, 3), (1, 1)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_taylor_scores_are_sums_over_the_weights_of_a_unit(family: str) -> None:
    model = copy.deepcopy(tiny.model(family))
    scored(model, label_loss, written(model, 4), micro=2)
    layer = layers_of(model)[1]
    heads, neurons = unit_scores(layer)
    assert (len(heads), len(neurons)) == (2, 48)

    def taylor(linear, rows=slice(None), columns=slice(None)):
        total = (linear.weight.detach() * linear.weight.grad)[rows, columns].abs().sum()
        if linear.bias is not None and columns == slice(None):
            total += (linear.bias.detach() * linear.bias.grad)[rows].abs().sum()
        return total

    a, m, d, g = layer.self_attn, layer.mlp, layer.self_attn.head_dim, 2
    for h in range(2):
        kv, query = slice(h * d, h * d + d), slice(h * g * d, (h + 1) * g * d)
        want = taylor(a.k_proj, kv) + taylor(a.v_proj, kv)
        want += taylor(a.q_proj, query) + taylor(a.o_proj, columns=query)
        assert float(heads[h]) == pytest.approx(float(want), rel=1e-4)
    want = taylor(m.gate_proj, 5) + taylor(m.up_proj, 5) + taylor(m.down_proj, columns=5)
    assert float(neurons[5]) == pytest.approx(float(want), rel=1e-4)


def test_gradients_do_not_depend_on_the_micro_batch() -> None:
    target = toy()
    batch = written(target, 6)
    found = []
    for micro in (6, 2):
        model = copy.deepcopy(target)
        importance, loss = scored(model, label_loss, batch, micro)
        found.append((importance, loss, model.model.layers[0].mlp.up_proj.weight.grad))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    assert torch.allclose(found[0][2], found[1][2], atol=1e-6)


def test_prompts_do_not_count() -> None:
    target = toy()
    batch = written(target, 4)
    ids, mask = batch.ids.clone(), batch.mask.clone()
    mask[:, 12:] = False  # what comes after is padding: it may hold anything
    one = scored(copy.deepcopy(target), label_loss, Batch(ids, mask), 4)
    ids = ids.clone()
    ids[:, 12:] = 0
    two = scored(copy.deepcopy(target), label_loss, Batch(ids, mask), 4)
    assert torch.allclose(one[0], two[0], atol=1e-5)
    assert one[1] == pytest.approx(two[1], rel=1e-5)


def test_the_least_scores_go_and_of_equals_the_earlier() -> None:
    assert best(torch.tensor([3.0, 1.0, 2.0, 5.0]), 2) == [0, 3]
    assert best(torch.zeros(4), 2) == [2, 3]


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_an_identity_layer_has_the_least_importance_and_goes_first(layer: int) -> None:
    target = toy()
    nearly_identity(target, layer, 0.0)
    batch = written(target)
    importance, _ = scored(copy.deepcopy(target), label_loss, batch, 8)
    assert int(importance.argmin()) == layer
    deep = cutter(target, batch, layers=3)
    deep.to(read_per_step(target) - 1)
    assert deep.origin == [i for i in range(4) if i != layer]
    with torch.inference_mode():
        change = deep.model(batch.ids).logits - target(batch.ids).logits
    assert float(change.abs().max()) < 1e-5


def test_the_least_important_layer_loses_the_most() -> None:
    target = toy()
    nearly_identity(target, 2, 0.01)
    wide = cutter(target, written(target))
    wide.to(int(read_per_step(target) * 0.8))
    now = widths_of(wide.model).ffn
    assert min(now) == now[2] < max(now) - 4


def test_strength_zero_cuts_all_layers_alike() -> None:
    target = toy()
    even = cutter(target, written(target), strength=0.0)
    even.to(int(read_per_step(target) * 0.7))
    now = widths_of(even.model)
    assert len(set(now.ffn)) == len(set(now.kv_heads)) == 1
    assert now.ffn[0] < 48


def test_a_goal_is_met_within_one_step_along_a_path_of_goals() -> None:
    target = toy(6)
    cut = cutter(target, written(target, 4), layers=3, delta=0.05)
    start, done = read_per_step(target), 0
    path = goals(start, int(start * 0.3), 5)
    assert path[-1] == int(start * 0.3)
    for goal in path:
        before = cut.read()
        cut.to(goal)
        reads = [before, *(entry["read"] for entry in cut.log[done:])]
        done = len(cut.log)
        assert reads[-1] <= goal < reads[-2]
        assert reads[-1] == cut.read() == read_per_step(cut.model)
    assert len(layers_of(cut.model)) == 3
    narrowed = ["dropped" not in entry for entry in cut.log]
    assert narrowed == sorted(narrowed)  # depth first


def test_spaced_keeps_the_first_and_the_last() -> None:
    assert spaced(8, 3) == {0, 4, 7}
    assert spaced(5, 1) == {4}
    assert spaced(6, 6) == set(range(6))
    target = toy(6)
    cut = cutter(target, written(target, 4), layers=3, depth="spaced")
    cut.to(read_per_step(target, None) * 3 // 5)
    assert cut.origin == sorted(spaced(6, 3))


def test_a_trimmed_head_leaves_more_for_the_layers() -> None:
    target = toy()
    goal = int(read_per_step(target) * 0.8)
    whole, trimmed = (cutter(target, written(target, 4), head_rows=k) for k in (None, 20))
    for cut in (whole, trimmed):
        cut.to(goal)
        assert cut.read() <= goal
    assert sum(widths_of(trimmed.model).ffn) > sum(widths_of(whole.model).ffn)


def test_goals_below_one_head_and_one_neuron_are_refused_before_anything_is_cut() -> None:
    target = toy()
    cut = cutter(target, written(target, 4), layers=2, delta=0.2)
    least = fewest(target, 2)
    with pytest.raises(ConfigError, match=f"params: .* at least {least} with 2 layers"):
        cut.to(least - 1)
    assert not cut.log
    cut.to(least)
    assert widths_of(cut.model).ffn == (1, 1)
    assert widths_of(cut.model).kv_heads == (1, 1)


def test_slices_grow_linearly_and_are_all_the_steps() -> None:
    assert slices(100, 4) == [10, 20, 30, 40]
    assert sum(slices(101, 7)) == 101
    assert slices(3, 3) == [1, 1, 1]
    with pytest.raises(ConfigError, match="steps: 2 is not accepted; at least 3"):
        slices(2, 3)


@torch.no_grad()
def divergence(model, target, batch) -> float:
    return float(kl_to(target)(model, batch))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adaptive_shares_beat_even_ones_where_two_layers_hardly_matter(seed: int) -> None:
    target = toy(6, seed)
    nearly_identity(target, 1, 0.02)
    nearly_identity(target, 4, 0.02)
    batch, held = written(target, 24), written(target, 24, 30)
    found = []
    for strength in (0.02, 0.0):
        cut = cutter(target, batch, strength=strength)
        cut.to(int(read_per_step(target) * 0.75))
        found.append((divergence(cut.model, target, held), cut.read()))
    (adaptive, a), (even, b) = found
    assert a <= b * 1.01
    assert adaptive < even


def test_what_a_trimmed_head_leaves_to_read() -> None:
    target = toy()
    assert read_per_step(target, 10) == read_per_step(target) - (tiny.VOCAB - 10) * 32
