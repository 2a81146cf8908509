"""A forward as one program: its rows are the lean forward's, as far as bfloat16 goes."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from foretoken.target.base import Job
from foretoken.target.glue import Glued
from foretoken.target.hf import HFTarget
from foretoken.target.lean import Lean
from foretoken.target.linear import pack_linears, packing
from foretoken.target.load import set_attention
from foretoken.target.narrow import Widths, narrow
from foretoken.target.program import Program
from foretoken.tree import EMPTY, DraftTree
from tests import tiny
from tests.unit.target.test_lean import CONFIGS, answers

pytestmark = pytest.mark.usefixtures("with_tiles")
SIZES = {"hidden_size": 128, "intermediate_size": 96, "head_dim": 32}


def made(name: str, *cut: Widths) -> nn.Module:
    """In bfloat16 and packed; norms and biases are what a wrong place would show."""
    config = copy.deepcopy(CONFIGS[name])
    for key, value in SIZES.items():
        setattr(config, key, value)
    model = tiny.make(config, std=0.08)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    for widths in cut:
        narrow(model, widths)
    return packed(model)


def packed(model: nn.Module) -> nn.Module:
    model = model.bfloat16()
    set_attention(model)
    pack_linears(model, join=True)
    return model


def kinds(model: nn.Module, *which: type[Lean]) -> list[HFTarget]:
    """Targets of the model that run this way; the first is as it comes."""
    targets = [HFTarget(model) for _ in which]
    assert type(targets[0]._lean) is which[0]
    for target, kind in zip(targets[1:], which[1:], strict=True):
        target._lean = kind(model, target._windows)
        assert target._lean.stands()
    return targets


def close(model: nn.Module, first: type[Lean] = Program) -> None:
    """No further from the model's rows in float32 than the lean forward's, on average."""
    mine, theirs = (answers(target) for target in kinds(model, first, Lean))
    exact = in_float32(model)
    off, off_by = (
        torch.cat([(a - b).float().reshape(-1) for a, b in zip(rows, exact, strict=True)])
        for rows in (mine, theirs)
    )
    assert off.square().mean() <= 1.5 * off_by.square().mean()
    assert off.abs().max() <= 2 * off_by.abs().max()


def in_float32(model: nn.Module) -> list[Tensor]:
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "dense"):
                plain = nn.Linear(child.in_features, child.out_features, child.bias is not None)
                plain.weight = nn.Parameter(child.dense())
                if child.bias is not None:
                    plain.bias = nn.Parameter(child.bias.clone())
                setattr(module, name, plain)
    target = HFTarget(model.float())
    target._lean = None
    return answers(target)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("name", CONFIGS)
def test_rows_are_the_lean_forwards(name: str) -> None:
    """A prompt, a tree, a draft that grows, a padded batch; windows, biases and norms."""
    model = made(name)
    assert "program tiles joined" in HFTarget(model).how
    close(model)


def test_layers_that_were_cut_to_different_widths() -> None:
    model = made("llama", Widths((1, 2), (64, 96)))
    assert packing(model) == "tiles joined"
    close(model)


def test_a_row_has_its_bits_among_others() -> None:
    """The root of any tree, and a prompt read at once or in pieces."""
    (target,) = kinds(made("qwen3"), Program)
    prompt = tiny.prompt(3, 40)
    cache = target.new_cache(64)
    target.score([Job(cache, prompt, EMPTY)])
    cache.keep([])
    alone = target.score([Job(cache, [7], EMPTY)])[0].logits[0]
    for n in (1, 15, 16, 40):
        tree = DraftTree(list(range(n)), [-1] * n)
        assert torch.equal(target.score([Job(cache, [7], tree)])[0].logits[0], alone)
    other = target.new_cache(64)
    for piece in (prompt[:17], prompt[17:]):
        target.score([Job(other, piece, EMPTY)])
        other.keep([])
    assert torch.equal(target.score([Job(other, [7], EMPTY)])[0].logits[0], alone)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_chain_has_the_bits_of_plain_decoding(name: str) -> None:
    (target,) = kinds(made(name), Program)
    prompt, chain = tiny.prompt(4, 37), tiny.prompt(5, 20)
    drafted, plain = target.new_cache(64), target.new_cache(64)
    for cache in (drafted, plain):
        target.score([Job(cache, prompt, EMPTY)])
        cache.keep([])
    tree = DraftTree(chain[1:], list(range(-1, len(chain) - 2)))
    rows = target.score([Job(drafted, chain[:1], tree)])[0].logits
    for token, row in zip(chain, rows, strict=True):
        assert torch.equal(target.score([Job(plain, [token], EMPTY)])[0].logits[0], row)
        plain.keep([])


def test_memory_grows_between_forwards() -> None:
    (target,) = kinds(made("llama"), Program)
    cache = target.new_cache(8)
    target.score([Job(cache, [1, 2, 3], EMPTY)])
    cache.keep([])
    before = target.score([Job(cache, [4], EMPTY)])[0].logits
    others = [target.new_cache(300) for _ in range(3)]
    target.score([Job(others[2], list(range(60)), EMPTY)])
    assert torch.equal(target.score([Job(cache, [4], EMPTY)])[0].logits, before)


def test_a_weight_that_is_filled_anew_is_read_at_once() -> None:
    model = made("llama")
    (target,) = kinds(model, Program)
    cache = target.new_cache(8)
    before = target.score([Job(cache, [1, 2], EMPTY)])[0].logits
    down = model.model.layers[0].mlp.down_proj
    weight = down.dense()
    down.refill(-weight.float())
    assert torch.equal(down.dense(), -weight)
    assert not torch.equal(target.score([Job(cache, [1, 2], EMPTY)])[0].logits, before)
    down.refill(weight)
    assert torch.equal(target.score([Job(cache, [1, 2], EMPTY)])[0].logits, before)


class Twice(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.inner(x)


def adapted(model: nn.Module) -> None:
    model.model.layers[1].mlp.down_proj = Twice(model.model.layers[1].mlp.down_proj)


def replaced(model: nn.Module) -> None:
    a = model.model.layers[0].self_attn
    a.k_proj = Twice(a.k_proj)


def hooked(model: nn.Module) -> None:
    model.model.layers[0].self_attn.o_proj.register_forward_hook(lambda _m, _i, out: -out)


@pytest.mark.parametrize("change", [adapted, replaced, hooked])
def test_what_is_not_its_own_is_called_as_it_is(change: Any) -> None:
    """Also what changes later: in the next session, another forward runs."""
    model = made("llama")
    later = kinds(model, Program)[0]
    before = answers(later)
    change(model)
    mine, theirs = (answers(target) for target in kinds(model, Glued, Lean))
    after = answers(later)
    assert type(later._lean) is Glued
    for a, b, c, old in zip(mine, theirs, after, before, strict=True):
        torch.testing.assert_close(a, b, atol=0.1, rtol=0.03)
        assert torch.equal(a, c)
        assert not torch.equal(a, old)


def test_only_where_everything_is_tiles() -> None:
    model = made("llama")
    plain = nn.Linear(96, 128, bias=False).bfloat16()
    model.model.layers[1].mlp.down_proj = plain
    assert type(HFTarget(model)._lean) is Glued
    narrow_heads = tiny.make(tf.LlamaConfig(**{**tiny._GQA, "head_dim": 16, "hidden_size": 64}))
    assert type(HFTarget(packed(narrow_heads))._lean) is Glued


def test_rows_that_are_watched_are_the_output_layers() -> None:
    (target,) = kinds(made("qwen2"), Program)
    target.watch_hidden()
    cache = target.new_cache(16)
    scores = target.score([Job(cache, [1, 2, 3], DraftTree([4, 5], [-1, 0]))])[0]
    head = target.model.get_output_embeddings()
    assert scores.hidden["final"].shape == (3, SIZES["hidden_size"])
    assert torch.equal(head(scores.hidden["final"]), scores.logits)


def test_every_bias() -> None:
    """Of all the linear layers, also those that most families have without."""
    config = tf.LlamaConfig(**{**tiny._GQA, **SIZES}, attention_bias=True, mlp_bias=True)
    model = tiny.make(config, std=0.08)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) / 4)
    close(packed(model))


@pytest.mark.parametrize("head_dim", [64, 128])
def test_larger_heads(head_dim: int) -> None:
    model = tiny.make(tf.Qwen3Config(**{**tiny._GQA, **SIZES, "head_dim": head_dim}), std=0.08)
    close(packed(model))


def test_a_norm_whose_memory_is_swapped_while_a_text_runs() -> None:
    model = made("llama")
    (target,) = kinds(model, Program)
    cache = target.new_cache(8)
    before = target.score([Job(cache, [1, 2], EMPTY)])[0].logits
    norm = model.model.layers[0].input_layernorm
    norm.weight.data = torch.full_like(norm.weight.data, 3.0)
    assert torch.equal(target.score([Job(cache, [1, 2], EMPTY)])[0].logits, before)
    other = target.new_cache(8)  # from the next session on
    assert not torch.equal(target.score([Job(other, [1, 2], EMPTY)])[0].logits, before)


def test_two_targets_of_one_model_in_two_threads() -> None:
    model = made("qwen2")
    targets = kinds(model, Program, Program)
    want = answers(targets[0])

    def often(target: HFTarget) -> None:
        for _ in range(5):
            for mine, theirs in zip(answers(target), want, strict=True):
                assert torch.equal(mine, theirs)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(often, targets))


def test_an_embedding_of_another_type_is_no_crash() -> None:
    model = made("llama")
    (target,) = kinds(model, Program)
    model.model.embed_tokens.register_forward_hook(lambda _m, _i, out: out.float())
    with pytest.raises(RuntimeError, match=r"embedding gives torch.float32"):
        target.score([Job(target.new_cache(8), [1, 2], EMPTY)])
