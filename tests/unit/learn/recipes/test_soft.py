"""Sorted training: all exits every step, gradients as the specification says."""

import copy

import numpy as np
import pytest
import torch
import transformers as tf
from tests import tiny

from foretoken.errors import CapabilityError, ConfigError
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.soft import Soft, exit_logits
from foretoken.learn.recipes.soft_config import SoftConfig
from foretoken.target.narrow import keep_layers

VOCAB, EXITS = 32, (1, 2, 4)


def model(seed: int = 0, layers: int = 4):
    sizes = {**tiny._GQA, "num_hidden_layers": layers, "vocab_size": VOCAB}
    return tiny.make(tf.LlamaConfig(**sizes), seed, 0.2).requires_grad_(True)


def rows(n: int = 24) -> Rows:
    """Texts that count upwards in steps of their own."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, VOCAB, (n, 2))
    texts = [[(a + (1 + b % 3) * i) % VOCAB for i in range(20)] for a, b in starts.tolist()]
    return Rows.of([(text, 2) for text in texts], 20, held_out=0.2)


def run(drafter, target=None, exits=EXITS, **values: object) -> Soft:
    given = {"steps": 1, "batch": 4, "micro": 4, "seq": 20, "optimiser": "adamw", "warmup": 0}
    config = SoftConfig.checked(**{**given, **values})
    return Soft(drafter, target, rows(), config, exits=exits)


def test_every_exit_reads_its_own_layers() -> None:
    whole, batch = model(), rows().batch(0, 3)
    for depth, logits in zip(EXITS, exit_logits(whole, batch, EXITS), strict=True):
        cut = copy.deepcopy(whole)
        keep_layers(cut, range(depth))
        (alone,) = exit_logits(cut, batch, (depth,))
        assert torch.allclose(logits, alone, atol=1e-5)


def test_first_layers_learn_from_all_exits_and_last_ones_from_one() -> None:
    """The gradient of a layer is the mean of those of the exits at or above it."""
    drafter, batch = model(), rows().batch(0, 4)

    def gradients(exits: tuple[int, ...]) -> list[torch.Tensor]:
        drafter.zero_grad()
        loss, _ = run(drafter, exits=EXITS).loss(batch)
        if exits != EXITS:
            logits = exit_logits(drafter, batch, EXITS)[EXITS.index(exits[0])]
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
            )
            weight = batch.mask[:, 1:].flatten().float()
            loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        return [
            torch.zeros(1) if (g := layer.mlp.up_proj.weight.grad) is None else g.clone()
            for layer in drafter.model.layers
        ]

    together, single = gradients(EXITS), {depth: gradients((depth,)) for depth in EXITS}
    for layer in range(4):
        above = [single[depth][layer] for depth in EXITS if depth > layer]
        assert torch.allclose(together[layer], sum(above) / len(EXITS), atol=1e-6)
        for depth in EXITS:
            assert bool(single[depth][layer].any()) == (depth > layer)


@pytest.mark.parametrize("loss", ["ce-text", "forward-kl"])
def test_all_exits_get_better(loss: str) -> None:
    target = model(5) if loss != "ce-text" else None
    made = run(model(), target, loss=loss, steps=40, lr=3e-3)
    before = made.evaluate()
    made.trainer.train()
    after, better = made.evaluate(), 1 if loss == "ce-text" else -1
    assert len(after) == len(EXITS)
    assert all((before[name] - after[name]) * better > 0.02 for name in after)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="exits"):
        run(model(), exits=(1, 2))
    with pytest.raises(ConfigError, match="loss"):
        run(model(), loss="forward-kl")
    with pytest.raises(ConfigError, match="loss"):
        SoftConfig.checked(loss="none")
    with pytest.raises(CapabilityError, match="gpt2"):
        run(copy.deepcopy(tiny.model("gpt2")), exits=(1, 2))


def test_batches_have_positions() -> None:
    """Packed rows keep texts apart in every exit."""
    batch = rows().batch(0, 1)
    assert batch.positions is not None
    lone = Batch(batch.ids, batch.mask)
    assert exit_logits(model(), lone, EXITS)[0].shape == (1, 19, VOCAB)
