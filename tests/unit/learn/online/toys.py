"""Toy targets that are tables, texts of theirs with the target's rows, and a tiny drafter."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers as tf
from tests import tiny
from torch import Tensor, nn

from foretoken.learn.online.buffer import Sample
from foretoken.learn.online.learner import Learner
from foretoken.learn.online.options import OnlineOptions
from foretoken.learn.online.record import reduced
from foretoken.learn.online.store import Learners
from foretoken.learn.online.update import Trainee

V, LENGTH = 16, 20


@cache
def table(seed: int, vocab: int = V) -> Tensor:
    """[V, V] logits of the token after each token: the whole target."""
    return 2.0 * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed))


class Bigram(nn.Module):
    """What a learner needs of a model, without a model's time: the last token is all it sees."""

    def __init__(self, vocab: int, hidden: int) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.inner = nn.Embedding(vocab, hidden)
        self.lm_head = nn.Linear(hidden, vocab, bias=False)

    def forward(self, input_ids: Tensor, use_cache: bool, logits_to_keep: Tensor) -> Any:
        hidden = self.inner(input_ids[:, logits_to_keep]).tanh()
        return SimpleNamespace(logits=self.lm_head(hidden))

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


@cache
def drafter(vocab: int = V, hidden: int = 16) -> Any:
    """An untrained toy; nobody may write to it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Bigram(vocab, hidden).eval().requires_grad_(False)


@cache
def llama(vocab: int = V, hidden: int = 16) -> Any:
    """An untrained Llama; nobody may write to it."""
    config = tf.LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return tiny.make(config, seed=3)


def text(
    target: Tensor, seed: int, length: int = LENGTH, first: int | None = None, top: int = 8
) -> Sample:
    """A text drawn from the table, with all its rows; every third is called refused."""
    dice = torch.Generator().manual_seed(seed)
    tokens = [seed % len(target) if first is None else first]
    while len(tokens) < length:
        row = target[tokens[-1]].softmax(-1)
        tokens.append(int(torch.multinomial(row, 1, generator=dice)))
    ids, log_p = reduced(target[tokens], top, 1.0)
    places = np.arange(length)
    return Sample(np.array(tokens), places, places % 3 == 1, ids, log_p, 1.0, True)


def texts(target: Tensor, seeds: range, **how: Any) -> list[Sample]:
    return [text(target, seed, **how) for seed in seeds]


def options(**values: Any) -> OnlineOptions:
    """Quick learning, for toys."""
    return OnlineOptions(**{"lr": 3e-2, "batch": 6, "tolerance": 1.0, "interval": 4, **values})


def trainee(model: Any = None, **values: Any) -> Trainee:
    return Trainee(model or drafter(), options(**values))


def published(model: Any) -> Any:
    """What stands for a drafter: the weights, copied."""
    return [weight.detach().clone() for weight in model.parameters()]


def learner(worker: Any = None, base: Callable[[], Any] = drafter, **values: Any) -> Learner:
    made = options(**values)
    return Learner(made, base, published, made.max_rows, worker)


def store(**values: Any) -> Learners:
    return Learners(options(**values), drafter, published, None)


def feed(one: Learner, samples: list[Sample]) -> None:
    """Each of the texts is a request."""
    for sample in samples:
        one.add([sample])
        one.advance()


def alpha(one: Learner, target: Tensor, seeds: range = range(900, 912)) -> float:
    """Exact acceptance on texts that nobody learned from (whole rows)."""
    judge = one.trainee or Trainee(drafter(), one.options)
    samples = texts(target, seeds, top=V - 1)
    return judge.acceptance(samples)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
