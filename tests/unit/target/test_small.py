"""Models that draft as loops: the model's own rows up to rounding, and only where they are suited."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf
from torch import nn

from foretoken.draft.lm_model import small_model
from foretoken.draft.superposed import _mixed_embedding
from foretoken.target import small
from foretoken.target.base import Job
from foretoken.target.hf import HFTarget
from foretoken.target.lean import Lean
from foretoken.target.linear import WORTH, HalfLinear, PackedLinear, can_pack, pack_head
from foretoken.target.load import set_attention
from foretoken.target.narrow import Widths, narrow
from foretoken.target.small import SmallTarget, may_loop, small_target, suited, target_like
from foretoken.target.widen import FAMILIES
from foretoken.tree import EMPTY, DraftTree
from tests import tiny
from tests.unit.target.test_lean import CONFIGS, MIXED, answers

FULL = {name: config for name, config in CONFIGS.items() if name not in ("mistral", "mixed")}


def made(config) -> nn.Module:
    model = tiny.make(config).float()
    set_attention(model)
    return model


@pytest.fixture(params=FULL)
def pair(request: pytest.FixtureRequest) -> tuple[SmallTarget, HFTarget]:
    model = made(FULL[request.param])
    with torch.no_grad():  # biases and norms that a wrong place would show
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    ours = small_target(model)
    assert isinstance(ours, SmallTarget)
    return ours, HFTarget(copy.deepcopy(model))


def test_rows_are_the_models_own(pair: tuple[SmallTarget, HFTarget], monkeypatch) -> None:
    """A prompt, a tree, a draft that grows, and a padded batch."""
    calls = []
    monkeypatch.setattr(SmallTarget, "_looped", spy(SmallTarget._looped, calls))
    ours, own = map(answers, pair)
    assert len(calls) == len(ours) - 2  # the batch of three is one forward
    for mine, theirs in zip(ours, own, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)


def spy(function, calls):
    def noted(*args):
        calls.append(args)
        return function(*args)

    return noted


def test_committed_rows_are_read_by_either_forward(pair, monkeypatch) -> None:
    """What loops stored, PyTorch's forward continues, and the other way round."""
    (ours, own), whole = pair, small.WORK
    for most in (0, small.WORK), (small.WORK, 0):
        rows = []
        for target in (ours, own):
            monkeypatch.setattr(small, "WORK", whole)
            cache = target.new_cache(64)
            for piece, allowed in zip((tiny.prompt(4, 9), tiny.prompt(5, 7)), most, strict=True):
                monkeypatch.setattr(small, "WORK", allowed)
                rows.append(target.score([Job(cache, piece, EMPTY)])[0].logits)
                cache.keep([])
            cache.release()
        for mine, theirs in zip(rows[:2], rows[2:], strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)


def test_more_rows_than_are_worth_it_go_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list = []
    monkeypatch.setattr(SmallTarget, "_looped", spy(SmallTarget._looped, calls))
    target = small_target(made(CONFIGS["llama"]))
    calls.clear()
    cache = target.new_cache(32)
    monkeypatch.setattr(small, "WORK", 4 * (target._per_row + target._per_column * 5))
    for n, looped in ((4, 1), (5, 1)):
        target.score([Job(cache, [3] * n, EMPTY)])
        assert len(calls) == looped


def test_the_hidden_rows_are_what_the_output_layer_reads() -> None:
    model = made(CONFIGS["llama"])
    found = []
    for target in (small_target(model), HFTarget(copy.deepcopy(model))):
        target.watch_hidden()
        tree = DraftTree([3, 4], [-1, -1])
        found.append(target.score([Job(target.new_cache(8), [1, 2], tree)])[0].hidden["final"])
    assert found[0].shape == (3, model.config.hidden_size)
    torch.testing.assert_close(*found, atol=2e-5, rtol=2e-5)


def test_what_is_trained_or_replaced_meanwhile_is_read() -> None:
    model = made(CONFIGS["qwen3"])
    target, own = small_target(model), HFTarget(copy.deepcopy(model))
    for change in (in_place, replaced):
        for each in (target, own):
            change(each.model)
        rows = [
            each.score([Job(each.new_cache(8), [1, 2], EMPTY)])[0].logits for each in (target, own)
        ]
        torch.testing.assert_close(*rows, atol=2e-5, rtol=2e-5)


def in_place(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)


def replaced(model: nn.Module) -> None:
    mlp = model.model.layers[0].mlp
    mlp.up_proj.weight = nn.Parameter(-mlp.up_proj.weight.detach())


@pytest.mark.parametrize("where", ["layers.0", "layers.1.mlp.up_proj"])
def test_what_is_hooked_in_later_is_not_passed_over_in_the_next_session(where: str) -> None:
    model = made(CONFIGS["llama"])
    target = small_target(model)
    seen: list = []
    model.model.get_submodule(where).register_forward_hook(lambda *_: seen.append(1))
    target.score([Job(target.new_cache(8), [1, 2], EMPTY)])
    assert seen


def test_not_a_number_is_passed_on() -> None:
    """A drafter whose weights went wrong is found by its logits."""
    model = made(CONFIGS["llama"])
    target = small_target(model)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[0, 0] = float("nan")
    logits = target.score([Job(target.new_cache(8), [1, 2], EMPTY)])[0].logits
    assert logits.isnan().any()


def biased() -> nn.Module:
    return made(tf.LlamaConfig(**tiny._GQA, attention_bias=True))


def other_act() -> nn.Module:
    return made(tf.LlamaConfig(**tiny._GQA, hidden_act="gelu"))


def adapted() -> nn.Module:
    model = made(CONFIGS["llama"])

    class Own(nn.Linear):
        pass

    old = model.model.layers[0].mlp.up_proj
    new = Own(old.in_features, old.out_features, bias=False)
    model.model.layers[0].mlp.up_proj = new
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: made(MIXED), lambda: made(CONFIGS["mistral"]), lambda: made(tiny.FAMILIES["gpt2"]()),
        lambda: made(CONFIGS["llama"]).bfloat16(), biased, other_act, adapted,
    ],
)  # fmt: skip
def test_others_keep_the_usual_forward(make) -> None:
    model = make()
    assert not suited(model)
    assert type(small_target(model)) is HFTarget


def test_large_ones_keep_the_usual_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(CONFIGS["llama"])
    assert suited(model)
    layers = sum(p.numel() for n, p in model.model.layers.named_parameters() if "proj.weight" in n)
    assert small.layer_weights(model.config) == layers
    monkeypatch.setattr(small, "WORK", layers - 1)
    assert not suited(model)


def test_what_takes_anothers_place_drafts_as_it_does() -> None:
    model = made(CONFIGS["llama"])
    assert type(target_like(HFTarget(model), model)) is HFTarget
    assert type(target_like(small_target(model), model)) is SmallTarget


def test_a_small_folder_is_loaded_for_loops(tmp_path: Path) -> None:
    made(CONFIGS["llama"]).bfloat16().save_pretrained(tmp_path / "small")
    cpu = torch.device("cpu")
    assert may_loop(str(tmp_path / "small"), cpu)
    assert not may_loop(str(tmp_path / "none"), cpu)
    assert not may_loop(str(tmp_path / "small"), torch.device("meta"))
    loaded = small_model(str(tmp_path / "small"), tiny.context(), "lm").target
    assert type(loaded) is SmallTarget
    assert loaded.dtype == torch.float32
    assert "loops" in loaded.how.split()


def test_families() -> None:
    assert set(FAMILIES) <= set(CONFIGS)


def test_a_hooked_embedding_is_called() -> None:
    """So `superposed` feeds the mean of several tokens."""
    model = made(CONFIGS["llama"])
    target, own = small_target(model), HFTarget(copy.deepcopy(model))
    for each in (target, own):
        with _mixed_embedding(each.model, [3, 9], [0.25, 0.75]):
            each.rows = each.score([Job(each.new_cache(8), [1], EMPTY)])[0].logits
    torch.testing.assert_close(target.rows, own.rows, atol=2e-5, rtol=2e-5)


def test_layers_that_were_cut() -> None:
    """To different widths, or off the end."""
    narrowed, short = (made(CONFIGS["llama"]) for _ in range(2))
    narrow(narrowed, Widths((1, 2), (40, 48)))
    short.config.num_hidden_layers = 1
    for model in (narrowed, short):
        ours = small_target(model)
        assert isinstance(ours, SmallTarget)
        for mine, theirs in zip(answers(ours), answers(HFTarget(model)), strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)


def test_a_long_context_goes_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core attends to all of it."""
    calls: list = []
    monkeypatch.setattr(SmallTarget, "_looped", spy(SmallTarget._looped, calls))
    target = small_target(made(CONFIGS["llama"]))
    cache = target.new_cache(64)
    calls.clear()
    monkeypatch.setattr(small, "WORK", 2 * (target._per_row + target._per_column * 20))
    for start, looped in ((0, 1), (30, 1)):
        cache.length = start
        target.score([Job(cache, [3, 4], EMPTY)])
        assert len(calls) == looped


def test_without_numba_the_usual_forward_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foretoken.target.loops", None)
    monkeypatch.setitem(sys.modules, "foretoken.target.glue", None)
    monkeypatch.delattr("foretoken.target.loops", raising=False)
    model = made(CONFIGS["llama"])
    assert type(small_target(model)) is HFTarget
    assert type(HFTarget(model.bfloat16())._lean) is Lean


def test_a_large_output_layer_is_packed_and_the_others_are_not() -> None:
    if not can_pack(torch.float32, torch.device("cpu")):
        pytest.skip("PyTorch without oneDNN")
    model = made(tf.LlamaConfig(**{**tiny._GQA, "vocab_size": WORTH // 32}))
    own = copy.deepcopy(model)
    pack_head(model)
    assert isinstance(model.get_output_embeddings(), PackedLinear)
    ours = small_target(model)
    assert isinstance(ours, SmallTarget)
    off = 0.05 if isinstance(model.get_output_embeddings(), HalfLinear) else 5e-5
    for mine, theirs in zip(answers(ours), answers(HFTarget(own)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=off, rtol=off)
