"""The training loop of all recipes.

A recipe gives the model, a loss of a batch, and rows; the loop makes steps. Every step depends on
the configuration, the weights and the step's number only, so a run that was interrupted and resumed
ends with the same weights. A step whose loss or gradient is no finite number is not applied.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from foretoken.errors import INTERRUPTED, ArtifactError, ConfigError, ForetokenError
from foretoken.learn.checkpoint import load_checkpoint, save_checkpoint
from foretoken.learn.optim import build_optimisers, schedule
from foretoken.learn.recipes.config import TrainConfig
from foretoken.learn.recipes.parts import LossOf, P, Source, Stateful, step_seed
from foretoken.learn.recipes.processes import Processes

CHECKPOINT = "checkpoint.pt"
DIGITS = 5  # of the figures in the log
STATE = {"config", "facts", "step", "weights", "optimisers", "extra", "before"}


class TrainingError(ForetokenError):
    """Training cannot go on: no finite loss, or no room for a checkpoint. The last one is good."""


class StoppedError(ForetokenError):
    """Training was asked to stop, and wrote a checkpoint first."""

    exit_code = INTERRUPTED


@dataclass(frozen=True, slots=True)
class Progress:
    """What the trainer reports after every step."""

    step: int  # steps made so far
    steps: int
    loss: float  # mean per learned token of this step
    tokens: int  # of this step, over all processes, padding included
    seconds: float  # of this step
    metrics: dict[str, float]  # of this step, as the loss named them
    held_out: dict[str, float] = field(default_factory=dict)  # latest evaluation


class Trainer(Generic[P]):
    """One training run.

    loss: the mean over the predictions of a batch that count, and scalar tensors to log, means too.
    It runs compiled if the configuration says so; a batch is on the model's device.
    work: folder of the checkpoint; None keeps none. facts: what a resumed run must share beside
    the configuration (ConfigError names the one that differs); plain values. evaluate: figures by
    name. parameters: those to train, None for all that require a gradient. prepare: called before
    each step with its 0-based number and rows, outside of the compiled loss; what it returns is
    trained on. extra: state beside the weights.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: nn.Module,
        loss: LossOf[P],
        rows: Source[P],
        config: TrainConfig,
        work: Path | None = None,
        *,
        facts: Mapping[str, Any] | None = None,
        evaluate: Callable[[], dict[str, float]] | None = None,
        parameters: Iterable[nn.Parameter] | None = None,
        prepare: Callable[[int, P], P] | None = None,
        extra: Stateful | None = None,
        resume: bool = True,
        processes: Processes | None = None,
    ) -> None:
        self.model, self.rows, self.config = model, rows, config
        self.processes = processes or Processes()
        self.facts = {**(facts or {}), "data": rows.sha256}
        self.evaluate, self.prepare, self.extra = evaluate, prepare, extra
        chosen = None if parameters is None else {id(weight) for weight in parameters}
        self.weights = {
            name: weight
            for name, weight in model.named_parameters()
            if (weight.requires_grad if chosen is None else id(weight) in chosen)
        }
        if config.batch % (config.micro * self.processes.world):
            accepted = f"a multiple of micro * {self.processes.world} processes"
            raise ConfigError("batch", config.batch, accepted)
        self.device = next(iter(self.weights.values())).device
        self.optimisers = build_optimisers(
            model, config.lr, config.weight_decay, config.optimiser, self.weights.values()
        )
        self._loss = torch.compile(loss, dynamic=False) if config.compile else loss
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        self.latest: dict[str, float] = {}
        self.before: dict[str, float] = {}  # the evaluation before the first step
        self.checkpoint = None if work is None else work / CHECKPOINT
        self.saved_step = 0
        if self.checkpoint is not None and resume:
            saved = load_checkpoint(self.checkpoint)
            if saved is not None:
                if not saved.keys() >= STATE:
                    raise ArtifactError(
                        f"{self.checkpoint}: a checkpoint of another program, or of an older one; "
                        "delete it to start over"
                    )
                self._check(saved)
                self._restore(saved)
        self.processes.share([weight.data for weight in self.weights.values()])

    def train(
        self,
        report: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the steps that are left, with evaluations and checkpoints in between.

        `stop` is asked after every step; if it says yes a checkpoint is written and StoppedError
        raised. TrainingError if a loss or gradient is not finite, or a checkpoint cannot be
        written.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            if self.step == 0 and self.evaluate is not None and self.processes.main:
                self.before = self.evaluate()
            while self.step < self.config.steps:
                self._one(report, stop)

    def _one(self, report: Callable[[Progress], None], stop: Callable[[], bool]) -> None:
        config, began = self.config, time.perf_counter()
        metrics = self._train_step()
        seconds = time.perf_counter() - began
        self.step += 1
        self.seconds += seconds
        last = self.step == config.steps
        evaluated = last or self.step % config.eval_every == 0
        if evaluated and self.evaluate is not None and self.processes.main:
            self.latest = self.evaluate()
        self._record(metrics, evaluated)
        if self.processes.main:
            loss, tokens = metrics.pop("loss"), config.batch * config.seq
            now = (self.step, config.steps, loss, tokens, seconds, metrics, self.latest)
            report(Progress(*now))
        stopping = not last and self.processes.any(stop(), self.device)
        if last or stopping or self.step % config.checkpoint_every == 0:
            self.save()
        if stopping:
            raise StoppedError(
                f"stopped after step {self.step} of {config.steps}; the same command goes on"
            )

    def save(self) -> None:
        """Write the checkpoint now, if there is a folder for it."""
        if self.checkpoint is None or not self.processes.main:
            return
        try:
            save_checkpoint(self.checkpoint, self.state())
        except OSError as error:
            kept = (
                f"that of step {self.saved_step} is whole" if self.saved_step else "there is none"
            )
            raise TrainingError(
                f"checkpoint {self.checkpoint} of step {self.step} could not be written "
                f"({error.strerror or error}); {kept}; make room and give the same command"
            ) from error
        self.saved_step = self.step

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on exactly here; tensors and plain values."""
        return {
            "config": self.config.model_dump(),
            "facts": self.facts,
            "step": self.step,  # the data position and all randomness follow from it
            "seconds": self.seconds,
            "log": self.log,
            "latest": self.latest,
            "before": self.before,
            "weights": {name: weight.data for name, weight in self.weights.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "extra": None if self.extra is None else self.extra.state_dict(),
        }

    def _check(self, saved: dict[str, Any]) -> None:
        ours = {**self.config.fixed(), **self.facts}
        theirs = {**saved["config"], **saved["facts"]}
        for name, value in ours.items():
            if theirs.get(name) != value:
                accepted = f"{theirs.get(name)!r} as in {self.checkpoint}, or --no-resume"
                raise ConfigError(name, value, accepted)
        if self.config.steps < saved["step"]:
            raise ConfigError("steps", self.config.steps, f"at least {saved['step']}, made already")

    def _restore(self, saved: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(saved["weights"][name])
        for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        if self.extra is not None:
            self.extra.load_state_dict(saved["extra"])
        self.step = self.saved_step = saved["step"]
        self.seconds, self.log = saved["seconds"], saved["log"]
        self.latest, self.before = saved["latest"], saved["before"]

    def _train_step(self) -> dict[str, float]:
        """One optimiser step; its loss and metrics, means over the learned positions of all
        processes."""
        torch.manual_seed(step_seed(self.config.seed, self.step, self.processes.rank))
        totals: dict[str, Tensor] = {}
        for batch, share in self._batches():
            loss, metrics = self._loss(batch)
            torch.autograd.backward(loss * share)
            for name, value in {"loss": loss, **metrics}.items():
                part = value.detach().float() * share
                totals[name] = totals[name] + part if name in totals else part
        weights = list(self.weights.values())
        self.processes.average([w.grad for w in weights if w.grad is not None])
        norm = nn.utils.clip_grad_norm_(weights, self.config.clip)
        averages = self.processes.mean(torch.stack(list(totals.values())))
        *figures, size = torch.cat((averages, norm[None])).tolist()  # the only wait of the step
        means = dict(zip(totals, figures, strict=True))
        self._refuse_not_finite(means["loss"], size)
        rate = self.config.lr * schedule(self.step, self.config)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return means

    def _batches(self) -> Iterator[tuple[P, Tensor]]:
        """This process's rows of the next step in pieces of `micro`, and what the mean of each
        piece counts: the step's gradient is the mean over all its positions, however they are
        cut."""
        config, processes = self.config, self.processes
        batch = self.rows.batch(self.step, config.batch, processes.rank, processes.world)
        batch = batch.to(self.device)
        if self.prepare is not None:
            batch = self.prepare(self.step, batch)
        pieces = [
            batch.rows(first, first + config.micro) for first in range(0, len(batch), config.micro)
        ]
        counts = torch.stack([piece.learned for piece in pieces]).float()
        shares = counts / processes.mean(counts.sum()).clamp_min(1.0)
        yield from zip(pieces, shares, strict=True)

    def _refuse_not_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        for weight in self.weights.values():
            weight.grad = None
        kept = self.checkpoint if self.saved_step else "none yet"
        raise TrainingError(
            f"loss {loss} and gradient norm {norm} in step {self.step + 1}, which was not made: "
            f"lower lr ({self.config.lr}); the last good checkpoint is {kept}"
        )

    def _record(self, metrics: dict[str, float], evaluated: bool) -> None:
        entry: dict[str, Any] = {"step": self.step}
        entry |= {name: round(value, DIGITS) for name, value in metrics.items()}
        entry["seconds"] = round(self.seconds, 2)
        if evaluated and self.latest:
            entry["held_out"] = {name: round(v, DIGITS) for name, v in self.latest.items()}
        self.log.append(entry)
