"""Answers that the drafter wrote itself: some of the rows of a step are replaced by them.

Source: DistillSpec, Zhou et al. 2310.08461: the drafter samples the continuations (cheap), the
target scores them, no gradient goes through the sampling. Here the drafter writes a pool of answers
every `every` steps, so that text and weights are at most so many steps apart; what it writes
depends on the weights and the step's number only, and the pool is kept in checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretoken.learn.lm import autocast
from foretoken.learn.recipes.parts import step_seed
from foretoken.learn.recipes.rows import Batch, Example, pack

PROMPTS_AT_ONCE = 32


@dataclass(frozen=True)
class OnPolicyOptions:
    """How many rows, how fresh, how long."""

    share: float  # of the rows of a step
    every: int  # steps from one pool to the next
    tokens: int  # most tokens of an answer
    temperature: float  # of the drafter


class OnPolicy:
    """The pool; called before each step with its rows.

    model: the drafter in training. examples: whose prompts are answered. seq, packed: shape of the
    rows. batch: rows of a step over all processes, of which this one is `rank` of `world`.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: Any,
        examples: Sequence[Example],
        options: OnPolicyOptions,
        *,
        seq: int,
        batch: int,
        seed: int,
        packed: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.model, self.options = model, options
        self.prompts = [found for e in examples if len(found := _prompt(e)) and len(found) < seq]
        self.seq, self.seed, self.packed = seq, seed, packed
        self.batch, self.rank, self.world = batch, rank, world
        self.answer_tokens = 1 + sum(len(e.ids) for e in examples) // max(1, len(examples))
        self.pool: Batch | None = None

    def __call__(self, step: int, batch: Batch) -> Batch:
        """`batch` with its first rows replaced, the share over many steps."""
        options = self.options
        if self.pool is None or step % options.every == 0:
            self.pool = self._write(step)
        own = len(batch) * options.share
        count = math.floor(own * (step + 1) + 1e-9) - math.floor(own * step + 1e-9)
        if not count or not len(self.pool):
            return batch
        first = ((step % options.every) * self.world + self.rank) * math.ceil(own)
        index = torch.arange(first, first + count) % len(self.pool)
        fresh = self.pool.take(index).to(batch.ids.device)
        positions = batch.positions
        if positions is not None:
            assert fresh.positions is not None
            positions = torch.cat((fresh.positions, positions[count:]))
        return Batch(
            torch.cat((fresh.ids, batch.ids[count:])),
            torch.cat((fresh.mask, batch.mask[count:])),
            positions,
        )

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        pool = self.pool
        return {} if pool is None else {name: getattr(pool, name) for name in _FIELDS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.pool = Batch(**state) if state else None

    def _write(self, step: int) -> Batch:
        """A new pool, about as many rows as are used until the next; the same in all processes."""
        options = self.options
        rows = math.ceil(options.share * self.batch * options.every)
        wanted = max(1, rows * self.seq // self.answer_tokens if self.packed else rows)
        seed = step_seed(self.seed, step)
        chosen = np.random.default_rng(seed).permutation(len(self.prompts))[:wanted]
        # prompts of like length together: little padding
        order = sorted(chosen.tolist(), key=lambda i: len(self.prompts[i]))
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        made: list[Example] = []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for first in range(0, len(order), PROMPTS_AT_ONCE):
                some = [self.prompts[i] for i in order[first : first + PROMPTS_AT_ONCE]]
                made += self._answers(some)
        shuffled = np.random.default_rng(seed).permutation(len(made))
        return pack([made[i] for i in shuffled], self.seq, self.packed)

    def _answers(self, prompts: Sequence[Sequence[int]]) -> list[Example]:
        room = min(self.options.tokens, self.seq - max(len(p) for p in prompts))
        answers = sample(self.model, prompts, max(1, room), self.options.temperature)
        return [
            Example.of([*prompt, *answer], len(prompt)).cut(self.seq)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


@torch.no_grad()
def sample(
    model: Any, prompts: Sequence[Sequence[int]], tokens: int, temperature: float
) -> list[list[int]]:
    """Answers of at most `tokens` tokens, drawn from the model at `temperature` by torch's own
    randomness; the end-of-text token is part of an answer. The model's mode is left as it was."""
    device, was = model.device, model.training
    ends = _ends(model)
    width = max(len(p) for p in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    seen = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        seen[row, width - len(prompt) :] = 1
    model.eval()
    with autocast(device):
        out: Tensor = model.generate(
            ids.to(device),
            attention_mask=seen.to(device),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=tokens,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )
    model.train(was)
    answers = []
    for row in out[:, width:].tolist():
        end = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
        answers.append(row[: end + 1])
    return answers


_FIELDS = ("ids", "mask", "positions")


def _prompt(example: Example) -> list[int]:
    """All before the last answer."""
    learned = example.mask.nonzero()[0]
    if not len(learned):
        return []
    last = int(learned[-1])
    while last > 0 and example.mask[last - 1]:
        last -= 1
    prompt: list[int] = example.ids[:last].tolist()
    return prompt


def _ends(model: Any) -> list[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    if own is None:
        own = model.config.get_text_config().eos_token_id
    return [] if own is None else [own] if isinstance(own, int) else list(own)
