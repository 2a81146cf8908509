"""The suites: what is asked, in which order, and with which references."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from foretoken.bench.asking import Asking
from foretoken.bench.prompts import Prompt
from foretoken.bench.suites import (
    ANSWERED,
    FOLDER,
    REPEATED,
    SAMPLES,
    SUITES,
    TIMES,
    build_suite,
    choose,
)
from foretoken.errors import ConfigError
from foretoken.prompt.samples import demo_model
from foretoken.prompt.tokens import load_tokenizer

NAMES = [suite.name for suite in SUITES]
SIZES = {
    "demo": 40, "humaneval": 100, "gsm8k": 200, "gsm8k-llm": 200, "edit": 75, "repeat": 40, "samples": 48,
    "random": 20, "hot": 40, **{n: 80 for n in NAMES if n.startswith("spec-bench:")},
}  # fmt: skip


@cache
def tokenizer() -> Any:
    return load_tokenizer(demo_model())


def asking(forced: bool = False, limit: int | None = None) -> Asking:
    special = set(tokenizer().all_special_ids)
    ordinary = [i for i in range(len(tokenizer())) if i not in special]
    return Asking(tokenizer(), ordinary, 32, forced, limit)


def made(name: str, limit: int | None = None, forced: bool = False) -> list[Prompt]:
    suite = next(suite for suite in SUITES if suite.name == name)
    return list(islice(suite.make(asking(forced)), limit))


def text(ids: Any) -> str:
    return str(tokenizer().decode(ids, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("name", NAMES)
def test_every_suite_is_whole(name: str) -> None:
    suite = next(suite for suite in SUITES if suite.name == name)
    assert suite.own or suite.forced
    prompts = made(name, forced=not suite.own)
    assert len(prompts) == SIZES[name]
    assert len({prompt.name for prompt in prompts}) == len(prompts)
    assert all(prompt.tokens for prompt in prompts)
    if suite.forced:
        assert all(len(p.reference or ()) > 3 for p in made(name, 60, forced=True))


def test_the_licences_lie_beside_the_texts() -> None:
    readme = (FOLDER / "README.md").read_text()
    files = [path.name for path in FOLDER.iterdir() if path.name != "README.md"]
    assert all(name in readme for name in files)
    assert len([name for name in files if name.startswith("LICENSE.")]) == 4
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3e6


def test_rows_that_belong_together_are_spread() -> None:
    lines = (FOLDER / "spec_bench.jsonl").read_text().splitlines()
    category = {f"spec-bench/{r['question_id']}": r["category"] for r in map(json.loads, lines)}
    first = [category[prompt.name] for prompt in made("spec-bench:conversation", 8)]
    assert len(set(first)) == 8
    groups = [{p.name for p in made(name)} for name in NAMES if name.startswith("spec-bench:")]
    assert set().union(*groups) == set(category)
    assert sum(map(len, groups)) == 480
    documents = [json.loads(x)["doc_id"] for x in (FOLDER / "edits.jsonl").read_text().splitlines()]
    befores = {text(prompt.prediction) for prompt in made("edit", len(set(documents)))}
    assert len(befores) == len(set(documents))


def test_an_edit_carries_the_old_text_as_prediction() -> None:
    row = json.loads((FOLDER / "edits.jsonl").read_text().splitlines()[0])
    prompt = made("edit", 1)[0]
    assert text(prompt.prediction) == row["before"].strip()
    assert text(prompt.reference) == row["after"].strip()
    assert row["before"].strip() in text(prompt.tokens)
    assert made("gsm8k", 1)[0].prediction is None


def test_requests_are_repeated_among_others() -> None:
    prompts = made("repeat")
    tokens = [tuple(prompt.tokens) for prompt in prompts]
    assert tokens == tokens[:REPEATED] * TIMES
    assert len(set(tokens)) == REPEATED
    suite = next(suite for suite in SUITES if suite.name == "repeat")
    few = [tuple(p.tokens) for p in build_suite(suite, asking(limit=2 * TIMES - 1), 900).prompts]
    assert few == (tokens[:2] * TIMES)[:-1]  # a limit leaves fewer requests, not fewer rounds


def test_samples_differ_by_seed_and_forced_by_text() -> None:
    own = made("samples", 2 * SAMPLES)
    assert len({tuple(prompt.tokens) for prompt in own[:SAMPLES]}) == 1
    assert len({prompt.seed for prompt in own}) == 2 * SAMPLES
    forced = made("samples", forced=True)
    assert len(forced) == 5 * ANSWERED
    assert len({tuple(prompt.tokens) for prompt in forced}) == ANSWERED
    assert len({tuple(prompt.reference or ()) for prompt in forced[:10]}) == 10


def test_random_tokens_are_text_and_the_same_every_time() -> None:
    first, again = made("random", forced=True), made("random", forced=True)
    assert first == again
    assert len({tuple(prompt.tokens) for prompt in first}) == len(first)
    special = set(tokenizer().all_special_ids)
    assert not special & {t for p in first for t in [*p.tokens, *(p.reference or ())]}
    assert all(len(prompt.reference or ()) == 32 for prompt in first)


def test_the_second_question_comes_after_the_answer() -> None:
    row = json.loads((FOLDER / "spec_bench.jsonl").read_text().splitlines()[0])
    prompt = made("spec-bench:conversation", 1)[0]
    assert prompt.then is not None
    answer = tokenizer().encode(" Aloha and welcome.", add_special_tokens=False)
    second = prompt.then(answer)
    assert second.then is None
    whole = text(second.tokens)
    at = [whole.index(part) for part in (row["turns"][0], "Aloha and welcome.", row["turns"][1])]
    assert at == sorted(at)
    assert made("spec-bench:translation", 1)[0].then is None


def test_long_prompts_lose_their_beginning_or_go() -> None:
    def built(name: str, room: int) -> Any:
        suite = next(suite for suite in SUITES if suite.name == name)
        return build_suite(suite, asking(limit=6), room)

    whole = built("spec-bench:conversation", 10_000)
    assert (whole.shortened, whole.dropped) == (0, 0)
    short = built("spec-bench:conversation", 12)
    assert (short.shortened, short.dropped) == (6, 0)
    for a, b in zip(whole.prompts, short.prompts, strict=True):
        assert b.tokens == a.tokens[-12:]
        assert b.then([5, 6]).tokens == a.then([5, 6]).tokens[-12:]
    sizes = [len(prompt.tokens) for prompt in made("edit", 6)]
    room = sorted(sizes)[2]
    kept = built("edit", room)
    assert [len(prompt.tokens) for prompt in kept.prompts] == [n for n in sizes if n <= room]
    assert (kept.shortened, kept.dropped) == (0, 6 - len(kept.prompts))
    with pytest.raises(ConfigError, match="max_new_tokens"):
        built("gsm8k", 0)


def test_names() -> None:
    groups = [name for name in NAMES if name.startswith("spec-bench:")]
    assert [s.name for s in choose("hot, spec-bench", False)] == ["hot", *groups]
    assert {s.name for s in choose("all", True)} == {s.name for s in SUITES if s.forced}
    assert {s.name for s in choose("spec-bench", True)} < set(groups)
    assert {s.name for s in choose("all", False)} == {s.name for s in SUITES if s.own}
    for wrong, forced, match in [
        ("nope", False, "nope"), ("hot", True, "--references"), ("gsm8k-llm", False, "without"),
        ("edit,edit", False, "once"), ("all,edit", False, "once"), ("", False, "at least one"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            choose(wrong, forced)


def test_prompt_files_may_carry_predictions(tmp_path: Path) -> None:
    from foretoken.bench.prompts import read_prompts

    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"question": "Say it", "answer": "It is", "prediction": "It was"}))
    prompt = read_prompts([path], tokenizer())[0]
    assert text(prompt.prediction) == "It was"
    assert text(prompt.reference) == "It is"
