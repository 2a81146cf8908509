"""Sorted training: the first layers of a drafter become drafters of their own (for `s2d`).

Every step trains every exit: the mean over exits of the loss of output layer(last norm(state after
the exit's layers)), all weights shared and learned. The first layers get gradients from all exits,
the last ones from one. Loss: `ce-text`, next-token loss on the text (the paper's: no target is
needed, so that one drafter serves several), or a loss of `losses` against one target.

Source: Kavehzadeh et al. 2407.01955 (sorted fine-tuning; all sub-models every step, equal weights,
as in the authors' code; SortedNet draws one a step). Against a target's logits: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foretoken.errors import ConfigError
from foretoken.learn.lm import autocast
from foretoken.learn.recipes.align_config import TEXT
from foretoken.learn.recipes.forward import learned, logits_of, mean, pieces
from foretoken.learn.recipes.load import fingerprint
from foretoken.learn.recipes.losses import LOSSES, acceptance, log_probs
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.soft_config import SoftConfig
from foretoken.learn.recipes.trainer import Trainer
from foretoken.target.narrow import check_family
from foretoken.target.nested import checked_exits, even_exits

Metrics = dict[str, Tensor]


class Soft:
    """One run: `trainer` makes the steps.

    drafter: float32, of a family whose layers are known (`target.narrow`); trained in place. exits:
    None for three from its middle on. target: frozen, None only for `ce-text`. Raises ConfigError,
    CapabilityError.
    """

    def __init__(
        self,
        drafter: Any,
        target: Any | None,
        rows: Rows,
        config: SoftConfig,
        work: Path | None = None,
        *,
        exits: Sequence[int] | None = None,
        resume: bool = True,
    ) -> None:
        check_family(drafter, "s2d")
        layers = int(drafter.config.num_hidden_layers)
        self.exits = checked_exits(exits or even_exits(layers), layers)
        if target is None and config.loss != TEXT:
            raise ConfigError("loss", config.loss, f"{TEXT}, if there is no target to score")
        self.drafter, self.target, self.config = drafter, target, config
        self.device = next(drafter.parameters()).device
        self.held = rows.held_out(config.eval_rows)
        facts = {"drafter": fingerprint(drafter), "exits": list(self.exits)}
        if target is not None:
            facts["target"] = fingerprint(target)
        self.trainer = Trainer(
            drafter,
            self.loss,
            rows,
            config,
            work,
            facts=facts,
            evaluate=self.evaluate,
            resume=resume,
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The mean over exits and learned positions; each exit's own loss is logged by depth."""
        weight = learned(batch)
        log_p = self._target(batch) if self.config.loss != TEXT else None
        each = []
        for logits in exit_logits(self.drafter, batch, self.exits):
            if log_p is None:
                wanted = batch.ids[:, 1:].flatten()
                values = F.cross_entropy(logits.flatten(0, 1).float(), wanted, reduction="none")
            else:
                log_q = log_probs(logits, self.config.temperature).flatten(0, 1)
                values = LOSSES[self.config.loss](log_p, log_q, weight)
            each.append(mean(values, weight))
        names = [f"exit {depth}" for depth in self.exits]
        metrics = {name: value.detach() for name, value in zip(names, each, strict=True)}
        return torch.stack(each).mean(), metrics

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """By exit, on held-out rows: alpha, or without a target nats per token ("loss")."""
        self.drafter.eval()
        totals, count = torch.zeros(len(self.exits), device=self.device), 0
        for piece in pieces(self.held, self.config.micro):
            batch = piece.to(self.device)
            weight = learned(batch)
            count += int(weight.sum())
            log_p = self._target(batch) if self.target is not None else None
            for i, logits in enumerate(exit_logits(self.drafter, batch, self.exits)):
                log_q = log_probs(logits, self.config.temperature).flatten(0, 1)
                if log_p is not None:
                    values = acceptance(log_p, log_q)
                else:
                    wanted = batch.ids[:, 1:].reshape(-1, 1)
                    values = -log_q.gather(-1, wanted).squeeze(-1)
                totals[i] += (values * weight).sum()
        self.drafter.train()
        if not count:
            return {}
        name = "loss" if self.target is None else "alpha"
        names = [f"{name} at exit {depth}" for depth in self.exits]
        return dict(zip(names, (totals / count).tolist(), strict=True))

    def _target(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            logits = logits_of(self.target, batch)
            return log_probs(logits, self.config.temperature).flatten(0, 1)


def exit_logits(model: Any, batch: Batch, exits: Sequence[int]) -> list[Tensor]:
    """[B, L - 1, V] for each exit: row t is about token t + 1."""
    given = {} if batch.positions is None else {"position_ids": batch.positions}
    with autocast(batch.ids.device):
        out = model(input_ids=batch.ids, use_cache=False, output_hidden_states=True, **given)
        states = out.hidden_states  # before each layer; the last one has passed the norm already
        early = [model.lm_head(model.model.norm(states[depth][:, :-1])) for depth in exits[:-1]]
    return [*early, out.logits[:, :-1]]
