"""Train a small Llama from nothing: the recipe of the bundled demo target.

Corpus -> tokenizer -> packed rows -> Muon + AdamW with warmup, stable and decay phases ->
checkpoints. Every step depends on the configuration, the weights and the step's number only, so
a run that was interrupted and resumed ends with the same weights.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from foretoken.errors import ConfigError
from foretoken.learn.bpe import load_tokenizer, save_tokenizer, train_bpe
from foretoken.learn.checkpoint import load_checkpoint, save_checkpoint
from foretoken.learn.corpus import Corpus
from foretoken.learn.lm_config import LmConfig
from foretoken.learn.optim import build_optimisers, schedule
from foretoken.learn.packing import IGNORED, RowStream, encode, held_out_rows
from foretoken.learn.recipes.trainer import StoppedError, TrainingError
from foretoken.prompt.tokens import tokenizer_hash
from foretoken.target.load import has_fast_bfloat16

EVALUATION_ROWS = 4  # rows per forward pass when no gradient is needed


@dataclass(frozen=True, slots=True)
class Progress:
    """What the trainer reports after every step."""

    step: int  # steps made so far
    steps: int
    loss: float  # nats per token, mean over this step
    tokens: int  # of this step
    seconds: float  # of this step
    held_out: dict[str, float]  # latest evaluation, nats per token by kind of document


class LmRun:
    """One training run: a model with all that its next step depends on.

    `work` keeps the checkpoint and the tokenizer. With `resume`, a checkpoint of the same
    configuration and corpus is continued; ConfigError names the field in which another differs.
    `tokenizer` is a folder whose tokenizer is taken instead of a new one (a drafter must share its
    target's); `config.vocab` then follows it.
    """

    def __init__(
        self,
        config: LmConfig,
        corpus: Corpus,
        work: Path,
        resume: bool = True,
        tokenizer: Path | None = None,
    ) -> None:
        given = None if tokenizer is None else _given(tokenizer)
        if given is not None:
            config = config.model_copy(update={"vocab": len(given)})
        self.config, self.checkpoint = config, work / "checkpoint.pt"
        self.data = corpus.manifest()
        saved = load_checkpoint(self.checkpoint) if resume else None
        if saved is not None:
            self._check(saved)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = given or _tokenizer(config, corpus, work / "tokenizer", saved is not None)
        self.words = tokenizer_hash(self.tokenizer)
        if saved is not None and saved.get("tokenizer", self.words) != self.words:
            raise ConfigError("tokenizer", tokenizer, f"that of {self.checkpoint}, or --no-resume")
        self.stream = _stream(config, corpus, self.tokenizer)
        self.held_out = _held_out(config, corpus, self.tokenizer)
        torch.manual_seed(config.seed)
        self.model = build_model(config, self.tokenizer).to(self.device)
        self.optimisers = build_optimisers(self.model, config.lr, config.weight_decay)
        self.train_loss = self._loss
        if config.compile:
            self.train_loss = torch.compile(self._loss, dynamic=False)
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        self.latest: dict[str, float] = {}
        if saved is not None:
            self._restore(saved)

    def train(
        self,
        report: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the steps that are left, with evaluations and checkpoints in between.

        `stop` is asked after every step; if it says yes a checkpoint is written and StoppedError
        raised. TrainingError if the loss or the gradient is no finite number.
        """
        config = self.config
        while self.step < config.steps:
            began = time.perf_counter()
            loss = self._train_step()
            seconds = time.perf_counter() - began
            self.step += 1
            self.seconds += seconds
            last = self.step == config.steps
            if last or self.step % config.eval_every == 0:
                self.latest = self.evaluate()
            self._record(loss)
            report(Progress(self.step, config.steps, loss, config.batch, seconds, self.latest))
            stopping = not last and stop()
            if last or stopping or self.step % config.checkpoint_every == 0:
                save_checkpoint(self.checkpoint, self.state())
            if stopping:
                raise StoppedError(
                    f"stopped after step {self.step} of {config.steps}; the same command goes on"
                )

    def evaluate(self) -> dict[str, float]:
        """Loss on the held-out documents, nats per token, by kind."""
        self.model.eval()
        losses = {kind: self._evaluate(*rows) for kind, rows in self.held_out.items()}
        self.model.train()
        return losses

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on exactly here; tensors and plain values."""
        return {
            "config": self.config.model_dump(),
            "corpus": self.data["sha256"],
            "tokenizer": self.words,
            "step": self.step,  # the data position follows from it
            "seconds": self.seconds,
            "log": self.log,
            "latest": self.latest,
            "rng": torch.get_rng_state(),
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def _check(self, saved: dict[str, Any]) -> None:
        ours, theirs = self.config.fixed(), saved["config"]
        for name, value in ours.items():
            if theirs.get(name) != value:
                accepted = f"{theirs.get(name)!r} as in {self.checkpoint}, or --no-resume"
                raise ConfigError(name, value, accepted)
        if saved["corpus"] != self.data["sha256"]:
            accepted = f"the corpus of {self.checkpoint}, or --no-resume"
            raise ConfigError("data", self.data["sha256"][:12], accepted)
        if self.config.steps < saved["step"]:
            raise ConfigError("steps", self.config.steps, f"at least {saved['step']}, made already")

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        torch.set_rng_state(saved["rng"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.log, self.latest = saved["log"], saved["latest"]

    def _train_step(self) -> float:
        """One optimiser step; mean loss in nats per token."""
        batches = list(self._batches())
        total = 0.0
        for inputs, targets in batches:
            loss = self.train_loss(inputs, targets)
            torch.autograd.backward(loss / len(batches))
            total += loss.item() / len(batches)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip).item()
        if not math.isfinite(total) or not math.isfinite(norm):
            raise TrainingError(
                f"loss {total} and gradient norm {norm} in step {self.step + 1}: lower lr "
                f"({self.config.lr}); the last good checkpoint is {self.checkpoint}"
            )
        rate = self.config.lr * schedule(self.step, self.config)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return total

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of the next step, each [micro, seq] or [micro / 2, 2 * seq]."""
        config = self.config
        count = config.batch // config.seq
        rows = self.stream.rows(self.step * count, count).to(self.device)
        double = config.double_every and (self.step + 1) % config.double_every == 0
        seq = config.seq * (2 if double else 1)
        for chunk in torch.split(rows, config.micro):
            yield chunk[:, :-1].reshape(-1, seq), chunk[:, 1:].reshape(-1, seq)

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with autocast(self.device):
            logits = self.model(input_ids=inputs, use_cache=False).logits  # [rows, seq, vocab]
        return F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED
        )

    @torch.no_grad()
    def _evaluate(self, inputs: Tensor, targets: Tensor) -> float:
        total = 0.0
        for x, y in zip(
            torch.split(inputs, EVALUATION_ROWS), torch.split(targets, EVALUATION_ROWS), strict=True
        ):
            loss = self._loss(x.to(self.device), y.to(self.device))
            total += loss.item() * int((y != IGNORED).sum())
        return total / int((targets != IGNORED).sum())

    def _record(self, loss: float) -> None:
        entry: dict[str, Any] = {
            "step": self.step,
            "loss": round(loss, 5),
            "seconds": round(self.seconds, 2),
        }
        if self.step % self.config.eval_every == 0 or self.step == self.config.steps:
            entry["held_out"] = {kind: round(value, 5) for kind, value in self.latest.items()}
        self.log.append(entry)


def build_model(config: LmConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights: grouped-query attention, rotary positions, tied embeddings."""
    shape = LlamaConfig(
        vocab_size=config.vocab,
        hidden_size=config.hidden,
        intermediate_size=config.ffn,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.hidden // config.heads,
        max_position_embeddings=config.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(shape)


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where the processor multiplies it in hardware; plain float32 elsewhere."""
    fast = has_fast_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16) if fast else nullcontext()


def _tokenizer(
    config: LmConfig, corpus: Corpus, folder: Path, keep: bool
) -> PreTrainedTokenizerFast:
    if keep and folder.exists():
        return load_tokenizer(folder)
    texts = (document.text for document in corpus.train)
    tokenizer = train_bpe(texts, config.vocab, config.positions)
    save_tokenizer(tokenizer, folder)
    return tokenizer


def _given(folder: Path) -> PreTrainedTokenizerFast:
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError("tokenizer", folder, "a folder with a tokenizer.json")
    return load_tokenizer(folder)


def _stream(config: LmConfig, corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> RowStream:
    repeated = [d for d in corpus.train if d.kind == "qa"] * (config.qa_repeats - 1)
    return RowStream(encode(tokenizer, [*corpus.train, *repeated]), config.seq, config.seed)


def _held_out(
    config: LmConfig, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> dict[str, tuple[Tensor, Tensor]]:
    kinds = sorted({document.kind for document in corpus.held_out})
    by_kind = {
        kind: encode(tokenizer, [d for d in corpus.held_out if d.kind == kind]) for kind in kinds
    }
    limit = config.held_out_rows
    return {kind: held_out_rows(ids, config.seq, limit) for kind, ids in by_kind.items()}
