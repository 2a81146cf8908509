"""The records: closed options, derived quantities."""

import pytest
import torch
from pydantic import ValidationError

from foretoken.types import Completion, Limits, Options, Sampling, Scores, Stats
from tests import tiny


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (Sampling, {"temperature": -0.1}), (Sampling, {"top_p": 0.0}), (Sampling, {"top_p": 1.5}),
        (Sampling, {"top_k": -1}), (Sampling, {"repetition_penalty": 0.0}),
        (Sampling, {"temprature": 1.0}), (Limits, {"max_new_tokens": 0}), (Limits, {"stop_at": ()}),
    ],
)  # fmt: skip
def test_bad_values_and_unknown_names_are_errors(
    cls: type[Options], values: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        cls(**values)


def test_options_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sampling().temperature = 1.0  # type: ignore[misc]


def test_greedy_is_temperature_zero() -> None:
    assert Sampling().greedy
    assert not Sampling(temperature=1e-3).greedy


def test_scores_top_is_softmax_best_first() -> None:
    logits = torch.randn(3, 11)
    ids, probs = Scores(logits).top(4)
    values, expected = logits.softmax(-1).topk(4)
    assert ids == expected.tolist()
    torch.testing.assert_close(torch.tensor(probs), values)
    assert [len(row) for row in Scores(logits).top(99)[0]] == [11, 11, 11]


def test_scores_top_is_computed_once() -> None:
    scores = Scores(torch.randn(2, 5))
    assert scores.top(2) is scores.top(2)
    assert scores.top(3) is not scores.top(2)


def test_tokens_per_step() -> None:
    assert Stats().tokens_per_step == 0.0
    assert Stats(steps=4, tokens=10).tokens_per_step == 2.5


@pytest.mark.parametrize(
    ("tokens", "share"), [([1, 2, 3], 1.0), ([1] * 8, 0.2), ([1, 2, 3, 4, 5], 1.0)]
)
def test_distinct_4grams(tokens: list[int], share: float) -> None:
    done = Completion("", [1], tokens, "", "length", Stats(), [], [], [], "exact")
    assert done.distinct_4grams == pytest.approx(share)


def test_session_counts() -> None:
    from foretoken.engine.engine import Engine

    engine = Engine(tiny.target("small"), method="plain")
    session = engine.add(tiny.request([1, 2, 3], 5))
    assert (session.n_prompt, session.output, session.room) == (3, [], 5)
    engine.step()
    assert (len(session.output), session.room) == (1, 4)
    engine.cancel(session)
