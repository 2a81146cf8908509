"""Stops: asked token by token; the text is the whole text cut at the first stop string."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.stopping_criteria import (
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)

from foretoken.commit.stop import Stop, StopRule
from foretoken.commit.text import find_stop
from foretoken.errors import ConfigError
from foretoken.types import Limits

PROMPT = [65, 66]


def byte_decode(tokens: list[int]) -> str:
    return bytes(t for t in tokens if t < 256).decode("utf-8", errors="replace")


def run(rule: StopRule, output: list[int]) -> tuple[Stop | None, list[int]]:
    tokens = list(PROMPT)
    for token in output:
        tokens.append(token)
        stop = rule.check(tokens, len(PROMPT))
        if stop is not None:
            return stop, tokens[len(PROMPT) :]
    return None, tokens[len(PROMPT) :]


def test_end_of_text_is_the_targets_unless_the_request_says_otherwise() -> None:
    output = [7, 300, 8, 301, 9]
    assert run(StopRule(Limits(), (300, 301)), output) == (Stop("stop"), [7, 300])
    assert run(StopRule(Limits(eos_token_ids=(301,)), (300,)), output)[1] == [7, 300, 8, 301]
    assert run(StopRule(Limits(eos_token_ids=()), (300,)), output)[0] is None
    ignoring = StopRule(Limits(ignore_eos=True, eos_token_ids=(301,)), (300,))
    assert run(ignoring, output)[0] is None
    assert ignoring.eos == ()


def test_length_counts_the_output_and_gives_way_to_a_stop() -> None:
    rule = StopRule(Limits(max_new_tokens=3), (300,))
    assert run(rule, [1, 2, 3, 4]) == (Stop("length"), [1, 2, 3])
    assert run(StopRule(Limits(max_new_tokens=3), (300,)), [1, 2, 300]) == (
        Stop("stop"),
        [1, 2, 300],
    )


texts = st.one_of(
    st.text(alphabet="ab\né😀", max_size=80),
    st.text(alphabet="ab", max_size=200),
)
stops = st.lists(st.text(alphabet="ab\né😀", min_size=1, max_size=5), min_size=1, max_size=4).map(
    tuple
)


@settings(max_examples=200, deadline=None)
@given(texts, stops)
def test_text_equals_the_whole_text_cut_at_the_first_stop(text, stop) -> None:
    output = list(text.encode())
    rule = StopRule(Limits(stop=stop, max_new_tokens=10_000), (), byte_decode)
    verdict, written = run(rule, output)
    end = find_stop(text, stop)
    assert (verdict is None) == (end is None)
    if verdict is not None:
        assert verdict == Stop("stop", end)
        assert byte_decode(written)[: verdict.text_end] == text[:end]
        # not one token too late: without the last token no stop string is there
        assert find_stop(byte_decode(written[:-1]), stop) is None


def test_a_stop_string_across_tokens_and_before_half_a_character() -> None:
    pieces = {0: b"so", 1: b"me st", 2: b"op\xc3", 3: b"\xa9"}
    decode = lambda ts: b"".join(pieces[t] for t in ts).decode(errors="replace")
    rule = StopRule(Limits(stop=("stop",)), (), decode)
    assert run(rule, [0, 1, 2, 3]) == (Stop("stop", 5), [0, 1, 2])


def test_a_prompt_that_ends_like_a_stop_string_does_not_count() -> None:
    assert run(StopRule(Limits(stop=("BC",)), (), byte_decode), [ord("C"), ord("D")])[0] is None


def test_restore_forgets_the_tokens_since_save() -> None:
    rule = StopRule(Limits(stop=("abc",)), (), byte_decode)
    run(rule, list(b"xab"))
    state = rule.save()
    for _ in range(2):
        assert rule.check([*PROMPT, *b"xabc"], len(PROMPT)) == Stop("stop", 1)
        rule.restore(state)
    assert rule.check([*PROMPT, *b"xabx"], len(PROMPT)) is None
    assert rule.check([*PROMPT, *b"xabxc"], len(PROMPT)) is None


class Odd(StoppingCriteria):
    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], object]] = []

    def __call__(self, input_ids, scores, **kwargs):
        assert input_ids.dtype == torch.long
        self.calls.append((tuple(input_ids.shape), scores))
        return input_ids[:, -1] % 2 == 1


def test_criteria_of_transformers_see_prompt_and_output() -> None:
    odd = Odd()
    assert run(StopRule(Limits(criteria=(odd,)), ()), [2, 4, 5, 6]) == (Stop("criteria"), [2, 4, 5])
    assert odd.calls == [((1, 3), None), ((1, 4), None), ((1, 5), None)]
    listed = StoppingCriteriaList([MaxLengthCriteria(len(PROMPT) + 2), Odd()])
    assert run(StopRule(Limits(criteria=(listed,)), ()), [2, 4, 5])[1] == [2, 4]


def test_criteria_may_be_plain_callables_and_each_is_asked() -> None:
    seen: list[list[int]] = []
    spy = lambda tokens: seen.append(list(tokens))
    rule = StopRule(Limits(criteria=(lambda tokens: tokens[-1] == 9, spy)), ())
    assert run(rule, [8, 9, 10]) == (Stop("criteria"), [8, 9])
    assert seen == [[*PROMPT, 8], [*PROMPT, 8, 9]]


@pytest.mark.parametrize(
    ("limits", "decode", "field"),
    [
        (Limits(stop=("a", "")), byte_decode, "stop"),
        (Limits(stop=("a",)), None, "stop"),
        (Limits(criteria=(3,)), None, "criteria"),
    ],
)
def test_impossible_limits_are_named(limits, decode, field) -> None:
    with pytest.raises(ConfigError) as caught:
        StopRule(limits, (), decode)
    assert caught.value.field == field
    if decode is None and field == "stop":
        assert "tokenizer" in str(caught.value)
