"""Train SpecDec++'s acceptance head: labels from both models, tokens mixed, rejections weighted.

On answers X that the target wrote, the drafter draws at every position i its own token Y_i, given
the target's text before it; label: min(1, p(Y_i) / q(Y_i)), the chance that speculative sampling
accepts it. The head then reads the drafter over Z, in which each token is X_i with probability r
and else Y_i: when it serves, what stands before a token is the drafter's. Loss, where Z_i = Y_i:
-(w (1 - label) log(1 - f) + label log f), over the labels' weighted mass.
Source: Huang, Guo, Wang 2405.19715; code Kaffaljidhmah2/SpecDec_pp.

Differences: p and q are processed as served (temperature, top-k, top-p; the paper takes both at
temperature 1 and decodes otherwise), greedy text included; Y and Z are drawn anew in every step,
from the step's number (there once for all); no row of padding is added to the drafter. Only the
head is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretoken.draft.trimmed import with_head
from foretoken.errors import ConfigError
from foretoken.learn.lm import autocast
from foretoken.learn.recipes.forward import logits_of, pieces
from foretoken.learn.recipes.load import fingerprint, vocabulary
from foretoken.learn.recipes.parts import step_seed
from foretoken.learn.recipes.processes import Processes
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.specdec_config import SpecdecConfig
from foretoken.learn.recipes.specdec_head import HeadFacts, SpecdecHead, corrected
from foretoken.learn.recipes.trainer import Trainer
from foretoken.prompt.sampling import Warper


@dataclass(frozen=True)
class Labelled(Batch):
    """Rows that the head is trained on. ids: Z; mask: where Z_i = Y_i in an answer."""

    labels: Tensor = field(default_factory=lambda: torch.zeros(0))  # [B, L] float32, 0 elsewhere

    def to(self, device: torch.device) -> Labelled:
        """The same rows on another device."""
        moved = Batch.to(self, device)
        return Labelled(moved.ids, moved.mask, moved.positions, self.labels.to(device))

    def rows(self, first: int, last: int) -> Labelled:
        """Rows first .. last - 1."""
        some = Batch.rows(self, first, last)
        return Labelled(some.ids, some.mask, some.positions, self.labels[first:last])


def label(log_p: Tensor, log_q: Tensor, drawn: Tensor) -> Tensor:
    """[N] min(1, p(Y) / q(Y)) of log-probabilities [N, V] and tokens Y [N]."""
    token = drawn[:, None]
    return (log_p.gather(1, token) - log_q.gather(1, token))[:, 0].clamp_max(0.0).exp()


def mixed(
    batch: Batch, drawn: Tensor, labels: Tensor, share: float, generator: torch.Generator
) -> Labelled:
    """Z of X (`batch`) and Y (`drawn` [B, L]) with labels [B, L]: in answers X with probability
    `share`, else Y; prompts as they are."""
    chance = torch.rand(batch.ids.shape, generator=generator, device=batch.ids.device)
    own = batch.mask & (chance >= share)
    return Labelled(torch.where(own, drawn, batch.ids), own, batch.positions, labels * own)


def head_loss(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Weighted cross-entropy of logits [N, 2] and soft labels [N], over the labels' mass."""
    log_f = F.log_softmax(logits.float(), dim=-1)
    rejected, accepted = weight * (1.0 - labels), labels
    total = (rejected * log_f[:, 0] + accepted * log_f[:, 1]).sum()
    return -total / (rejected + accepted).sum().clamp_min(1e-6)


class States:
    """A drafter's hidden states as its output layer reads them; that layer itself is not run."""

    def __init__(self, drafter: Any) -> None:
        stop = nn.Identity()
        stop.register_forward_pre_hook(self._note)
        self._twin = with_head(drafter, stop)
        self._seen: Tensor | None = None

    def _note(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        self._seen = inputs[0]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """[B, L, H]: state t is that of token t."""
        given = {} if batch.positions is None else {"position_ids": batch.positions}
        with autocast(batch.ids.device):
            self._twin(input_ids=batch.ids, use_cache=False, **given)
        states, self._seen = self._seen, None
        assert states is not None
        return states


class SpecdecTraining:
    """One run: `trainer` makes the steps.

    drafter, target: frozen transformers models of one vocabulary (a drafter with a trimmed output
    layer draws from that). rows: answers of the target, packed only if both models can be. Raises
    ConfigError for other vocabularies, and for a checkpoint of another run.
    """

    def __init__(
        self,
        drafter: Any,
        target: Any,
        rows: Rows,
        config: SpecdecConfig,
        work: Path | None = None,
        *,
        resume: bool = True,
        processes: Processes | None = None,
    ) -> None:
        vocab = vocabulary(target)
        if vocabulary(drafter) != vocab:
            accepted = f"a model of the target's {vocab} tokens"
            raise ConfigError("drafter", f"{vocabulary(drafter)} tokens", accepted)
        self.drafter = drafter.eval().requires_grad_(False)
        self.target = target.eval().requires_grad_(False)
        self.config, self.states = config, States(drafter)
        self.device = next(drafter.parameters()).device
        self.processes = processes or Processes()
        self._warper = Warper(config.sampling(), [0], (), 1 << 30, vocab)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            width = int(drafter.get_output_embeddings().in_features)
            head = SpecdecHead(width, config.depth, config.tied, config.weight)
        self.head = head.to(self.device)
        self.held = rows.held_out(config.eval_rows)
        self.trainer = Trainer(
            self.head,
            self.loss,
            rows,
            config,
            work,
            facts={"drafter": fingerprint(drafter), "target": fingerprint(target)},
            evaluate=self.evaluate,
            prepare=self.prepare,
            resume=resume,
            processes=self.processes,
        )

    def prepare(self, step: int, batch: Batch) -> Labelled:
        """Draw, label and mix the rows of a step."""
        seed = step_seed(self.config.seed, step, self.processes.rank)
        generator = torch.Generator(self.device).manual_seed(seed)
        parts = [self.labelled(piece, generator) for piece in pieces(batch, self.config.micro)]
        return Labelled(
            torch.cat([part.ids for part in parts]),
            torch.cat([part.mask for part in parts]),
            batch.positions,
            torch.cat([part.labels for part in parts]),
        )

    @torch.no_grad()
    def labelled(self, batch: Batch, generator: torch.Generator) -> Labelled:
        """Rows of answers as the head is trained on them. batch: on the models' device."""
        at = batch.mask[:, 1:]
        log_p, log_q = (self._log_probs(model, batch, at) for model in (self.target, self.drafter))
        drawn, labels = batch.ids.clone(), torch.zeros(batch.ids.shape, device=batch.ids.device)
        if len(log_q):
            tokens = torch.multinomial(log_q.exp(), 1, generator=generator)[:, 0]
            drawn[:, 1:][at], labels[:, 1:][at] = tokens, label(log_p, log_q, tokens)
        return mixed(batch, drawn, labels, self.config.mix, generator)

    def _log_probs(self, model: Any, batch: Batch, at: Tensor) -> Tensor:
        """[N, V] of the tokens that count, as they are served."""
        logits = logits_of(model, batch)[at].float()
        if not len(logits):
            return logits
        if self.config.temperature == 0.0:
            sure = torch.full_like(logits, -torch.inf)
            return sure.scatter_(1, logits.argmax(dim=-1, keepdim=True), 0.0)
        return self._warper.warp_rows(logits, [0], [()] * len(logits)).log_softmax(dim=-1)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Of rows that were prepared."""
        assert isinstance(batch, Labelled)
        logits, labels = self._said(batch)
        return head_loss(logits, labels, self.config.weight), {}

    def _said(self, batch: Labelled) -> tuple[Tensor, Tensor]:
        """(logits [N, 2], labels [N]) where the mask is."""
        at = batch.mask[:, 1:]
        return self.head(self.states(batch)[:, 1:][at]), batch.labels[:, 1:][at]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Of held-out rows, with the weight undone: KL(label || prediction) in nats, and the means
        of both, which agree if predictions are probabilities."""
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        sums, count = torch.zeros(3, dtype=torch.float64, device=self.device), 0
        for piece in pieces(self.held, self.config.micro):
            logits, labels = self._said(self.labelled(piece.to(self.device), generator))
            f = corrected(logits.softmax(dim=-1)[:, 1], self.config.weight).clamp(1e-6, 1 - 1e-6)
            sums += torch.stack([_kl(labels, f), f, labels]).double().sum(dim=-1)
            count += len(labels)
        means = (sums / max(count, 1)).tolist()
        return dict(zip(("kl", "predicted", "accepted"), means, strict=True)) if count else {}

    def facts(self, drafter: str) -> HeadFacts:
        """For the file. drafter: hash of its folder."""
        config = self.config
        return HeadFacts(
            hidden=self.head.hidden, depth=config.depth, tied=config.tied, weight=config.weight,
            temperature=config.temperature, top_k=config.top_k, top_p=config.top_p, drafter=drafter,
        )  # fmt: skip


def _kl(labels: Tensor, f: Tensor) -> Tensor:
    """[N] KL of two Bernoulli laws; labels may be 0 or 1."""
    cross = -(labels * f.log() + (1 - labels) * (1 - f).log())
    own: Tensor = torch.special.entr(labels) + torch.special.entr(1 - labels)
    return cross - own
