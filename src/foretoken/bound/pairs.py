"""Where pairs (p, q) come from: two models on the target's own text, or files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.prompt.sampling import Warper
from foretoken.registry import NULL_METHOD, NULL_POLICY
from foretoken.target.base import Job, Target
from foretoken.tree import DraftTree
from foretoken.types import FloatArray, Limits, Request, Sampling

SUM_ERROR = 1e-4  # by which a given law may miss 1; it is made to sum to 1

Pair = tuple[FloatArray, FloatArray]  # p, q: [V] float64


@dataclass(frozen=True)
class Source:
    """A target and a drafter of the same vocabulary, and how the target's text is written."""

    target: Target
    drafter: Target
    max_new_tokens: int
    seed: int

    def pairs(self, prompt: Sequence[int], temperature: float, most: int) -> Iterator[Pair]:
        """The pairs at `most` positions at most, spread evenly over a text that the target writes.

        prompt: token ids. temperature: above 0, of both models. Nothing if no token is written.
        """
        sampling = Sampling(temperature=temperature, seed=self.seed)
        engine = Engine(self.target, method=NULL_METHOD, policy=NULL_POLICY, max_sessions=1)
        limits = Limits(max_new_tokens=self.max_new_tokens)
        done = engine.run([Request(prompt, sampling, limits, keep_logits=True)])[0]
        known = self.drafter.max_context - len(prompt)
        written = min(len(done.tokens), known)
        if written < 1:
            return
        chosen = spread(written, most)
        theirs = rows_after(self.drafter, prompt, done.tokens[: written - 1])
        warper = Warper(sampling, prompt, (), self.max_new_tokens, self.target.vocab)
        for at in chosen:
            history = [*prompt, *done.tokens[:at]]
            yield law(warper, done.logits[at], history), law(warper, theirs[at], history)


def spread(length: int, most: int) -> list[int]:
    """`most` indices below `length`, evenly; all of them if there are fewer."""
    count = min(length, most)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def law(warper: Warper, logits: Tensor, history: Sequence[int]) -> FloatArray:
    """[V] float64 probabilities, through the processors that decoding uses."""
    row = warper.warp(logits, history).double()
    return np.asarray(torch.softmax(row, dim=-1).cpu().numpy(), dtype=np.float64)


def rows_after(model: Target, prompt: Sequence[int], text: Sequence[int]) -> Tensor:
    """[len(text) + 1, V] logits of the tokens after the prompt and after each token of the text."""
    cache = model.new_cache(len(prompt) + len(text) + 1)
    rows: list[Tensor] = []
    try:
        fresh, at = list(prompt), 0
        while True:
            chain = DraftTree.chain(text[at : at + model.max_draft])
            logits = model.score([Job(cache, fresh, chain)])[0].logits
            at += len(chain)
            if at == len(text):
                return torch.cat([*rows, logits])
            # the last row comes again as the root of the next piece
            rows.append(logits[:-1])
            cache.keep(range(len(chain) - 1))
            fresh = [text[at - 1]]
    finally:
        cache.release()


def read_laws(field: str, path: Path) -> FloatArray:
    """[n, V] float64 laws from a .npy or .json file that holds one law or a list of them.

    field: "p" or "q", for messages. Raises ConfigError for what cannot be read or is no law.
    """
    rows = np.atleast_2d(_numbers(field, path))
    if rows.ndim != 2 or not rows.size:
        raise ConfigError(field, str(path), "one law or a list of laws of equal length")
    for i, row in enumerate(rows):
        name = f"{path}" if len(rows) == 1 else f"{path} law {i}"
        if not np.isfinite(row).all() or (row < 0).any():
            raise ConfigError(field, name, "finite numbers from 0")
        if abs(row.sum() - 1.0) > SUM_ERROR:
            raise ConfigError(field, f"{name}: sums to {row.sum():.6g}", "probabilities sum to 1")
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def _numbers(field: str, path: Path) -> FloatArray:
    if path.suffix not in (".npy", ".json"):
        raise ConfigError(field, str(path), "a .npy or .json file")
    try:
        found: Any = np.load(path) if path.suffix == ".npy" else json.loads(path.read_text("utf-8"))
        return np.asarray(found, dtype=np.float64)
    except OSError as error:
        why = error.strerror or "not an array"
        raise ConfigError(field, str(path), f"a readable file ({why})") from None
    except (ValueError, TypeError, EOFError):
        raise ConfigError(field, str(path), "numbers, in lists of equal length") from None


def check_same_shape(p: FloatArray, q: FloatArray) -> None:
    """Raises ConfigError unless there are as many laws of as many tokens in both."""
    for what, i in (("laws", 0), ("tokens", 1)):
        if p.shape[i] != q.shape[i]:
            raise ConfigError("q", f"{q.shape[i]} {what}", f"as many {what} as p has: {p.shape[i]}")
