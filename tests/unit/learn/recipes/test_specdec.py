"""Training of SpecDec++'s head: labels, mixing and loss by brute force; predictions that are right on
average, and with the weight undone; nothing but the head learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor, nn

from foretoken.draft.trimmed import trimmed
from foretoken.errors import ConfigError
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.specdec import (
    Labelled,
    SpecdecTraining,
    States,
    head_loss,
    label,
    mixed,
)
from foretoken.learn.recipes.specdec_config import SpecdecConfig
from foretoken.learn.recipes.specdec_head import SpecdecHead, corrected
from foretoken.learn.recipes.trainer import StoppedError

V = 32
BASE = {"steps": 10, "batch": 4, "micro": 2, "seq": 30, "lr": 0.01, "warmup": 2, "held_out": 0.3,
        "depth": 1, "eval_every": 5, "checkpoint_every": 3}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def rows() -> Rows:
    texts = [(tiny.prompt(i, 10 + i % 5, V), 4) for i in range(40)]
    return Rows.of(texts, 30, held_out=0.3)


def training(rows: Rows, drafter: Any = None, work: Path | None = None, **values: Any) -> Any:
    config = SpecdecConfig.checked(**{**BASE, **values})
    chosen = copy.deepcopy(tiny.small_model(V).model) if drafter is None else drafter
    return SpecdecTraining(chosen, copy.deepcopy(tiny.model("small")), rows, config, work)


# ----------------------------------------------------------------------------- labels and mixing


def test_labels_are_the_chance_of_acceptance() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.9, 0.0]])
    q = torch.tensor([[0.25, 0.6, 0.15], [0.1, 0.1, 0.8]])
    made = [label(p.log(), q.log(), torch.tensor([t, t])).tolist() for t in range(3)]
    for token, found in enumerate(made):
        expected = [min(1.0, float(p[i, token] / q[i, token])) for i in range(2)]
        assert found == pytest.approx(expected)


def test_a_drafter_that_is_the_target_is_always_accepted(rows: Rows) -> None:
    run = training(rows, copy.deepcopy(tiny.model("small")))
    for temperature in (1.0, 0.5):
        run = training(rows, copy.deepcopy(tiny.model("small")), temperature=temperature)
        made = run.prepare(0, rows.batch(0, 4))
        assert float(made.labels[made.mask].min()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "served", [{}, {"temperature": 0.6}, {"temperature": 0.9, "top_k": 6, "top_p": 0.8}]
)
def test_labels_are_of_what_is_served(rows: Rows, served: dict[str, Any]) -> None:
    """Against plain forwards of every example alone, processed by hand."""
    run, batch = training(rows, mix=0.0, **served), rows.batch(0, 2)
    made = run.labelled(batch, generator())
    for b, t in batch.mask.nonzero().tolist():
        place = int(batch.positions[b, t])
        text = batch.ids[b, t - place : t][None]
        laws = []
        for model in (run.target, run.drafter):
            z = model(text, use_cache=False).logits[0, -1].detach() / served.get("temperature", 1.0)
            if k := served.get("top_k"):
                z[z < z.topk(k).values[-1]] = -torch.inf
            if top_p := served.get("top_p"):
                order = z.softmax(-1).sort(descending=True)
                kept = order.values.cumsum(-1) - order.values < top_p
                z[order.indices[~kept]] = -torch.inf
            laws.append(z.softmax(-1))
        token = int(made.ids[b, t])
        expected = min(1.0, float(laws[0][token] / laws[1][token]))
        assert float(made.labels[b, t]) == pytest.approx(expected, abs=1e-4)


def test_greedy_text_is_labelled_by_agreement(rows: Rows) -> None:
    run, batch = training(rows, mix=0.0, temperature=0.0), rows.batch(0, 2)
    made = run.labelled(batch, generator())
    for b, t in batch.mask.nonzero().tolist():
        text = batch.ids[b, t - int(batch.positions[b, t]) : t][None]
        best = [int(m(text, use_cache=False).logits[0, -1].argmax()) for m in (run.target, run.drafter)]  # fmt: skip
        assert int(made.ids[b, t]) == best[1]
        assert float(made.labels[b, t]) == float(best[0] == best[1])


def test_a_trimmed_drafter_draws_what_it_keeps(rows: Rows) -> None:
    keep = list(range(0, V, 3))
    run = training(rows, trimmed(tiny.small_model(V).model, keep), mix=0.0)
    made = run.labelled(rows.batch(0, 4), generator())
    assert set(made.ids[made.mask].tolist()) <= set(keep)
    assert run.head.hidden == 32


def test_the_loss_mask_is_where_the_drafters_token_stands() -> None:
    """The share of the target's tokens is r; prompts stay as they are."""
    ids = torch.zeros(200, 50, dtype=torch.int64)
    batch = Batch(ids, torch.arange(50)[None].expand(200, 50) >= 20)
    made = mixed(batch, torch.ones_like(ids), torch.full(ids.shape, 0.5), 0.15, generator())
    assert torch.equal(made.mask, made.ids == 1)
    assert not made.mask[:, :20].any()
    assert float(made.mask[:, 20:].float().mean()) == pytest.approx(0.85, abs=0.015)
    assert torch.equal(made.labels, 0.5 * made.mask)


def test_every_step_draws_by_its_number(rows: Rows) -> None:
    run, batch = training(rows), rows.batch(3, 4)
    first, again, other = (run.prepare(step, batch) for step in (3, 3, 4))
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.ids, other.ids)
    assert torch.equal(first.ids[~batch.mask], batch.ids[~batch.mask])


# ------------------------------------------------------------------------------------- the loss


def test_the_loss_spelled_out() -> None:
    logits, labels = torch.randn(9, 2, generator=generator()), torch.rand(9, generator=generator(1))
    f, w, total, mass = logits.softmax(-1)[:, 1], 6.0, 0.0, 0.0
    for chance, p in zip(f.tolist(), labels.tolist(), strict=True):
        total -= w * (1 - p) * torch.tensor(1 - chance).log() + p * torch.tensor(chance).log()
        mass += w * (1 - p) + p
    assert float(head_loss(logits, labels, w)) == pytest.approx(float(total) / mass, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 6.0])
def test_predictions_agree_with_labels_on_average(weight: float) -> None:
    """States whose acceptance is a known function of them: with w = 1 the mean prediction is the
    mean label; with w = 6 it is too low, and right when the weight is undone."""

    def acceptance(states: Tensor) -> Tensor:
        return torch.sigmoid(1.5 * states[:, 0] - states[:, 1] * states[:, 2] + 0.5)

    torch.manual_seed(0)
    head = SpecdecHead(6, 2, weight=weight)
    optimiser = torch.optim.AdamW(head.parameters(), 3e-3, weight_decay=0.0)
    dice = generator()
    for step in range(400):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (400 - step) / 200)
        states = torch.randn(512, 6, generator=dice)
        drawn = torch.bernoulli(acceptance(states), generator=dice)
        head_loss(head(states), drawn, weight).backward()
        optimiser.step()
        optimiser.zero_grad()
    states = torch.randn(20_000, 6, generator=dice)
    truth, said = acceptance(states), head(states).softmax(-1)[:, 1].detach()
    undone = corrected(said, weight)
    assert float(undone.mean()) == pytest.approx(float(truth.mean()), abs=0.02)
    assert float((undone - truth).abs().mean()) < 0.05
    if weight == 6.0:
        assert float(said.mean()) < float(truth.mean()) - 0.15


# -------------------------------------------------------------------------------------- training


def test_states_are_what_the_output_layer_reads(rows: Rows) -> None:
    drafter = tiny.model("gemma2")
    states = States(drafter)
    text = torch.tensor([[5, 1, 90, 4]])
    found = states(Batch(text, torch.ones_like(text, dtype=torch.bool)))
    seen: list[Tensor] = []
    hook = drafter.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    drafter(text, use_cache=False)
    hook.remove()
    torch.testing.assert_close(found, seen[0])
    assert not isinstance(drafter.get_output_embeddings(), nn.Identity)


def test_only_the_head_learns_and_it_learns(rows: Rows) -> None:
    run = training(rows, steps=60, eval_every=60)
    before = {name: value.clone() for name, value in run.drafter.state_dict().items()}
    first = run.evaluate()
    run.trainer.train()
    assert all(torch.equal(before[name], v) for name, v in run.drafter.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in run.drafter.parameters())
    assert all(p.grad is None and not p.requires_grad for p in run.target.parameters())
    assert set(run.trainer.weights) == {name for name, _ in run.head.named_parameters()}
    last = run.trainer.latest
    assert last["kl"] < first["kl"]
    assert last["accepted"] == pytest.approx(first["accepted"])
    assert last["predicted"] == pytest.approx(last["accepted"], abs=0.1)


def test_a_stopped_run_goes_on_to_the_same_weights(rows: Rows, tmp_path: Path) -> None:
    whole = training(rows)
    whole.trainer.train()
    halves = training(rows, work=tmp_path)
    with pytest.raises(StoppedError):
        halves.trainer.train(stop=lambda: halves.trainer.step == 4)
    again = training(rows, work=tmp_path)
    assert again.trainer.step == 4
    again.trainer.train()
    for name, value in whole.head.state_dict().items():
        assert torch.equal(value, again.head.state_dict()[name])
    with pytest.raises(ConfigError, match=r"^weight: 3.0 .*6.0"):
        training(rows, work=tmp_path, weight=3.0)


def test_another_vocabulary_is_refused(rows: Rows) -> None:
    with pytest.raises(ConfigError, match=r"^drafter: '97 tokens' .*32"):
        training(rows, copy.deepcopy(tiny.model("llama")))


def test_facts_say_what_it_was_made_for(rows: Rows) -> None:
    facts = training(rows, temperature=0.7, top_k=9, weight=2.0, tied=True, depth=2).facts("hash")
    assert (facts.hidden, facts.depth, facts.tied, facts.weight) == (32, 2, True, 2.0)
    assert (facts.temperature, facts.top_k, facts.drafter) == (0.7, 9, "hash")


def test_pieces_of_a_batch_keep_their_labels() -> None:
    ids = torch.arange(12).view(3, 4)
    made = Labelled(ids, ids > 2, ids, ids * 0.5)
    piece = made.rows(1, 3).to(torch.device("cpu"))
    assert isinstance(piece, Labelled)
    assert torch.equal(piece.labels, ids[1:] * 0.5)
    assert len(piece) == 2
