"""Texts that a drafter is judged on: held-out answers of a data set, or prompts of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foretoken.bench.prompts import Prompt
from foretoken.errors import ConfigError
from foretoken.learn.recipes.answers import read_answers
from foretoken.learn.recipes.talks import read_talks
from foretoken.learn.recipes.turns import prompt_of


def held_out_prompts(
    folder: Path, held_out: float, tokenizer_hash: str, vocab: int, limit: int, forced: bool
) -> list[Prompt]:
    """The prompts that training with the same `held_out` never sees, each with its first answer as
    reference text; `limit` at most, in an order that never changes.

    forced: every answer is wanted; else equal prompts are asked once. Raises ArtifactError for
    data of another model, ConfigError if nothing is held out.
    """
    answers = read_answers(folder, tokenizer_hash, vocab)
    pairs = sorted(
        (example.ids.tobytes(), example, row.id)
        for example, row in zip(answers.examples(), answers.rows, strict=True)
        if example.held(held_out)
    )
    found: dict[Any, Prompt] = {}
    for content, example, name in pairs:
        ids, mask = example.ids.tolist(), example.mask.tolist()
        start = mask.index(True)
        end = next((i for i in range(start, len(mask)) if not mask[i]), len(mask))
        key = content if forced else tuple(ids[:start])
        if start:
            found.setdefault(
                key, Prompt(name, ids[:start], "", reference=ids[start:end], seed=len(found))
            )
    if not found:
        raise ConfigError("held-out", held_out, f"a share of {folder} with a prompt in it")
    return list(found.values())[:limit]


def own_prompts(
    prompts: Sequence[Path], texts: Sequence[Path], tokenizer: Any, start: int, limit: int
) -> list[Prompt]:
    """The first turn of what `train draft data` would ask. Raises ConfigError."""
    asked = read_talks(prompts, texts, tokenizer=tokenizer, start=start, limit=limit)
    out = []
    for i, talk in enumerate(asked.talks):
        turn = [m for m in talk.messages if m["role"] != "assistant"]
        first = next((n for n, m in enumerate(turn) if m["role"] == "user"), 0)
        ids = list(talk.ids) or prompt_of(tokenizer, turn[: first + 1])
        out.append(Prompt(talk.name, ids, "", seed=i))
    return out
