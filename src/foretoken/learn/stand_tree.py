"""The shape of `stand`'s draft, from texts: which nodes of a large tree would have been accepted.

Source: our notes on stand, 3C. The paper runs decoding with a tree of 625 nodes, counts how often
each node is accepted, and keeps the best. Here a model's texts are recorded once, with the rows of
its distribution, and walked: at each position the table holds what came before, and the text says
which path through the tree it would have taken, however large the tree. Nothing is scored twice.
For fixed drafts that is what decoding would have done. For drawn ones the rank at which recursive
rejection would have accepted the text's token is drawn from its exact law, given the text:
token t is accepted at once with probability min(1, q(t) / p(t)); else the first pick was x with
probability in proportion to (q(x) - p(x))_+, p goes on as norm((p - q)_+), q without x.

The texts must be what the table is to serve: several samples of a prompt, as in test-time scaling,
or one greedy answer of each of several prompts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from foretoken.draft.stand_table import Row, StandTable, Tail, warped
from foretoken.draft.stand_template import Ranks
from foretoken.errors import ConfigError
from foretoken.types import Completion, FloatArray, Limits, Request, Sampling

if TYPE_CHECKING:
    from foretoken.engine.engine import Engine

DEEPEST, WIDEST = 20, 8  # of the tree that is searched
BUDGETS = (4, 8, 16, 32, 64)  # nodes for which tokens per step are told


@dataclass(frozen=True)
class Text:
    """One text that a model wrote, and what it could have written."""

    tokens: Sequence[int]  # prompt and answer
    start: int  # where the answer begins
    tops: Sequence[tuple[Sequence[int], Sequence[float]]]  # [answer] likeliest, temperature 1
    law: FloatArray | None = None  # [answer, V] what tokens were drawn from; drawn drafts need it


@dataclass(frozen=True)
class Tuned:
    """A shape and what it is worth on the texts it was made of."""

    paths: list[Ranks]  # best node first
    texts: int
    tokens: int  # of the answers
    tokens_per_step: dict[int, float]  # by nodes; if a step learns from committed rows alone


def record(
    engine: Engine, prompts: Iterable[Sequence[int]], samples: int, sampling: Sampling, new: int,
    width: int,
) -> Iterator[Text]:  # fmt: skip
    """What the engine's model writes after each prompt, `samples` times; seeds rise from
    `sampling.seed`. width: entries kept of a row. A prompt's samples are decoded together."""
    for number, prompt in enumerate(prompts):
        seeds = range(sampling.seed + number * samples, sampling.seed + (number + 1) * samples)
        requests = [
            Request(
                list(prompt), sampling.model_copy(update={"seed": seed}),
                Limits(max_new_tokens=new), keep_logits=True,
            )
            for seed in seeds
        ]  # fmt: skip
        for done in engine.run(requests):
            if done.tokens:
                yield _text(prompt, done, sampling.temperature, width)


def _text(prompt: Sequence[int], done: Completion, temperature: float, width: int) -> Text:
    logits = torch.stack(done.logits).float().cpu()
    top = logits.softmax(-1).topk(min(width, logits.shape[-1]), dim=-1)
    tops = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    law = (logits / temperature).softmax(-1).numpy() if temperature else None
    return Text([*prompt, *done.tokens], len(prompt), tops, law)


def tune(
    texts: Iterable[Text], table: StandTable, prompt: float, sampling: Sampling, nodes: int,
    drawn: bool,
) -> Tuned:  # fmt: skip
    """The best shape of so many nodes for a table that serves these texts in turn.

    prompt: see `StandDrafter.Options`. drawn: for drawn children, else for fixed ones. Raises
    ConfigError if the texts repeat nothing.
    """
    dice = random.Random(sampling.seed) if drawn else None
    walked, tokens = [], 0
    for text in texts:
        table.read(text.tokens[: text.start], prompt)
        walked.append(followed(text, table, sampling, dice))
        tokens += len(text.tokens) - text.start
    paths = best(count(path for text in walked for path in text), nodes, drawn)
    if not paths:
        raise ConfigError("prompts", f"{tokens} tokens written", "texts that repeat something")
    told = [n for n in BUDGETS if n < len(paths)] + [len(paths)]
    worth = {n: tokens_per_step(walked, paths[:n]) for n in told}
    return Tuned(paths, len(walked), tokens, worth)


def tail(tokens: Sequence[int], end: int, longest: int) -> Tail:
    """The last tokens before `end`."""
    return tuple(tokens[max(end - longest, 0) : end])


def followed(
    text: Text, table: StandTable, sampling: Sampling, drawn: random.Random | None
) -> list[Ranks]:
    """[answer] the ranks by which the text leaves each position, as far as the tree knows them; the
    table learns each row once the text has passed it."""
    out = []
    for at in range(text.start, len(text.tokens)):
        ranks: list[int] = []
        for place in range(at, min(at + DEEPEST, len(text.tokens))):
            hit = table.find(tail(text.tokens, place, table.longest))
            rank = None if hit is None else _rank(hit[1], text, place, sampling, drawn)
            if rank is None:
                break
            ranks.append(rank)
        out.append(tuple(ranks))
        table.learn(tail(text.tokens, at, table.longest), *text.tops[at - text.start])
    return out


def _rank(
    row: Row, text: Text, place: int, sampling: Sampling, drawn: random.Random | None
) -> int | None:
    """Which child of the row's node the text's token is; None if it is none."""
    token, q = text.tokens[place], warped(row, sampling, 1.0)
    tokens = list(row.tokens[: len(q)])
    if drawn is None:
        return tokens.index(token) if token in tokens[:WIDEST] else None
    if token not in tokens:
        return None
    assert text.law is not None
    p = text.law[place - text.start][tokens].tolist()
    return accepted_at(p, q, tokens.index(token), drawn)


def accepted_at(
    p: Sequence[float], q: Sequence[float], wanted: int, dice: random.Random
) -> int | None:
    """At which pick recursive rejection accepts the token that was written, if at any.

    p: the target's probabilities of the row's tokens (the others have the rest of it). q: the
    row's, of any sum. wanted: index of the token that was written.
    """
    p, q, outside = list(p), list(q), max(1.0 - sum(p), 0.0)
    left = list(range(len(q)))
    for rank in range(WIDEST):
        mass, total = sum(q[x] for x in left), sum(p) + outside
        if mass <= 0.0 or total <= 0.0 or p[wanted] <= 0.0:
            return None
        ratio = q[wanted] / mass / (p[wanted] / total)
        if dice.random() < ratio:
            return rank
        over = [max(q[x] / mass - p[x] / total, 0.0) for x in left]
        if sum(over) <= 0.0:
            return None
        rejected = dice.choices(left, over)[0]
        p = [max(p[x] / total - (q[x] / mass if x in left else 0.0), 0.0) for x in range(len(p))]
        outside /= total
        left.remove(rejected)
    return None


def count(paths: Iterable[Ranks]) -> Counter[Ranks]:
    """How often each node of the tree was accepted, were a step to begin at every position."""
    counts: Counter[Ranks] = Counter()
    for path in paths:
        for depth in range(1, len(path) + 1):
            counts[path[:depth]] += 1
    return counts


def best(counts: Mapping[Ranks, int], nodes: int, drawn: bool = False) -> list[Ranks]:
    """The nodes accepted most often, in this order; among equals the shallower, then the smaller
    rank. A node's ancestors are accepted whenever it is, so they stand before it. Of drawn
    children none may stand before its elder sibling: it counts as often as that one at most.
    """
    worth = dict(counts)
    if drawn:
        for path in sorted(counts, key=lambda path: (len(path), path)):
            limits = [worth.get((*path[:-1], path[-1] - 1), 0)] if path[-1] else []
            limits += [worth[path[:-1]]] if len(path) > 1 else []
            worth[path] = min(counts[path], *limits) if limits else counts[path]
    order = sorted(worth, key=lambda path: (-worth[path], len(path), path))
    return [path for path in order[:nodes] if worth[path]]


def tokens_per_step(texts: Iterable[Sequence[Ranks]], tree: Sequence[Ranks]) -> float:
    """Mean tokens of a step of decoding with this tree. texts: each one's `followed`."""
    known, tokens, steps = set(tree), 0, 0
    for paths in texts:
        at = 0
        while at < len(paths):
            accepted, path = 0, paths[at]
            while accepted < len(path) and path[: accepted + 1] in known:
                accepted += 1
            at += accepted + 1
            steps += 1
        tokens += len(paths)
    return tokens / steps if steps else 0.0
