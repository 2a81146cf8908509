"""A drafter cut out of its target: layers dropped, the others narrowed, trained between cuts.

Stage i of T cuts the copy to N_i = N_0 - (N_0 - N_T) i / T parameters read per step (depth first,
see `cut_steps`) and then trains it against the uncut target, on a slice of the data that grows
with i. Every stage is a usable drafter, so that the path is a sweep over sizes for free: all
figures are kept, and the drafter is the stage with the best tau / (c g + 1) on held-out text.

`widths` "even" cuts all layers alike (A = 0: importance decides which layers are dropped, and the
Taylor scores which units of a layer go). "adaptive" is the paper's cut, with layers of different
widths. Either way the folder loads with plain transformers: what differs between layers is padded
with zeros to the widest one, and `cut.json` lets foretoken take that off again (`target.narrow`).
Even widths need no padding, as long as the heads left divide the hidden size.

Source: Pan et al. 2502.03460 (Adapt-Pruner, Adapt-Accel). Ours: depth first, the loss that is
served as what scores are taken of, parameters read per step as the budget, the choice of the stage.
The paper lets one schedule of the learning rate run over all stages; here each has its own
warm-up and decay, because stages are compared with each other and the best one is given out.
The paper finds that a path ends better than one cut with all the training after it. With the small
budgets that we could try it ends about there; what it is for here is the choice among sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretoken.errors import ConfigError
from foretoken.learn.checkpoint import load_checkpoint, save_checkpoint
from foretoken.learn.lm import autocast
from foretoken.learn.recipes.cut_config import CutConfig
from foretoken.learn.recipes.cut_state import Later, figures_of, put_back, rebuilt, state_of
from foretoken.learn.recipes.cut_steps import (
    Cutter,
    fewest,
    goals,
    parameters,
    read_per_step,
    rows_of,
    slices,
)
from foretoken.learn.recipes.load import fingerprint
from foretoken.learn.recipes.losses import LOSSES, acceptance, log_probs
from foretoken.learn.recipes.processes import Processes
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.trainer import CHECKPOINT, Progress, Trainer
from foretoken.learn.recipes.worth import worth
from foretoken.target.narrow import (
    check_family,
    layers_of,
)

HELD_ROWS = 64  # rows that a stage's worth is taken on, at most


class CutRun:
    """One cut of a drafter: a path of stages, each with its weights and figures.

    teacher: the target, frozen; the drafter starts as a copy of it in float32. rows: training rows
    and held-out ones of text that the target wrote. work keeps a file per stage; with `resume` a
    run of the same configuration goes on from there. keep: the tokens that the drafter will score,
    `config.vocab` of them; the output layer itself stays whole. Raises ConfigError for what cannot
    be cut or differs from the run to be continued, CapabilityError for other families.
    """

    def __init__(
        self,
        teacher: Any,
        rows: Rows,
        config: CutConfig,
        work: Path | None = None,
        *,
        keep: Sequence[int] | None = None,
        resume: bool = True,
        processes: Processes | None = None,
    ) -> None:
        check_family(teacher, "cut")
        count = len(layers_of(teacher))
        if config.layers > count:
            raise ConfigError("layers", config.layers, f"at most the target's {count}")
        self.teacher, self.rows, self.config, self.work = teacher, rows, config, work
        self.processes = processes or Processes()
        self.keep = keep
        self.facts = {**config.fixed(), "target": fingerprint(teacher), "data": rows.sha256}
        if config.vocab != (None if keep is None else len(keep)):
            raise ConfigError("vocab", config.vocab, "the number of kept tokens")
        self.held = rows.held_out(HELD_ROWS)
        if not bool(self.held.mask[:, 1:].any()):
            raise ConfigError("held_out", 0, "a fraction that holds at least one answer out")
        self.goals = self._goals()
        self.slices = slices(config.steps, config.stages)
        self.stages: list[dict[str, Any]] = []  # figures of the finished ones
        self._memory: dict[int, dict[str, Any]] = {}  # the stages' states, where no folder is given
        self._cutter, self._cut = self._new_cutter(), 0  # the stage that the model is cut for
        if resume:
            self._restore()

    def train(
        self,
        report: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the stages that are left. report is called after every training step, with the
        steps of all stages and the 1-based "stage" among the metrics; for `stop` and errors see
        `Trainer.train`."""
        while len(self.stages) < self.config.stages:
            stage = len(self.stages) + 1
            if self._cut < stage:
                self._cutter.to(self.goals[stage - 1])
                self._cut = stage
                self._save(stage, None)
            self._train(stage, report, stop)

    @property
    def step(self) -> int:
        """Training steps of the finished stages."""
        return sum(self.slices[: len(self.stages)])

    @property
    def latest(self) -> dict[str, float]:
        """Figures of the last finished stage, for a line of progress."""
        worth = self.stages[-1]["worth"] if self.stages else {}
        return {name: worth[name] for name in ("alpha", "tau") if name in worth}

    @property
    def best(self) -> int:
        """1-based stage with the highest MBSU; of equals, the smaller drafter."""
        worths = [stage["worth"]["mbsu"] for stage in self.stages]
        return max(range(len(worths)), key=lambda i: (worths[i], i)) + 1

    def drafter(self, stage: int) -> Any:
        """The model of a finished stage, float32, on the target's device, in eval mode."""
        return rebuilt(self.teacher, self._state(stage)).eval()

    def _train(
        self, stage: int, report: Callable[[Progress], None], stop: Callable[[], bool]
    ) -> None:
        model, config = self._cutter.model, self.config
        folder = None if self.work is None else self.work / f"stage-{stage}"
        trainer = Trainer(
            model.train(),
            self._loss,
            Later(self.rows, sum(self.slices[: stage - 1])),
            config.stage(self.slices[stage - 1]),
            folder,
            facts={**self.facts, "stage": stage},
            parameters=None if not config.freeze else list(model.model.layers.parameters()),
            processes=self.processes,
        )
        made, held = sum(self.slices[: stage - 1]), self.latest

        def tell(now: Progress) -> None:
            metrics = {**now.metrics, "stage": float(stage)}
            of_all = {"step": made + now.step, "steps": self.config.steps}
            report(replace(now, metrics=metrics, held_out=held, **of_all))

        trainer.train(tell, stop)
        model.zero_grad(set_to_none=True)
        read = self._cutter.read()
        cost = read / read_per_step(self.teacher)
        figures = worth(
            model, self.teacher, self.held, cost, config.length, config.temperature, self.keep
        )
        self.stages.append(figures_of(self._cutter, stage, figures, trainer.log))
        self._save(stage, self.stages[-1])
        if folder is not None and self.processes.main:  # the stage's own file has the weights now
            (folder / CHECKPOINT).unlink(missing_ok=True)

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(batch.ids.device):
            with torch.no_grad():
                log_p = log_probs(rows_of(self.teacher, batch), self.config.temperature)
            log_q = log_probs(rows_of(self._cutter.model, batch), self.config.temperature)
        count = max(len(log_q), 1)
        loss = LOSSES[self.config.loss](log_p, log_q, None).sum() / count
        return loss, {"alpha": acceptance(log_p, log_q.detach()).sum() / count}

    def _goals(self) -> list[int]:
        """What is to be read after each stage; layers that are asked to go do so in any case."""
        config, layers = self.config, layers_of(self.teacher)
        start = read_per_step(self.teacher, config.vocab)
        rest = start - sum(sorted(map(parameters, layers))[: len(layers) - config.layers])
        wanted = rest if config.params is None else config.params
        least = fewest(self.teacher, config.layers, config.vocab)
        if wanted < least:
            accepted = f"at least {least} with {config.layers} layers"
            raise ConfigError("params", wanted, accepted)
        return goals(start, min(wanted, rest), config.stages)

    def _new_cutter(self) -> Cutter:
        config = self.config
        model = copy.deepcopy(self.teacher).float().requires_grad_(True)
        count = max(1, -(-config.calibration // config.seq))
        return Cutter(
            model,
            self.teacher,
            lambda n: self.rows.batch(n, count).to(model.device),
            layers=config.layers,
            head_rows=config.vocab,
            depth=config.depth,
            delta=config.delta,
            strength=config.strength if config.widths == "adaptive" else 0.0,
            micro=config.micro,
            agree=self.processes.share,
        )

    def _save(self, stage: int, figures: dict[str, Any] | None) -> None:
        """Keep the stage as it is: cut (figures None), or trained."""
        state = state_of(self._cutter, self.facts, figures)
        if self.work is None:
            self._memory[stage] = copy.deepcopy(state)
        elif self.processes.main:
            save_checkpoint(self._file(stage), state)

    def _restore(self) -> None:
        """Go on from the last stage that was kept."""
        for stage in range(1, self.config.stages + 1):
            state = None if self.work is None else load_checkpoint(self._file(stage))
            if state is None:
                return
            self._check(stage, state)
            self._cut = stage
            put_back(self._cutter, state)
            if state["figures"] is None:
                return
            self.stages.append(state["figures"])

    def _check(self, stage: int, state: dict[str, Any]) -> None:
        for name, value in self.facts.items():
            if state["facts"].get(name) != value:
                accepted = f"{state['facts'].get(name)!r} as in {self._file(stage)}, or --no-resume"
                raise ConfigError(name, value, accepted)

    def _state(self, stage: int) -> dict[str, Any]:
        found = self._memory.get(stage) if self.work is None else load_checkpoint(self._file(stage))
        if found is None:
            raise ConfigError("stage", stage, f"a finished stage, 1 to {len(self.stages)}")
        return found

    def _file(self, stage: int) -> Path:
        assert self.work is not None
        return self.work / f"stage-{stage}.pt"
