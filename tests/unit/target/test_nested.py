"""A model with exits: every row is its exit's own, whatever was drafted, kept or cut before."""

import random
from functools import cache

import pytest
import torch
from torch import Tensor

from foretoken.errors import CapabilityError, ConfigError
from foretoken.target.base import Job
from foretoken.target.hf import HFTarget
from foretoken.target.load import set_attention
from foretoken.target.nested import NestedTarget, even_exits
from foretoken.tree import EMPTY, DraftTree
from tests import tiny

LAYERS, EXITS = 6, (2, 4, 6)
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@cache
def whole(family: str) -> HFTarget:
    config = tiny.FAMILIES[family]()
    config.num_hidden_layers = LAYERS
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * LAYERS
    made = tiny.make(config, seed=3, std=0.3)
    set_attention(made)
    return HFTarget(made, name=family)


def nested(*thresholds: float, family: str = "llama") -> NestedTarget:
    return NestedTarget(whole(family), EXITS, thresholds)


@torch.inference_mode()
def oracle(target: NestedTarget, tokens: list[int]) -> tuple[Tensor, int]:
    """(logits, depth) of the exit that answers after the last token, by plain forwards."""
    model = target.model
    states = model(torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    for depth, threshold in zip(target.exits, target.thresholds, strict=True):
        if depth == LAYERS:
            break
        logits = model.lm_head(model.model.norm(states.hidden_states[depth][0, -1]))
        if logits.softmax(-1).max() > threshold:
            return logits, depth
    return states.logits[0, -1], LAYERS


@torch.inference_mode()
def medians(family: str) -> list[float]:
    """Per exit but the last, how sure it is of half of the tokens of some text."""
    model, text = whole(family).model, torch.tensor([tiny.prompt(6, 30)])
    states = model(text, use_cache=False, output_hidden_states=True).hidden_states
    sure = [model.lm_head(model.model.norm(states[d][0])).softmax(-1).amax(-1) for d in EXITS[:-1]]
    return [float(s.median()) for s in sure]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_the_exits_own_after_any_history(family: str) -> None:
    """Drafts of every length, of which any part stands; forced deep exits now and then."""
    target, rng = nested(*medians(family), 0.0, family=family), random.Random(1)
    cache, text = target.new_cache(8), tiny.prompt(1, 9)
    for turn in range(14):
        fresh = text[cache.length :]
        (scores,) = target.score([Job(cache, fresh, EMPTY)])
        draft: list[int] = []
        for _ in range(rng.randint(0, 5)):
            expected, depth = oracle(target, text + draft)
            before = target.answered[depth]
            assert torch.allclose(scores.logits[-1], expected, atol=1e-4)
            draft.append(int(scores.logits[-1].argmax()))
            chain = DraftTree.chain(draft)
            (scores,) = target.score([Job(cache, (), chain, len(draft) - 1)])
            assert before >= 1
        stood = rng.randint(0, len(draft))
        if turn % 5 == 4:
            cache.truncate(max(cache.length - 3, 1))
        else:
            cache.keep(range(stood))
            text += draft[:stood]
        text.append(rng.randrange(tiny.VOCAB))
    assert len(target.answered) == 3, "every exit answered now and then"


def test_a_forced_deep_exit_equals_a_plain_forward_after_early_ones() -> None:
    """What waited is caught up: all rows of the deep layers are those of a fresh pass."""
    shallow, deep = nested(0.0, 0.0, 0.0), nested(9.0, 9.0, 0.0)
    text = tiny.prompt(2, 12)
    cache = shallow.new_cache(32)
    for end in range(3, 12):  # nothing passes the first exit
        shallow.score([Job(cache, text[cache.length : end], EMPTY)])
        cache.keep(())
    assert cache.read == [11, 0, 0]
    (scores,) = deep.score([Job(cache, text[11:], EMPTY)])
    assert torch.allclose(scores.logits[0], tiny_logits(deep, text), atol=1e-4)
    assert cache.read == [12, 12, 12]


@torch.inference_mode()
def tiny_logits(target: NestedTarget, text: list[int]) -> Tensor:
    return target.model(torch.tensor([text]), use_cache=False).logits[0, -1]


def test_several_new_nodes_in_one_call_are_those_of_single_calls() -> None:
    text, chain = tiny.prompt(3, 6), DraftTree.chain([5, 9, 2])
    one, other = nested(0.2, 0.3, 0.0), nested(0.2, 0.3, 0.0)
    a, b = one.new_cache(32), other.new_cache(32)
    (together,) = one.score([Job(a, text, chain)])
    rows = [other.score([Job(b, text, EMPTY)])[0].logits]
    for n in range(3):
        rows.append(other.score([Job(b, (), DraftTree.chain([5, 9, 2][: n + 1]), n)])[0].logits)
    assert torch.allclose(together.logits, torch.cat(rows), atol=1e-5)


def test_lower_thresholds_answer_earlier() -> None:
    depths = []
    for threshold in (9.0, 0.5, 0.3, 0.15, 0.0):
        target = nested(threshold, threshold, 0.0)
        cache = target.new_cache(64)
        for token in tiny.prompt(4, 40):
            target.score([Job(cache, [token], EMPTY)])
            cache.keep(())
        depths.append(target.mean_depth)
    assert depths == sorted(depths, reverse=True)
    assert (depths[0], depths[-1]) == (6.0, 2.0)
    assert len(set(depths)) > 3


@torch.inference_mode()
def test_the_last_hidden_state_is_what_the_output_layer_read() -> None:
    target = nested(0.3, 0.3, 0.0)
    target.watch_hidden()
    (scores,) = target.score([Job(target.new_cache(16), tiny.prompt(1, 5), DraftTree.chain([3]))])
    assert torch.allclose(target.model.lm_head(scores.hidden["final"]), scores.logits)
    assert scores.hidden["final"].shape == (2, 32)


def test_what_cannot_be_is_refused() -> None:
    for exits in ((), (3,), (4, 2, 6), (0, 6), (2, 2, 6), (2, 8)):
        with pytest.raises(ConfigError, match="exits"):
            NestedTarget(whole("llama"), exits, [0.0] * len(exits))
    with pytest.raises(ConfigError, match="thresholds"):
        NestedTarget(whole("llama"), EXITS, (0.5, 0.0))
    with pytest.raises(CapabilityError, match="gpt2"):
        NestedTarget(tiny.target("gpt2"), (1, 2), (0.5, 0.0))
    with pytest.raises(ValueError, match="chain"):
        target = nested(0.3, 0.3, 0.0)
        target.score([Job(target.new_cache(9), [1], DraftTree([1, 2], [-1, -1]))])


def test_even_exits() -> None:
    assert even_exits(12) == (6, 9, 12)
    assert even_exits(4) == (2, 3, 4)
    assert even_exits(2) == (1, 2)
    assert even_exits(1) == (1,)
