"""A drafter as 4-bit codes with small tables, and the tables trained for a target or a domain.

First the sketch is made of the drafter's weights and of what its layers read on text that the
target wrote (`sketch_layers`); then the tables alone are trained against the target. A further
domain takes the same codes and starts from the drafter's own tables: one small file more.
Source: Zhang et al. 2410.06364 (SketchTune): AdamW without decay, linear fall of the learning rate,
float32 tables. Theirs is trained on labels; ours on the loss that is served. A table entry's
gradient sums over the weights that share it, about n / (G 2^b); AdamW divides by its size, so that
rates need no correction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretoken.draft.sketched import Sketch, put
from foretoken.errors import ConfigError
from foretoken.learn.checkpoint import load_checkpoint, save_checkpoint
from foretoken.learn.recipes.forward import learned, logits_of, mean
from foretoken.learn.recipes.losses import LOSSES, acceptance, log_probs
from foretoken.learn.recipes.processes import Processes
from foretoken.learn.recipes.reading import weights_read
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.sketch_config import SketchConfig
from foretoken.learn.recipes.sketch_layers import sketch_layers
from foretoken.learn.recipes.sketch_linear import tables_of, to_tables
from foretoken.learn.recipes.trainer import Progress, Trainer
from foretoken.learn.recipes.worth import worth

CODES = "codes.pt"
HELD_ROWS = 64  # rows that figures are taken on, at most


def find_codes(
    drafter: Any,
    rows: Rows,
    config: SketchConfig,
    work: Path | None = None,
    resume: bool = True,
    report: Callable[[int], None] = lambda _: None,
) -> Sketch:
    """The sketch of a float32 drafter, whose weights become those of the sketch; kept in `work`.

    report is called with the number of layers done. Raises CapabilityError for other families,
    ConfigError where `work` holds another configuration's.
    """
    path, processes = None if work is None else work / CODES, Processes()
    facts = {
        "data": rows.sha256,
        **{name: getattr(config, name) for name in ("bits", "groups", "exponent", "calibration")},
    }
    saved = load_checkpoint(path) if path is not None and resume else None
    if saved is not None:
        for name, value in facts.items():
            if saved["facts"].get(name) != value:
                accepted = f"{saved['facts'].get(name)!r} as in {path}, or --no-resume"
                raise ConfigError(name, value, accepted)
        made = Sketch(saved["bits"], saved["codes"], saved["tables"])
        put(drafter, made)
        return made
    size = min(config.micro, config.calibration)
    count = -(-config.calibration // size)
    read = [rows.batch(n, size).to(drafter.device) for n in range(count)]
    made = sketch_layers(drafter, read, config.bits, config.groups, config.exponent, report)
    processes.share([*made.codes.values(), *made.tables.values()])
    put(drafter, made)
    if path is not None and processes.main:
        values = {"bits": made.bits, "codes": made.codes, "tables": made.tables}
        save_checkpoint(path, {"facts": facts, **values})
    return made


class SketchRun:
    """One training of tables.

    teacher: the target, frozen. drafter: float32, its weights are replaced by those of `sketch`.
    work keeps the checkpoint; with `resume` a run of the same configuration goes on. `figures` are
    those of `worth` on held-out rows, if there are any. Raises ConfigError.
    """

    def __init__(
        self,
        teacher: Any,
        drafter: Any,
        sketch: Sketch,
        rows: Rows,
        config: SketchConfig,
        work: Path | None = None,
        resume: bool = True,
    ) -> None:
        self.teacher, self.drafter, self.config = teacher, drafter, config
        self.held = rows.held_out(HELD_ROWS)
        self.first, self._cost = sketch, weights_read(drafter) / weights_read(teacher)
        put(drafter, sketch)
        skipped = {f"{name}.weight" for name in sketch.codes}
        if drafter.config.tie_word_embeddings:
            skipped.add("lm_head.weight")
        state = drafter.state_dict()
        self.rest = {name: state[name] for name in state.keys() - skipped}  # not sketched
        self.figures: dict[str, dict[str, float]] = {}
        self._measure("sketched", drafter)
        self.model = copy.deepcopy(drafter)
        tables = to_tables(self.model, sketch)
        self.trainer = Trainer(
            self.model,
            self._loss,
            rows,
            config.training(),
            work,
            facts={**config.fixed(), "codes": sketch.identity},
            parameters=tables,
            resume=resume,
        )

    def train(
        self,
        report: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the steps that are left; see `Trainer.train` for errors."""
        self.trainer.train(report, stop)
        self._measure("tuned", self.model)

    @property
    def sketch(self) -> Sketch:
        """Codes and the tables as they are now, rounded as files keep them."""
        tables = {name: table.half().float().cpu() for name, table in tables_of(self.model).items()}
        codes = {name: codes.cpu() for name, codes in self.first.codes.items()}
        return Sketch(self.first.bits, codes, tables)

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        weight, t = learned(batch), self.config.temperature
        with torch.no_grad():
            log_p = log_probs(logits_of(self.teacher, batch).flatten(0, 1), t)
        log_q = log_probs(logits_of(self.model, batch).flatten(0, 1), t)
        loss = mean(LOSSES[self.config.loss](log_p, log_q, weight), weight)
        return loss, {"alpha": mean(acceptance(log_p, log_q.detach()), weight)}

    def _measure(self, name: str, model: Any) -> None:
        if len(self.held):
            config = self.config
            found = worth(
                model, self.teacher, self.held, self._cost, config.length, config.temperature
            )
            self.figures[name] = found.rounded()
