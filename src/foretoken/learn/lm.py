"""Train a small Llama from nothing: the recipe of the bundled demo target.

Corpus -> tokenizer -> packed rows -> Muon + AdamW with warmup, stable and decay phases ->
checkpoints. Every step depends on the configuration, the weights and the step's number only, so
a run that was interrupted and resumed ends with the same weights.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from foretoken.errors import ConfigError
from foretoken.learn.bpe import load_tokenizer, save_tokenizer, train_bpe
from foretoken.learn.corpus import Corpus
from foretoken.learn.lm_config import LmConfig
from foretoken.learn.packing import IGNORED, RowStream, encode, held_out_rows
from foretoken.learn.recipes.config import TrainConfig
from foretoken.learn.recipes.processes import Processes
from foretoken.learn.recipes.trainer import CHECKPOINT, Progress, Trainer
from foretoken.prompt.tokens import tokenizer_hash
from foretoken.target.load import has_fast_bfloat16

EVALUATION_ROWS = 4  # rows per forward pass when no gradient is needed


@dataclass(frozen=True)
class Span:
    """Inputs and targets of rows, counted as rows of `seq` tokens however long they are."""

    inputs: Tensor  # [B, L] int64
    targets: Tensor  # [B, L] int64: the token that follows each input
    fold: int = 1  # rows of `seq` tokens in one of these

    @property
    def learned(self) -> Tensor:
        """How many predictions count: all."""
        return torch.tensor(self.targets.numel(), device=self.targets.device)

    def to(self, device: torch.device) -> "Span":
        """The same on another device."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def rows(self, first: int, last: int) -> "Span":
        """Rows first .. last - 1 of `seq` tokens."""
        kept = slice(first // self.fold, last // self.fold)
        return replace(self, inputs=self.inputs[kept], targets=self.targets[kept])

    def __len__(self) -> int:
        return len(self.inputs) * self.fold


class Text:
    """The rows of `train lm`: each `double_every`-th step has half as many, twice as long."""

    def __init__(self, stream: RowStream, config: LmConfig, sha256: str) -> None:
        self.stream, self.config, self.sha256 = stream, config, sha256
        self.tokens_per_epoch = stream.tokens_per_epoch

    def batch(self, step: int, count: int, rank: int = 0, world: int = 1) -> Span:
        """See `learn.recipes.parts.Source`."""
        config, share = self.config, count // world
        rows = self.stream.rows(step * count + rank * share, share)
        fold = 2 if config.double_every and (step + 1) % config.double_every == 0 else 1
        seq = fold * config.seq
        return Span(rows[:, :-1].reshape(-1, seq), rows[:, 1:].reshape(-1, seq), fold)


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
        self.config, self.data = config, corpus.manifest()
        processes = Processes()
        keep = resume and (work / CHECKPOINT).exists()
        self.tokenizer = given or _tokenizer(config, corpus, work / "tokenizer", keep, processes)
        self.stream = _stream(config, corpus, self.tokenizer)
        self.held_out = _held_out(config, corpus, self.tokenizer)
        self.device = processes.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build_model(config, self.tokenizer).to(self.device)
        self.trainer = Trainer(
            self.model,
            self._loss,
            Text(self.stream, config, self.data["sha256"]),
            TrainConfig(
                batch=config.batch // config.seq,
                **{name: getattr(config, name) for name in SHARED},
            ),
            work,
            facts={**config.fixed(), "tokenizer": tokenizer_hash(self.tokenizer)},
            evaluate=self.evaluate,
            resume=resume,
            processes=processes,
        )

    @property
    def step(self) -> int:
        """Steps made so far."""
        return self.trainer.step

    @property
    def seconds(self) -> float:
        """Spent on them."""
        return self.trainer.seconds

    @property
    def log(self) -> list[dict[str, Any]]:
        """An entry for every step."""
        return self.trainer.log

    def train(
        self,
        report: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the steps that are left; see `Trainer.train`."""
        self.trainer.train(report, stop)

    def evaluate(self) -> dict[str, float]:
        """Loss on the held-out documents, nats per token, by kind."""
        self.model.eval()
        losses = {kind: self._evaluate(*rows) for kind, rows in self.held_out.items()}
        self.model.train()
        return losses

    def _loss(self, span: Span) -> tuple[Tensor, dict[str, Tensor]]:
        return self._mean(span.inputs, span.targets), {}

    def _mean(self, inputs: Tensor, targets: Tensor) -> Tensor:
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
            loss = self._mean(x.to(self.device), y.to(self.device))
            total += loss.item() * int((y != IGNORED).sum())
        return total / int((targets != IGNORED).sum())


# fields of LmConfig that the loop knows under the same name
SHARED = (
    "steps", "micro", "seq", "lr", "warmup", "decay", "weight_decay", "clip", "seed",
    "eval_every", "checkpoint_every", "compile",
)  # fmt: skip


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
    config: LmConfig, corpus: Corpus, folder: Path, keep: bool, processes: Processes
) -> PreTrainedTokenizerFast:
    """That of the folder, or a new one. Every process trains the same; the first one writes it."""
    if keep and folder.exists():
        return load_tokenizer(folder)
    texts = (document.text for document in corpus.train)
    tokenizer = train_bpe(texts, config.vocab, config.positions)
    if processes.main:
        save_tokenizer(tokenizer, folder)
    processes.wait()
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
