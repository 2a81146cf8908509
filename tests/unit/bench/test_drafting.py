import random
from pathlib import Path

import numpy as np
import pytest
import torch

from foretoken import registry
from foretoken.bench.drafting import (
    ANSWER,
    PROMPT,
    WRONG,
    DraftTime,
    Told,
    model_free,
    real_text,
    stream,
    time_drafter,
    time_drafters,
)  # fmt: skip
from foretoken.bench.sizes import held, reached
from foretoken.bench.spec import Spec
from foretoken.draft.base import Context
from foretoken.draft.oracle import Oracle
from foretoken.errors import ConfigError
from foretoken.prompt.samples import ASSETS

VOCAB = 50
CONTEXT = Context(VOCAB, (), "")


def texts(n=3, length=80):
    dice = random.Random(1)
    return [dice.choices(range(VOCAB), k=length) for _ in range(n)]


def oracle(answer):
    return Oracle(Oracle.Options(continuation=tuple(answer)), CONTEXT)


class Letters:
    """A tokenizer of characters."""

    def encode(self, text, add_special_tokens=True):
        return [ord(c) % VOCAB for c in text]


def test_a_drafter_that_knows_the_text_needs_one_step_per_draft():
    (text,) = texts(1)
    spent = stream(oracle(text[20:]), [text], VOCAB, nodes=9)
    assert (spent.written, spent.steps) == (60, 6)
    assert len(spent.drafts) + len(spent.empty) == 6
    assert spent.learned[0][1] == 80


def test_what_is_observed_is_the_text():
    """Rows on the path know the token that came, others nothing; the session ends as the text."""
    (text,) = texts(1)
    wrong = [*text[20:25], (text[25] + 1) % VOCAB, *text[26:]]
    drafter, seen = oracle(wrong), []
    drafter.observe = lambda session, step: seen.append((list(session.tokens), step))
    stream(drafter, [text], VOCAB, nodes=8)
    assert seen[-1][0] == text
    tokens, step = seen[0]
    assert (step.context, step.verdict.path, step.committed.rows) == (
        20,
        (0, 1, 2, 3, 4),
        [*range(6)],
    )
    assert step.committed.tokens == text[20:26] == tokens[20:]
    assert isinstance(step.scores, Told)
    assert step.scores.top(4) == (
        [*([t] for t in text[20:26]), [], [], []], [*[[1.0]] * 6, [], [], []]
    )  # fmt: skip
    assert list(step.scores.known) == [True] * 6 + [False] * 3
    assert step.scores.logits.shape == (9, VOCAB)


def test_a_prediction_is_nearly_right():
    (text,) = texts(1)
    drafter, seen = oracle(text[20:]), []
    drafter.begin = lambda session: seen.append(session.request)
    stream(drafter, [text], VOCAB)
    wrong = [
        i for i, (a, b) in enumerate(zip(seen[0].prediction, text[20:], strict=True)) if a != b
    ]
    assert wrong == list(range(WRONG - 1, 60, WRONG))


@pytest.mark.parametrize("name", model_free())
def test_every_model_free_drafter_is_timed(name):
    result = time_drafter(Spec(name, name), texts(), CONTEXT, nodes=8)
    if not result.refused:
        assert result.tokens == 240
        assert result.tokens_per_step >= 1
        assert result.us_per_token > 0
        assert result.drafts == 0 or result.us_per_draft > 0
    assert result == DraftTime.model_validate_json(result.model_dump_json())


def test_what_is_model_free():
    assert {"suffix", "suffix-store", "prompt-lookup", "aded"} <= set(model_free())
    assert not {"plain", "oracle", "lm", "random"} & set(model_free())


def test_a_drafter_that_cannot_be_made_says_why():
    result = time_drafter(Spec("a", "suffix", options={"odd": 1}), texts(), CONTEXT)
    assert "odd" in result.refused
    assert result.us_per_draft is None


def test_ctrl_c_keeps_what_is_finished(monkeypatch):
    specs = [Spec("suffix", "suffix"), Spec("plain", "plain")]
    original = registry.find

    def find(role, name):
        if name == "plain":
            raise KeyboardInterrupt
        return original(role, name)

    monkeypatch.setattr(registry, "find", find)
    results, stopped = time_drafters(specs, texts(), CONTEXT, 8)
    assert stopped
    assert [r.method for r in results] == ["suffix"]


def test_memory_is_the_stores_and_the_sessions():
    store = time_drafter(Spec("a", "suffix-store"), texts(20), CONTEXT)
    more = time_drafter(Spec("a", "suffix-store"), texts(60), CONTEXT)
    assert more.store_bytes > 2 * store.store_bytes > 0
    own = time_drafter(Spec("a", "suffix"), texts(20), CONTEXT)
    assert own.store_bytes == 0
    assert own.session_bytes_per_token > 100


def test_sizes_count_everything_once():
    inner = [1.5] * 1000
    assert held([inner, inner]) - held([inner]) <= 8
    assert held({"a": np.zeros(1000)}) > 8000
    assert held([torch.zeros(1000)]) > 4000
    assert held([inner], reached(inner)) < 100
    assert held([CONTEXT, Oracle, torch.nn.Linear(100, 100)]) < 200


def test_text_of_files_and_of_the_standard_library(tmp_path):
    files = sorted((ASSETS / "prompts").glob("*.jsonl"))
    pieces = list(real_text(Letters(), files, 3000))
    assert sum(map(len, pieces)) == 3000
    assert len(list(real_text(Letters(), files, 10**9, limit=2))) >= 2
    (tmp_path / "module.py").write_text("x = 1\n" * 1000, encoding="utf-8")
    modules = list(real_text(Letters(), [], 5000, stdlib=tmp_path))
    assert max(map(len, modules)) <= PROMPT + ANSWER
    assert sum(map(len, modules)) == 5000
    with pytest.raises(ConfigError, match="prompts"):
        list(real_text(Letters(), [Path("none.txt")], 10))
