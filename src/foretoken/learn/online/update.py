"""The float32 weights of one domain, and the gradient steps on what was observed.

q is computed anew with the current weights at the rows that were recorded; only p was kept. The
loss is the mean over all rows of a batch. Texts are read one by one: nothing is padded, so that a
step depends on nothing but its texts, and memory on one of them. With the loss "amft" the balance
of two losses is learned as well (`balance`).

A step that gives a loss or a gradient that is no number, or whose time is up, changes nothing.
Source: Liu et al. 2310.07177, sec. 4, AdamW with a constant rate and no decay as there. Ours: a
largest gradient norm, and a rate that rises over the first steps of all, since AdamW's first ones
move every weight by the whole rate, whatever its gradient. Cost: a forward and a backward pass over
the batch's texts per step.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foretoken.learn.online.balance import Balance
from foretoken.learn.online.buffer import Sample, rows
from foretoken.learn.online.loss import AMFT, ONLINE, accepted, coarse
from foretoken.learn.online.options import OnlineOptions
from foretoken.learn.online.shelf import copied
from foretoken.learn.online.twin import dense_twin
from foretoken.learn.recipes.losses import Loss
from foretoken.types import FloatArray

RAMP = 10  # steps until the learning rate is whole


@dataclass
class Learned:
    """What one call of `Trainee.learn` did."""

    steps: int = 0  # gradient steps made
    loss: float = math.nan  # of the last of them, nats per row
    finite: bool = True  # False: a loss or gradient was no number; the weights are to be restored
    late: bool = False  # time was up before all steps were made


class Trainee:
    """Weights that learn. model: what they start from; it is copied and never written to."""

    def __init__(self, model: Any, options: OnlineOptions) -> None:
        self.options = options
        self.model = dense_twin(model)
        self.device = next(self.model.parameters()).device
        self.weights: list[Tensor] = list(self.model.parameters())
        self.kept = copied(self.weights)
        self._optimiser: torch.optim.AdamW | None = None
        self._made = 0  # steps of the optimiser
        self.balance = Balance(self.device) if options.loss == AMFT else None
        self._cuts = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def keep(self) -> None:
        """What the weights are now is what `restore` goes back to."""
        for kept, weight in zip(self.kept, self.weights, strict=True):
            kept.copy_(weight.detach())

    @contextmanager
    def having(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Other weights meanwhile."""
        now = copied(self.weights)
        self._take(weights)
        try:
            yield
        finally:
            self._take(now)

    def recall(self, weights: Sequence[Tensor]) -> None:
        """Go on from these, which are kept."""
        for kept, other in zip(self.kept, weights, strict=True):
            kept.copy_(other)
        self.restore()

    def _take(self, weights: Sequence[Tensor]) -> None:
        with _learning(), torch.no_grad():
            for other, weight in zip(weights, self.weights, strict=True):
                weight.copy_(other)

    def restore(self) -> None:
        """Bit for bit the weights of the last `keep`; the optimiser forgets where it was going, not
        how large gradients are."""
        self._take(self.kept)
        with _learning(), torch.no_grad():
            for state in self._optimiser.state.values() if self._optimiser else ():
                state["exp_avg"].zero_()

    def logits(self, sample: Sample) -> Tensor:
        """[n, V] at the sample's positions, its temperature taken."""
        ids = torch.from_numpy(sample.tokens).to(self.device)[None]
        at = torch.from_numpy(sample.positions).to(self.device)
        if self._cuts:
            found: Tensor = self.model(input_ids=ids, use_cache=False, logits_to_keep=at).logits[0]
        else:
            found = self.model(input_ids=ids, use_cache=False).logits[0, at]
        return found.float() / sample.temperature

    def pair(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """(log p, log q), both [n, k + 1]: see `loss.coarse`."""
        ids = torch.from_numpy(sample.ids).to(self.device)
        log_p = torch.from_numpy(sample.log_p).to(self.device)
        return log_p, coarse(self.logits(sample), ids)

    def acceptance(self, samples: Sequence[Sample]) -> float:
        """Mean over rows of sum min(p, q), a lower bound where a row has more tokens than were
        kept; NaN without rows."""
        count = rows(samples)
        return float(self.accepted(samples).sum()) / count if count else math.nan

    def accepted(self, samples: Sequence[Sample]) -> FloatArray:
        """[n] of each text, the sum over its rows."""
        with _learning(), torch.no_grad():
            found = [float(accepted(*self.pair(sample)).sum()) for sample in samples]
        return np.array(found, dtype=np.float64)

    def learn(
        self,
        batches: Sequence[Sequence[Sample]],
        seconds: float = math.inf,
        held_out: Sequence[Sample] = (),
    ) -> Learned:
        """One gradient step for each batch, as long as there is time for another one.

        held_out: what the balance of losses is judged by, if one is learned.
        """
        began, slowest, done = perf_counter(), 0.0, Learned()
        loss_of = self.balance.loss if self.balance is not None else ONLINE[self.options.loss]
        with _learning(), self._trainable():
            if self.balance is not None and batches:
                self.balance.before(self, batches[0])
            for batch in batches:
                started = perf_counter()
                if started - began + slowest > seconds:
                    done.late = True
                    break
                loss = self._gradient(batch, loss_of, began + seconds)
                if loss is None:
                    done.late = True
                    break
                norm = float(nn.utils.clip_grad_norm_(self.weights, self.options.clip))
                if not math.isfinite(loss) or not math.isfinite(norm):
                    done.finite = False
                    break
                self._step()
                done.steps, done.loss = done.steps + 1, loss
                slowest = max(slowest, perf_counter() - started)
            if self.balance is not None and done.steps:
                self.balance.after(self, held_out)
        return done

    def _gradient(self, batch: Sequence[Sample], loss: Loss, until: float) -> float | None:
        """Leave the gradient of the batch's mean loss in the weights; None if time was up."""
        count, total = rows(batch), 0.0
        for sample in batch:
            if perf_counter() > until:
                return None
            value = loss(*self.pair(sample)).sum() / count
            torch.autograd.backward(value)
            total += float(value.detach())
        return total

    def _step(self) -> None:
        if self._optimiser is None:
            self._optimiser = torch.optim.AdamW(
                self.weights, lr=self.options.lr, betas=(0.9, 0.95), weight_decay=0.0
            )
        self._made += 1
        for group in self._optimiser.param_groups:
            group["lr"] = self.options.lr * min(1.0, self._made / RAMP)
        self._optimiser.step()

    @contextmanager
    def _trainable(self) -> Iterator[None]:
        """Gradients are wanted meanwhile; none is held afterwards."""
        self.model.requires_grad_(True)
        try:
            yield
        finally:
            self.model.requires_grad_(False)
            self.model.zero_grad(set_to_none=True)


@contextmanager
def _learning() -> Iterator[None]:
    """Whatever the caller's modes are: decoding may run without gradients."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
