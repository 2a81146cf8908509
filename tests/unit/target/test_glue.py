"""The lean forward in bfloat16: the loops between its products are PyTorch's operations."""

import numba
import numpy as np
import pytest
import torch
import transformers as tf
from torch import nn
from torch.nn import functional as F

from foretoken.target import bfloat, glue, jit, tiles
from foretoken.target.base import Job
from foretoken.target.cache import array_of
from foretoken.target.glue import Glued
from foretoken.target.hf import HFTarget
from foretoken.target.lean import Lean, _rms
from foretoken.target.linear import can_pack, pack_linears
from foretoken.target.load import set_attention
from foretoken.target.narrow import Widths, narrow
from foretoken.tree import EMPTY
from tests import tiny
from tests.unit.target.test_lean import CONFIGS, answers


@pytest.fixture(autouse=True)
def _without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """With them there is a faster way (`test_program`)."""
    monkeypatch.setattr(tiles, "available", lambda: False)


def every_bfloat16() -> torch.Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)


fresh = numba.njit(**jit.OPTIONS)  # not kept: what is tested stands in another file


@fresh
def widened(bits, out):
    for i in range(bits.size):
        out[i] = bfloat.wide(bits[i])


@fresh
def narrowed(values, out):
    for i in range(values.size):
        out[i] = bfloat.narrow(values[i])


@fresh
def exps(values, out):
    for i in range(values.size):
        out[i] = bfloat.exp(values[i])


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.int64])
def test_what_is_no_bfloat16_is_refused(kind) -> None:
    with pytest.raises(numba.TypingError):
        widened(np.zeros(3, kind), np.zeros(3, np.float32))


def test_every_bfloat16_is_widened_and_comes_back() -> None:
    bits = every_bfloat16()
    wide, back = np.empty(2**16, np.float32), torch.empty_like(bits)
    widened(array_of(bits), wide)
    torch.testing.assert_close(torch.from_numpy(wide), bits.float(), equal_nan=True, atol=0, rtol=0)
    narrowed(wide, array_of(back))
    torch.testing.assert_close(back, bits, equal_nan=True, atol=0, rtol=0)


def test_rounding_is_pytorchs() -> None:
    """To the nearest, ties to even: numbers around every midpoint, and any."""
    ties = every_bfloat16().float().view(torch.int32) + torch.tensor([[0x7FFF], [0x8000], [0x8001]])
    some = torch.randint(-(2**31), 2**31, (100_000,), dtype=torch.int64).to(torch.int32)
    values = torch.cat([ties.to(torch.int32).flatten(), some]).view(torch.float32)
    found = torch.empty(len(values), dtype=torch.bfloat16)
    narrowed(values.numpy(), array_of(found))
    torch.testing.assert_close(found, values.bfloat16(), equal_nan=True, atol=0, rtol=0)


def test_exp() -> None:
    values = np.linspace(-86.9, 87.9, 100_001, dtype=np.float32)
    out = np.empty_like(values)
    exps(values, out)
    np.testing.assert_allclose(out, np.exp(values.astype(np.float64)), rtol=5e-6)
    ends = np.array([-1e9, 1e9, -np.inf, np.inf, np.nan], np.float32)
    exps(ends, ends)
    assert ends[:4].tolist() == pytest.approx([1.6e-38, 1.65e38] * 2, rel=0.1)
    assert np.isnan(ends[4])


@pytest.mark.parametrize("more", [0, 5])
def test_norm(more: int) -> None:
    x, plus = torch.randn(5, 48).bfloat16(), torch.randn(more, 48).bfloat16()
    module = nn.Module()
    module.weight, module.variance_epsilon = torch.randn(48).bfloat16(), 1e-3
    want_x = x + plus if more else x.clone()
    want, out = _rms(want_x, module), torch.empty_like(x)
    norm = jit.Norm(array_of(module.weight), 1e-3)
    bfloat.norm(array_of(x), array_of(plus), norm, array_of(out))
    assert torch.equal(x, want_x)
    assert (out == want).float().mean() > 0.99  # the order of a sum may move a rounding
    torch.testing.assert_close(out, want, atol=0, rtol=8e-3)


def test_gate() -> None:
    both, out = 4 * torch.randn(7, 96).bfloat16(), torch.empty(7, 48, dtype=torch.bfloat16)
    bfloat.gate(array_of(both), array_of(out))
    want = F.silu(both[:, :48]) * both[:, 48:]
    assert (out == want).float().mean() > 0.99
    torch.testing.assert_close(out, want, atol=0, rtol=8e-3)


def pair(name: str) -> tuple[HFTarget, HFTarget]:
    model = tiny.make(CONFIGS[name]).bfloat16()
    set_attention(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    return HFTarget(model), without_loops(model)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_are_the_lean_forwards(name: str) -> None:
    """A prompt, a tree, a draft that grows, a padded batch; windows, biases and norms."""
    glued, lean = pair(name)
    for mine, theirs in zip(answers(glued), answers(lean), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.06, rtol=0.02)
        assert (mine == theirs).float().mean() > 0.9


def test_long_texts_are_read_by_pytorchs_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    glued, _ = pair("llama")
    calls: list = []
    monkeypatch.setattr(glue, "ROWS", 4)  # tests have one thread
    monkeypatch.setattr(glue, "gate", lambda *args: calls.append(args))
    for n, looped in ((5, 0), (4, len(glued.model.model.layers))):
        calls.clear()
        glued.score([Job(glued.new_cache(8), [1] * n, EMPTY)])
        assert len(calls) == looped


def test_what_took_another_ones_place_is_read_in_the_next_session() -> None:
    glued, lean = pair("qwen3")
    layer = glued.model.model.layers[0]
    layer.mlp.up_proj = nn.Linear(*reversed(layer.mlp.up_proj.weight.shape), bias=False).bfloat16()
    layer.input_layernorm.weight = nn.Parameter(layer.input_layernorm.weight.detach() * 3)
    for mine, theirs in zip(answers(glued), answers(lean), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.06, rtol=0.02)


def test_only_in_bfloat16_on_a_cpu_with_its_gate() -> None:
    gelu = tf.LlamaConfig(**tiny._GQA, hidden_act="gelu")
    for config, kind in ((CONFIGS["llama"], torch.float32), (gelu, torch.bfloat16)):
        model = tiny.make(config).to(kind)
        set_attention(model)
        assert type(HFTarget(model)._lean) is Lean


def test_layers_that_were_cut_to_different_widths() -> None:
    model = tiny.make(CONFIGS["llama"])
    narrow(model, Widths((1, 2), (40, 48)))
    model = model.bfloat16()
    set_attention(model)
    for mine, theirs in zip(answers(HFTarget(model)), answers(without_loops(model)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.06, rtol=0.02)


def test_each_norm_has_its_own_eps() -> None:
    """Widening changes those of the hidden rows alone."""
    model = tiny.make(CONFIGS["qwen3"])
    for layer in model.model.layers:
        layer.self_attn.q_norm.variance_epsilon = 0.5
    model = model.bfloat16()
    set_attention(model)
    for mine, theirs in zip(answers(HFTarget(model)), answers(without_loops(model)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.06, rtol=0.02)


@pytest.mark.parametrize("name", ["v_proj", "q_proj"])
def test_a_joined_layer_that_was_replaced_is_called_as_it_is(name: str) -> None:
    model = joined_model()
    a = model.model.layers[1].self_attn
    setattr(a, name, Twice(getattr(a, name)))
    same(model)


def test_a_joined_layer_that_is_hooked_is_called_as_it_is() -> None:
    model = joined_model()
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _m, _i, out: -out)
    same(model)


def test_joined_layers_are_one_product() -> None:
    model = joined_model()
    assert "joined" in HFTarget(model).how.split()
    same(model)


class Twice(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


def joined_model() -> nn.Module:
    if not can_pack(torch.bfloat16, torch.device("cpu")):
        pytest.skip("no bfloat16 in hardware")
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "head_dim": 64}
    sizes |= {"num_attention_heads": 16, "num_key_value_heads": 8}
    model = tiny.make(tf.LlamaConfig(**{**tiny._GQA, **sizes}), std=0.05).bfloat16()
    set_attention(model)
    assert pack_linears(model, join=True) == 5 * len(model.model.layers)
    return model


def without_loops(model: nn.Module) -> HFTarget:
    target = HFTarget(model)
    assert type(target._lean) is Glued
    target._lean = Lean(model, target._windows)
    return target


def same(model: nn.Module) -> None:
    for mine, theirs in zip(answers(HFTarget(model)), answers(without_loops(model)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.06, rtol=0.02)
