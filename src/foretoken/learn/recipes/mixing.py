"""Rows of several sources in fixed shares, and stages of such mixtures one after another.

Both keep what `Rows` promises: which row comes n-th is a function of n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from foretoken.errors import ConfigError
from foretoken.learn.recipes.rows import Batch, Rows, Stream, joined

PERIOD = 100  # shares are kept exactly over so many rows


@dataclass(frozen=True)
class Stage:
    """Some steps of training on one mixture."""

    steps: int
    mix: Mapping[str, float]  # source -> weight; only their ratio counts

    @classmethod
    def parse(cls, text: str) -> Stage:
        """From "600:text=1,code=2". Raises ConfigError."""
        steps, _, mix = text.partition(":")
        try:
            weights = [part.partition("=") for part in mix.split(",")]
            return cls(int(steps), {name.strip(): float(w or 1) for name, _, w in weights})
        except ValueError:
            raise ConfigError("stage", text, "STEPS:SOURCE=WEIGHT,SOURCE=WEIGHT") from None


def mixed(sources: Mapping[str, Rows], weights: Mapping[str, float]) -> Rows:
    """Rows drawn from `sources` in the ratio of `weights`; held out is what they hold out."""
    return staged(sources, [Stage(1, weights)], batch=1)


def staged(sources: Mapping[str, Rows], stages: Sequence[Stage], batch: int) -> Rows:
    """One stage after another, each of `stage.steps` steps of `batch` rows; the last one never
    ends. Each source goes on where the stage before left it. Raises ConfigError."""
    streams: list[Stream] = []
    for stage in stages:
        unknown = [name for name in stage.mix if name not in sources]
        if unknown or not stage.mix:
            raise ConfigError("stage", unknown[0] if unknown else "", f"of {', '.join(sources)}")
        if min(stage.mix.values()) < 0 or sum(stage.mix.values()) <= 0 or stage.steps < 1:
            raise ConfigError("stage", stage.mix, "weights of at least 0, and at least one step")
    used = dict.fromkeys(sources, 0)
    for stage in stages:
        parts = {name: sources[name] for name in stage.mix}
        mixture = _Mixture(parts, stage.mix, dict(used))
        streams.append(mixture)
        for name, count in mixture.counts(stage.steps * batch).items():
            used[name] += count
    ends = list(accumulate(stage.steps * batch for stage in stages))
    digest = hashlib.sha256()
    for number, stage in enumerate(stages):
        steps = stage.steps if number + 1 < len(stages) else 0  # the last may be made longer
        digest.update(f"{steps}:{sorted(stage.mix.items())};".encode())
    for name in sorted(sources):
        digest.update(f"{name}={sources[name].sha256};".encode())
    tokens = sum(rows.tokens_per_epoch for rows in sources.values())
    held = joined([rows.held_out() for rows in sources.values()])
    made = Rows(_Stages(streams, ends), held, tokens, digest.hexdigest())
    made.examples = [e for rows in sources.values() for e in rows.examples]
    return made


class _Stages:
    def __init__(self, streams: Sequence[Stream], ends: Sequence[int]) -> None:
        self.streams, self.ends = streams, ends

    def batch(self, first: int, count: int) -> Batch:
        parts = []
        begin = 0
        for number, (stream, end) in enumerate(zip(self.streams, self.ends, strict=True)):
            last = number + 1 == len(self.streams)
            here = count if last else min(count, end - first)
            if here > 0:
                parts.append(stream.batch(first - begin, here))
                first, count = first + here, count - here
            begin = end
        return joined(parts)


class _Mixture:
    """Rows from several sources in a repeated order of `PERIOD` rows."""

    def __init__(
        self, sources: Mapping[str, Rows], weights: Mapping[str, float], start: Mapping[str, int]
    ) -> None:
        self.sources, self.start = sources, start
        self.order = _order(weights)
        self.per_period = {name: self.order.count(name) for name in sources}

    def counts(self, rows: int) -> dict[str, int]:
        """How many of the first `rows` rows come from each source."""
        whole, rest = divmod(rows, PERIOD)
        head = self.order[:rest]
        return {name: whole * n + head.count(name) for name, n in self.per_period.items()}

    def batch(self, first: int, count: int) -> Batch:
        names = [self.order[row % PERIOD] for row in range(first, first + count)]
        before = self.counts(first)
        parts, places = [], []
        for name, rows in self.sources.items():
            here = [i for i, own in enumerate(names) if own == name]
            if here:
                parts.append(rows.stream.batch(self.start[name] + before[name], len(here)))
                places += here
        return joined(parts).take(torch.tensor(places).argsort())


def _order(weights: Mapping[str, float]) -> list[str]:
    """`PERIOD` names, each as often as its weight says and spread evenly."""
    total = sum(weights.values())
    done = dict.fromkeys(weights, 0)
    order = []
    for row in range(1, PERIOD + 1):
        behind = {name: row * w / total - done[name] for name, w in weights.items()}
        name = max(behind, key=behind.__getitem__)
        done[name] += 1
        order.append(name)
    return order
