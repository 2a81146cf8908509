"""The lean forward: bit for bit the model's own, and only where nothing would be passed over."""

import copy

import pytest
import torch
import transformers as tf
from torch import nn

from foretoken.target.base import Job
from foretoken.target.hf import HFTarget
from foretoken.target.lean import Lean
from foretoken.target.load import set_attention
from foretoken.target.widen import FAMILIES
from foretoken.tree import EMPTY, DraftTree
from tests import tiny

MIXED = tf.Qwen2Config(
    **{**tiny._GQA, "num_hidden_layers": 3}, use_sliding_window=True, sliding_window=tiny.WINDOW,
    max_window_layers=1,
)  # fmt: skip
YARN = tf.LlamaConfig(
    **tiny._GQA,
    rope_parameters={
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 64,
    },
)  # fmt: skip
CONFIGS = {**{name: tiny.FAMILIES[name]() for name in FAMILIES}, "mixed": MIXED, "yarn": YARN}
TREE = DraftTree([3, 4, 5, 6, 9], [-1, -1, 0, 1, 2])


def pair(model) -> tuple[HFTarget, HFTarget]:
    set_attention(model)
    ours, own = HFTarget(model), HFTarget(copy.deepcopy(model))
    if ours._lean is not None:  # without the loops of bfloat16
        ours._lean = Lean(model, ours._windows)
    own._lean = None
    return ours, own


def answers(target: HFTarget) -> list[torch.Tensor]:
    """A prompt longer than the window, a tree, a draft that grows, and a batch."""
    prompts = [tiny.prompt(seed, n) for seed, n in ((1, 21), (2, 5), (3, 12))]
    caches = [target.new_cache(64) for _ in prompts]
    out = []
    for cache, prompt in zip(caches, prompts, strict=True):
        out += target.score([Job(cache, prompt, EMPTY)])
        cache.keep([])
    out += target.score([Job(caches[0], [7], TREE)])
    grown = DraftTree([*TREE.tokens, 8], [*TREE.parents, 4])
    out += target.score([Job(caches[0], [], grown, scored=len(TREE))])
    out += target.score([Job(c, [9], t) for c, t in zip(caches, (TREE, EMPTY, TREE), strict=True)])
    for cache in caches:
        cache.release()
    return [scores.logits for scores in out]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_gives_the_bits_of_the_models_own_forward(name: str, dtype: torch.dtype) -> None:
    lean, own = pair(tiny.make(CONFIGS[name]).to(dtype))
    assert lean._lean is not None
    assert "lean" in lean.how.split()
    assert ("glued" in HFTarget(lean.model).how.split()) is (dtype == torch.bfloat16)
    for mine, theirs in zip(answers(lean), answers(own), strict=True):
        assert torch.equal(mine, theirs)


def test_what_is_trained_meanwhile_is_read_as_it_is() -> None:
    lean, own = pair(tiny.make(CONFIGS["qwen3"]))
    with torch.no_grad():
        for target in (lean, own):
            for parameter in target.model.parameters():
                parameter.mul_(1.25)
            head = copy.deepcopy(target.model.lm_head)
            head.weight.neg_()
            target.model.set_output_embeddings(head)
    for mine, theirs in zip(answers(lean), answers(own), strict=True):
        assert torch.equal(mine, theirs)


def hooked(model: nn.Module) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)


def patched(model: nn.Module) -> None:
    layer = model.model.layers[0]
    layer.forward = layer.forward


def replaced(model: nn.Module) -> None:
    class Norm(nn.Module):
        weight, variance_epsilon = torch.ones(32), 1e-6

        def forward(self, x):
            return 2.0 * x

    model.model.norm = Norm()


def normed(model: nn.Module) -> None:
    model.model.layers[0].self_attn.k_norm.register_forward_pre_hook(lambda *_: None)


@pytest.mark.parametrize("change", [hooked, patched, replaced, normed])
def test_nothing_is_passed_over(change) -> None:
    model = tiny.make(CONFIGS["qwen3"])
    set_attention(model)
    change(model)
    assert HFTarget(model)._lean is None


def test_what_is_hooked_in_later_is_not_passed_over_in_the_next_session() -> None:
    target, _ = pair(tiny.make(CONFIGS["llama"]))
    seen = []
    target.model.model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    cache = target.new_cache(8)
    target.score([Job(cache, [1, 2, 3], EMPTY)])
    assert seen


def test_a_model_that_was_cut_short_runs_what_is_left() -> None:
    model = tiny.make(tf.LlamaConfig(**{**tiny._GQA, "num_hidden_layers": 4}))
    model.model.layers = nn.ModuleList(model.model.layers[::2])
    model.config.num_hidden_layers = 2
    lean, own = pair(model)
    assert lean._lean is not None
    for mine, theirs in zip(answers(lean), answers(own), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", [name for name in tiny.FAMILIES if name not in FAMILIES])
def test_other_families_run_as_they_are(name: str) -> None:
    assert tiny.target(name)._lean is None


def test_bitwise_runs_the_models_own() -> None:
    assert tiny.fresh_target("llama", "bitwise")._lean is None


def test_an_adapted_linear_layer_is_called_as_it_is() -> None:
    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2.0 * self.inner(x)

    model = tiny.make(CONFIGS["llama"])
    for layer in model.model.layers:
        layer.mlp.up_proj = Twice(layer.mlp.up_proj)
    lean, own = pair(model)
    assert lean._lean is not None
    for mine, theirs in zip(answers(lean), answers(own), strict=True):
        assert torch.equal(mine, theirs)
