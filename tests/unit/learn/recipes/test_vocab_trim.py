"""Counting, judging sizes and choosing one, against brute force on tiny models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import letters, tiny
from tests.unit.learn.recipes.test_worth import counted

from foretoken.draft.trim import kept_tokens
from foretoken.draft.trimmed import trimmed
from foretoken.errors import ConfigError
from foretoken.learn.recipes.reading import weights_read
from foretoken.learn.recipes.rows import Example, pack
from foretoken.learn.recipes.vocab_trim import (
    Size,
    always_kept,
    best,
    break_even,
    count_tokens,
    sweep,
)

V, LENGTH = 32, 3
KEEPS = [(3, 9, 10, 25), tuple(range(1, 32, 2)), tuple(range(V))]
TEXTS = [(tiny.prompt(i, 12 + i, V), 5) for i in range(3)]


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return tiny.model("small"), tiny.small_model(V).model


def judged(pair: tuple[Any, Any], temperature: float) -> list[Size]:
    rows = pack([Example.of(*text) for text in TEXTS], 28)
    return sweep(*pair, rows, KEEPS, LENGTH, temperature, micro=1)


@torch.inference_mode()
def alone(model: Any, text: list[int]) -> torch.Tensor:
    return model(torch.tensor([text]), use_cache=False).logits[0].double()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("which", range(3))
def test_every_figure_is_that_of_brute_force(pair: Any, which: int, temperature: float) -> None:
    """One text at a time, one position at a time, with a model that is really trimmed."""
    target, drafter = pair
    keep, small = KEEPS[which], trimmed(drafter, KEEPS[which])
    alphas, masses, steps, inside = [], [], [], []
    for text, start in TEXTS:
        p = (alone(target, text) / temperature).softmax(-1)
        q = (alone(small, text) / temperature).softmax(-1)
        chances = []
        for i in range(start, len(text)):
            alpha = sum(min(float(p[i - 1, t]), float(q[i - 1, t])) for t in range(V))
            mass = sum(float(p[i - 1, t]) for t in keep)
            assert alpha <= mass + 1e-9, "what is kept bounds what can be accepted"
            alphas.append(alpha)
            masses.append(mass)
            inside.append(text[i] in keep)
            chances.append(min(1.0, float(q[i - 1, text[i]] / p[i - 1, text[i]])))
        steps.append(counted(chances, LENGTH))
    found = judged(pair, temperature)[which]
    assert found.k == len(keep)
    assert found.alpha == pytest.approx(np.mean(alphas), rel=1e-4)
    assert found.mass == pytest.approx(np.mean(masses), rel=1e-4)
    assert found.coverage == np.mean(inside)
    assert found.tau == pytest.approx(len(alphas) / sum(steps), rel=1e-4)
    assert found.cost == weights_read(small) / weights_read(target)
    assert found.mbsu == pytest.approx(found.tau / (found.cost * LENGTH + 1))


def test_greedy_text_accepts_the_likeliest_kept_token(pair: Any) -> None:
    target, drafter = pair
    for keep, found in zip(KEEPS, judged(pair, 0.0), strict=True):
        small, right, stood = trimmed(drafter, keep), [], []
        for text, start in TEXTS:
            p, q = alone(target, text).argmax(-1), alone(small, text).argmax(-1)
            right += (p == q)[start - 1 : -1].tolist()
            stood.append([float(q[i - 1] == text[i]) for i in range(start, len(text))])
        assert found.alpha == pytest.approx(np.mean(right))
        steps = sum(counted(chances, LENGTH) for chances in stood)
        assert found.tau == pytest.approx(len(right) / steps)


def test_answers_are_counted_and_prompts_are_not() -> None:
    examples = [Example.of([1, 1, 2, 3, 2], 2), Example.of([7, 3], 1)]
    assert count_tokens(examples, 9).tolist() == [0, 0, 2, 2, 0, 0, 0, 0, 0]
    with pytest.raises(ConfigError, match="data: "):
        count_tokens([], 9)


def test_what_is_kept_whatever_was_counted() -> None:
    tokenizer = letters.tokenizer()
    counts = np.zeros(tiny.VOCAB, np.int64)
    digits = [letters.CHARACTERS.index(d) for d in "0123456789"]
    assert always_kept(tokenizer, [letters.EOS], counts) == [letters.EOS]
    assert always_kept(tokenizer, [letters.EOS], counts, ["digits"]) == [*digits, letters.EOS]
    marks = always_kept(tokenizer, [], counts, ["punctuation"])
    assert {letters.CHARACTERS[i] for i in marks} == set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    counts[letters.EOS] = 1
    assert always_kept(tokenizer, [], counts) == [letters.EOS], "special, and the target wrote it"
    with pytest.raises(ConfigError, match="always: 'letters'"):
        always_kept(tokenizer, [], counts, ["letters"])


def test_text_that_the_target_wrote_covers_more_than_other_text() -> None:
    """Two domains: the target writes low ids, raw text is of high ones with some overlap."""
    rng = np.random.default_rng(0)

    def of(low: int) -> list[Example]:
        return [Example.of(low + rng.geometric(0.1, 50).clip(1, 40), 0) for _ in range(20)]

    own, raw, later = of(0), of(12), of(0)
    after = count_tokens(later, 64)

    def coverage(examples: list[Example]) -> float:
        keep = kept_tokens(count_tokens(examples, 64), 12)
        return float(after[keep].sum() / after.sum())

    assert coverage(own) > coverage(raw) + 0.2
    assert coverage(later) >= coverage(own)


def test_where_trimming_pays() -> None:
    """The example of a 314 M drafter with a head of 131 M, for a target of 3.2 B: 10 % may go."""
    assert break_even(0.098, 0.067, 5) == pytest.approx(0.896, abs=1e-3)
    whole = Size(100, 1.0, 1.0, 0.8, 3.0, 0.098, 3.0 / (0.098 * 5 + 1))
    for loss, pays in ((0.09, True), (0.11, False)):
        tau = 3.0 * (1 - loss)
        trim = Size(25, 0.9, 0.9, 0.7, tau, 0.067, tau / (0.067 * 5 + 1))
        assert (best([trim, whole]) is trim) == pays
    assert best([whole, Size(**{**vars(whole), "k": 50})]).k == 50, "of equals the smaller"
