import errno
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.checkpoint import load_checkpoint, save_checkpoint
from foretoken.learn.optim import Muon
from foretoken.learn.recipes.config import TrainConfig
from foretoken.learn.recipes.rows import Rows
from foretoken.learn.recipes.trainer import StoppedError, Trainer, TrainingError

V = 11
CONFIG = {"steps": 8, "batch": 4, "micro": 2, "seq": 12, "lr": 0.01, "warmup": 2}
CONFIG |= {"eval_every": 4, "checkpoint_every": 3}


class Bigram(nn.Module):
    """Embedding and output layer: the smallest language model."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table, self.middle, self.head = (
                nn.Embedding(V, 6),
                nn.Linear(6, 6),
                nn.Linear(6, V),
            )

    def forward(self, ids):
        return self.head(self.middle(self.table(ids)))


def rows(seed=0):
    examples = [([(n * k) % V for k in range(1, 4 + n % 8)], 1) for n in range(1, 40)]
    return Rows.of(examples, CONFIG["seq"], seed)


def loss_of(model):
    def loss(batch):
        logits = model(batch.ids)[:, :-1].flatten(0, 1)
        each = F.cross_entropy(logits, batch.ids[:, 1:].flatten(), reduction="none")
        weight = batch.mask[:, 1:].flatten().float()
        return (each * weight).sum() / weight.sum(), {"learned": weight.mean()}

    return loss


def trainer(work=None, values=(), model=None, **given):
    model = model or Bigram()
    config = TrainConfig.checked(**{**CONFIG, **dict(values)})
    loss = given.pop("loss", loss_of)(model)
    return Trainer(model, loss, given.pop("rows", rows()), config, work, **given)


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_it_learns_and_reports(optimiser):
    seen = []
    run = trainer(
        values={"steps": 40, "lr": 0.05, "optimiser": optimiser}, evaluate=lambda: {"loss": 2.0}
    )
    run.train(seen.append)
    assert any(isinstance(o, Muon) for o in run.optimisers) == (optimiser == "muon")
    assert run.log[0]["loss"] == pytest.approx(math.log(V), rel=0.2)
    assert run.log[-1]["loss"] < run.log[0]["loss"] - 0.2
    assert [now.step for now in seen] == list(range(1, 41))
    assert seen[-1].metrics["learned"] > 0
    assert seen[-1].tokens == 4 * 12
    assert [entry["step"] for entry in run.log if "held_out" in entry] == list(range(4, 41, 4))


def test_how_a_step_is_cut_into_pieces_changes_nothing():
    """The mean is over the step's learned positions, not over means of its pieces."""
    one, many = (trainer(values={"micro": micro}) for micro in (4, 1))
    one.train()
    many.train()
    for (name, a), b in zip(weights(one).items(), weights(many).values(), strict=True):
        torch.testing.assert_close(a, b, msg=name, atol=1e-5, rtol=1e-4)
    for a, b in zip(one.log, many.log, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, stop_after):
    def noisy(model):  # a loss that draws
        plain = loss_of(model)

        def loss(batch):
            value, metrics = plain(batch)
            return value * (1 + torch.rand(()) / 10), metrics

        return loss

    whole = trainer(tmp_path / "whole", loss=noisy)
    whole.train()
    first = trainer(tmp_path / "parts", loss=noisy)
    with pytest.raises(StoppedError, match=f"after step {stop_after} of 8") as caught:
        first.train(stop=lambda: first.step == stop_after)
    assert caught.value.exit_code == 130
    torch.manual_seed(99)  # another process has another state
    second = trainer(tmp_path / "parts", loss=noisy)
    assert second.step == stop_after
    second.train()
    assert same(weights(second), weights(whole))
    losses = [[entry["loss"] for entry in run.log] for run in (second, whole)]
    assert losses[0] == losses[1]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    whole = trainer()
    whole.train()

    def kill(now):
        if now.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).train(kill)
    resumed = trainer(tmp_path)
    assert resumed.step == 3
    resumed.train()
    assert same(weights(resumed), weights(whole))


def test_what_else_changes_is_kept_with_the_weights(tmp_path):
    class Counter:
        def __init__(self):
            self.count = 0

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

        def __call__(self, step, batch):
            assert step == self.count
            self.count += 1
            return batch

    counter = Counter()
    run = trainer(tmp_path, extra=counter, prepare=counter)
    with pytest.raises(StoppedError):
        run.train(stop=lambda: run.step == 5)
    counter = Counter()
    trainer(tmp_path, extra=counter, prepare=counter).train()
    assert counter.count == 8


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_no_number_stops_and_keeps_the_last_good_weights(tmp_path, where):
    good = []

    def poisoned(model):
        plain = loss_of(model)

        def loss(batch):
            value, metrics = plain(batch)
            if len(good) >= 4:
                bad = (
                    torch.tensor(float("nan"))
                    if where == "loss"
                    else (value - value.detach()).sqrt()
                )
                value = value + bad * (1 if where == "loss" else 0)
            return value, metrics

        return loss

    run = trainer(tmp_path, loss=poisoned)
    with pytest.raises(TrainingError, match=r"nan .* step 5, which was not made.*checkpoint\.pt"):
        run.train(lambda _: good.append(weights(run)))
    assert same(weights(run), good[-1])
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["step"] == 3
    for name, value in saved["weights"].items():
        assert torch.equal(value, good[2][name])


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    real = torch.save

    def full(state, file):
        if state["step"] > 3:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"step 6 .*No space left.*; that of step 3 is whole"):
        run.train()
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
    monkeypatch.undo()
    resumed, whole = trainer(tmp_path), trainer()
    assert resumed.step == 3
    resumed.train()
    whole.train()
    assert same(weights(resumed), weights(whole))


def test_a_truncated_checkpoint_is_refused(tmp_path):
    trainer(tmp_path).train()
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ArtifactError, match="checkpoint"):
        trainer(tmp_path)
    assert trainer(tmp_path, resume=False).step == 0


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"step": 3, "model": {}})
    with pytest.raises(ArtifactError, match="another program, or of an older one"):
        trainer(tmp_path)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"values": {"lr": 0.02}}, "lr: 0.02"),
        ({"values": {"seed": 1}}, "seed: 1"),
        ({"values": {"steps": 2}}, "steps: 2"),
        ({"rows": Rows.of([([1, 2, 3], 1)], 12)}, "data: "),
        ({"facts": {"target": "another"}}, "target: 'another'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_field(tmp_path, given, field):
    run = trainer(tmp_path, facts={"target": "one"})
    with pytest.raises(StoppedError):
        run.train(stop=lambda: run.step == 3)
    with pytest.raises(ConfigError, match=f"^{field}"):
        trainer(tmp_path, **{"facts": {"target": "one"}, **given})


def test_more_steps_continue_as_if_planned_from_the_start(tmp_path):
    whole = trainer(values={"steps": 12})
    whole.train()
    begun = trainer(tmp_path)
    with pytest.raises(StoppedError):
        begun.train(stop=lambda: begun.step == 5)  # before the decay of either
    grown = trainer(tmp_path, {"steps": 12})
    grown.train()
    assert same(weights(grown), weights(whole))


def test_only_the_chosen_parameters_move(tmp_path):
    model = Bigram()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = trainer(tmp_path, model=model, parameters=model.middle.parameters())
    run.train()
    moved = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"middle.weight", "middle.bias"}
    assert set(load_checkpoint(tmp_path / "checkpoint.pt")["weights"]) == moved


def test_a_compiled_loss_gives_the_same_weights():
    plain, compiled = (trainer(values={"steps": 3, "compile": on}) for on in (False, True))
    plain.train()
    compiled.train()
    for a, b in zip(weights(plain).values(), weights(compiled).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"micro": 3}, "micro: 3"),
        ({"lr": -1.0}, "lr: -1.0"),
        ({"optimiser": "sgd"}, "optimiser: 'sgd'"),
        ({"bogus": 1}, "bogus: 1"),
    ],
)
def test_bad_options_are_named(values, message):
    with pytest.raises(ConfigError, match=f"^{message} is not accepted"):
        TrainConfig.checked(**{**CONFIG, **values})


def test_the_rate_falls_at_the_end():
    run = trainer(values={"steps": 20, "warmup": 0, "decay": 0.5, "optimiser": "adamw"})
    rates = []
    run.train(lambda _: rates.append(run.optimisers[0].param_groups[0]["lr"]))
    assert rates[:10] == [0.01] * 10
    assert all(a > b for a, b in pairwise(rates[10:]))
