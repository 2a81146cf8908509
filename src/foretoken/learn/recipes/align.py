"""Align a drafter with its target on answers that the target wrote.

Every loss of `losses` by name, with the target's logits made on the fly; `ce-text` is FastDraft's
sequence-level distillation (next-token loss on the target's text; no target needed); `length` the
expected number of accepted tokens of a draft; `amft` a learned mix. Some rows may hold answers of
the drafter itself (`on_policy`), some plain text, so that a drafter aligned on instructions does
not forget other text. alpha, the exact chance that a drawn token is accepted, over the whole
vocabulary and at the temperature that is trained for, is logged whatever the loss is.

Sources: Goel et al. 2403.00858 (phase C), Zafrir et al. 2411.11055 (FT), Zhou et al. 2310.08461.
Beyond them: the plain text of a mixture is scored by the target as answers are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretoken.errors import ConfigError
from foretoken.learn.recipes.align_config import AMFT, LENGTH, TEXT, AlignConfig
from foretoken.learn.recipes.amft import AmftOptions, Controller, flat_gradient
from foretoken.learn.recipes.forward import (
    learned,
    logits_of,
    mean,
    pieces,
    reads_packed,
    text_loss,
)
from foretoken.learn.recipes.load import fingerprint
from foretoken.learn.recipes.losses import (
    LOSSES,
    acceptance,
    expected_length_loss,
    forward_kl,
    log_probs,
)
from foretoken.learn.recipes.on_policy import OnPolicy, OnPolicyOptions
from foretoken.learn.recipes.processes import Processes
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.trainer import Trainer

Metrics = dict[str, Tensor]


class Align:
    """One alignment: `trainer` makes the steps, `evaluate` says how good the drafter is.

    drafter: in float32, trained in place. target: frozen; None only for `ce-text`. rows: answers,
    perhaps with plain text (`mixing.mixed`), packed only if both models are `packable`.
    Raises ConfigError for models of different vocabularies, and for a checkpoint of another run.
    """

    def __init__(
        self,
        drafter: Any,
        target: Any | None,
        rows: Rows,
        config: AlignConfig,
        work: Path | None = None,
        *,
        resume: bool = True,
        processes: Processes | None = None,
    ) -> None:
        self.drafter, self.target, self.rows, self.config = drafter, target, rows, config
        self.processes = processes or Processes()
        self.device = next(drafter.parameters()).device
        self._check()
        held = rows.held_out()
        spare = len(held) // 2 if config.loss == AMFT else 0
        self.held = held.rows(spare, spare + config.eval_rows)
        self.spare = held.rows(0, spare)  # where the controller looks
        amft = AmftOptions(mu_min=config.mu_min, mu_max=config.mu_max, mu_every=config.mu_every)
        self.controller = Controller(amft, self.device)
        self.on_policy = self._on_policy() if config.on_policy else None
        facts = {"drafter": fingerprint(drafter)}
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
            prepare=self._prepare,
            extra=self,
            resume=resume,
            processes=self.processes,
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Mean over the learned positions of `batch`, with alpha."""
        if self.config.loss == TEXT:
            return text_loss(self.drafter, batch), {}
        log_p, log_q, weight = self.score(batch)
        metrics = {"alpha": mean(acceptance(log_p, log_q).detach(), weight)}
        if self.config.loss != AMFT:
            return self.named(self.config.loss, batch, log_p, log_q, weight), metrics
        metrics["mu"] = self.controller.mu
        imitation = self.named("forward-kl", batch, log_p, log_q, weight)
        reward = self.named(self.config.reward, batch, log_p, log_q, weight)
        return self.controller.mix(imitation, reward), metrics

    def score(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [N, V] of target and drafter at the served temperature, and which
        positions count [N]; N = B * (L - 1)."""
        tau = self.config.temperature
        with torch.no_grad():
            log_p = log_probs(logits_of(self.target, batch), tau).flatten(0, 1)
        log_q = log_probs(logits_of(self.drafter, batch), tau).flatten(0, 1)
        return log_p, log_q, learned(batch)

    def named(
        self, name: str, batch: Batch, log_p: Tensor, log_q: Tensor, weight: Tensor
    ) -> Tensor:
        """The mean of a loss by name."""
        if name == LENGTH:
            shape = batch.mask[:, 1:].shape
            alphas = (acceptance(log_p, log_q) * weight).view(shape)
            return mean(expected_length_loss(alphas, self.config.gamma).flatten(), weight)
        return mean(LOSSES[name](log_p, log_q, weight), weight)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Of held-out rows: alpha, the share of tokens whose likeliest guess is the target's own
        ("greedy"), KL(p || q) in nats; without a target, nats per token ("loss")."""
        self.drafter.eval()
        total: Tensor | float = 0.0
        count = 0
        for piece in pieces(self.held, self.config.micro):
            total = total + self._figures(piece.to(self.device))
            count += int(piece.mask[:, 1:].sum())
        self.drafter.train()
        if not count:
            return {}
        assert isinstance(total, Tensor)
        names = ("loss",) if self.target is None else ("alpha", "greedy", "kl")
        return dict(zip(names, (total / count).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """What changes between steps beside the weights."""
        pool = None if self.on_policy is None else self.on_policy.state_dict()
        return {"controller": self.controller.state_dict(), "on_policy": pool}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.controller.load_state_dict(state["controller"])
        if self.on_policy is not None:
            self.on_policy.load_state_dict(state["on_policy"])

    def _figures(self, batch: Batch) -> Tensor:
        """Sums over the learned positions."""
        if self.target is None:
            return (text_loss(self.drafter, batch) * learned(batch).sum())[None]
        log_p, log_q, weight = self.score(batch)
        same = log_p.argmax(dim=-1) == log_q.argmax(dim=-1)
        each = torch.stack((acceptance(log_p, log_q), same.float(), forward_kl(log_p, log_q)))
        return each @ weight

    def _prepare(self, step: int, batch: Batch) -> Batch:
        if self.on_policy is not None:
            batch = self.on_policy(step, batch)
        if self.config.loss == AMFT and step and step % self.config.mu_every == 0:
            self._move_mu(step, batch.rows(0, self.config.micro))
        return batch

    def _move_mu(self, step: int, batch: Batch) -> None:
        config, weights = self.config, [w for w in self.drafter.parameters() if w.requires_grad]
        log_p, log_q, weight = self.score(batch)
        imitation = flat_gradient(
            self.named("forward-kl", batch, log_p, log_q, weight), weights, keep=True
        )
        reward = flat_gradient(self.named(config.reward, batch, log_p, log_q, weight), weights)
        entropies = torch.stack([_entropy(x.detach(), weight) for x in (log_p, log_q)])
        first = step * config.micro % len(self.spare)
        index = torch.arange(first, first + config.micro) % len(self.spare)
        log_p, log_q, weight = self.score(self.spare.take(index).to(self.device))
        value = flat_gradient(mean(acceptance(log_p, log_q), weight), weights)
        self.processes.average([imitation, reward, value, entropies])
        self.controller.update(value, imitation, reward, *entropies.tolist())

    def _on_policy(self) -> OnPolicy:
        config = self.config
        options = OnPolicyOptions(
            config.on_policy, config.on_policy_every, config.on_policy_tokens, config.temperature
        )
        return OnPolicy(
            self.drafter,
            self.rows.examples,
            options,
            seq=config.seq,
            batch=config.batch,
            seed=config.seed,
            packed=packable(self.drafter, self.target),
            rank=self.processes.rank,
            world=self.processes.world,
        )

    def _check(self) -> None:
        config, target = self.config, self.target
        if target is None:
            if config.loss != TEXT:
                raise ConfigError("loss", config.loss, f"{TEXT}, if there is no target to score")
            return
        sizes = [int(m.config.get_text_config().vocab_size) for m in (self.drafter, target)]
        if sizes[0] != sizes[1]:
            accepted = f"a model of the target's {sizes[1]} tokens"
            raise ConfigError("drafter", f"{sizes[0]} tokens", accepted)
        if config.loss == AMFT and len(self.rows.held_out()) < 2:
            raise ConfigError("held_out", config.held_out, f"two held-out rows at least for {AMFT}")


def packable(*models: Any | None) -> bool:
    """Whether examples may share a row."""
    return all(reads_packed(model) for model in models if model is not None)


def _entropy(log_p: Tensor, weight: Tensor) -> Tensor:
    return mean(torch.special.entr(log_p.exp()).sum(dim=-1), weight)
