"""Scenarios: what their phases say is what their texts do."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from foretoken.errors import ConfigError
from foretoken.prompt.samples import demo_model
from foretoken.prompt.tokens import load_tokenizer
from foretoken.tune.scenarios import FLAT, SCENARIOS, STEEP, Material, Scenario


@cache
def material(tokens: int = 200, seed: int = 0) -> Material:
    tokenizer = load_tokenizer(demo_model())
    return Material(tokenizer, len(tokenizer), (tokenizer.eos_token_id,), tokens, seed)


@cache
def made(name: str) -> Scenario:
    return SCENARIOS[name](material())


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_a_stream_with_shifts(name: str) -> None:
    scenario = made(name)
    assert scenario.name == name
    assert scenario.summary
    assert len(scenario.phases) > 1
    assert all(phase.tokens > 100 for phase in scenario.phases)
    assert scenario.borders[-1] == sum(len(p.output) for p in scenario.passages)
    for passage in scenario.passages:
        assert passage.prompt
        assert 0 < len(passage.output) <= material().longest
        assert all(0 <= t < material().vocab for t in (*passage.prompt, *passage.output))
        assert not set(material().eos) & set(passage.output)
    at = 0
    for phase in scenario.phases:
        for _ in phase.passages:
            assert scenario.phase_of(at) is phase
            at += 1
    with pytest.raises(IndexError):
        scenario.phase_of(at)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_seed_settles_it(name: str) -> None:
    tokenizer = material().tokenizer
    again = Material(tokenizer, len(tokenizer), material().eos, 200, 0)
    other = Material(tokenizer, len(tokenizer), material().eos, 200, 1)
    make: Callable[[Material], Scenario] = SCENARIOS[name]
    assert make(again) == made(name)
    assert make(other) != made(name)


def test_no_passage_stands_twice() -> None:
    for name in SCENARIOS:
        prompts = [tuple(p.prompt) for p in made(name).passages]
        assert len(set(prompts)) == len(prompts), name


def test_noise_is_in_the_hot_phase_only() -> None:
    calm, hot, after = made("temperature").phases
    text = made("outage").phases  # the same passages in order, as they are
    assert [p.output for p in calm.passages] == [p.output for p in text[0].passages]
    assert [p.output for p in after.passages] == [p.output for p in text[2].passages]
    pairs = [
        (a, b)
        for noisy, clean in zip(hot.passages, text[1].passages, strict=True)
        for a, b in zip(noisy.output, clean.output, strict=True)
    ]
    assert 0.2 < sum(a != b for a, b in pairs) / len(pairs) < 0.4


def test_permuted_text_repeats_where_the_text_does() -> None:
    own, other = made("permutation").phases
    clean = made("outage").phases[1].passages
    there: dict[int, int] = {}
    for moved, passage in zip(other.passages, clean, strict=True):
        for a, b in zip((*passage.prompt, *passage.output), (*moved.prompt, *moved.output),
                        strict=True):  # fmt: skip
            assert there.setdefault(a, b) == b
    assert len(set(there.values())) == len(there)
    assert sum(a == b for a, b in there.items()) < 3
    assert own.passages == made("outage").phases[0].passages


def test_what_else_is_scripted() -> None:
    assert [phase.slope for phase in made("cost").phases] == [1.0, STEEP, FLAT]
    assert [phase.outage for phase in made("outage").phases] == [False, True, False]
    first, _, last = made("back").phases
    assert first.name == last.name
    assert not {tuple(p.prompt) for p in first.passages} & {tuple(p.prompt) for p in last.passages}
    sentences, document = made("template").phases
    decode = material().tokenizer.decode
    assert all(decode(p.output).startswith("Let us solve") for p in sentences.passages)
    assert all(decode(p.output).startswith("{") for p in document.passages)


def test_a_phase_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tokens: 100000 is not accepted; at most \d+"):
        SCENARIOS["topic"](material(100_000))
