"""Suites by name: which texts, in which order, how they are asked and at which temperature.

The texts lie in `assets/suites` with their licences; `random` is made here. A suite has an own-text
mode (the target writes), a forced mode (a reference text is followed), or both; the figures of the
two are never mixed. Rows that belong together (one document, one category) are spread: the first
of each, the second of each, and so on, so that a limit keeps the variety.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from foretoken.bench.asking import Asking
from foretoken.bench.prompts import QUESTION, Prompt, encode, followed, read_rows
from foretoken.errors import ConfigError
from foretoken.prompt.samples import ASSETS

FOLDER = ASSETS / "suites"
SAMPLES = 16  # of one problem, as in STAND's measurements (our notes on stand)
TIMES = 4  # that a request of `repeat` comes
REPEATED = 10  # requests of `repeat`
RANDOM_PROMPT, RANDOM_TEXTS = 64, 20  # tokens, prompts
HOT = 40  # prompts of `hot`
SAMPLED, ANSWERED = 3, 10  # problems of `samples`: to write, to follow
INSTRUCTION = (
    "Correct grammar, spelling and style of the following text, and change nothing else. "
    "Write out the whole text.\n\n"
)
# Spec-Bench's groups: our name -> its categories; those with a reference text of a sentence or more
_GROUPS = {
    "conversation": ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem",
                     "humanities"),
    "translation": ("translation",),
    "summarisation": ("summarization",),
    "questions": ("qa",),
    "maths": ("math_reasoning",),
    "retrieval": ("rag",),
}  # fmt: skip
_TEXTS = ("translation", "summarisation", "maths")

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Suite:
    """One task. `make` yields its prompts in order; it encodes no more than is taken."""

    name: str
    summary: str
    make: Callable[[Asking], Iterator[Prompt]]
    own: bool = True  # the target writes
    forced: bool = False  # there are reference texts
    sampling: Mapping[str, Any] = field(default_factory=dict)  # overrides the run's
    whole: bool = False  # a prompt that is too long is dropped; else its beginning is cut off


class Built(NamedTuple):
    """The prompts of a suite that fit the model."""

    prompts: list[Prompt]
    shortened: int  # whose beginning was cut off
    dropped: int  # too long


def build_suite(suite: Suite, asking: Asking, room: int) -> Built:
    """room: tokens that a prompt may have (context minus new tokens)."""
    if room < 1:
        raise ConfigError("max_new_tokens", asking.new_tokens, "fewer than the model's context")
    made = list(islice(suite.make(asking), asking.limit))
    long = sum(len(prompt.tokens) > room for prompt in made)
    if suite.whole:
        return Built([prompt for prompt in made if len(prompt.tokens) <= room], 0, long)
    return Built([_shortened(prompt, room) for prompt in made], long, 0)


def _shortened(prompt: Prompt, room: int) -> Prompt:
    """The last `room` tokens of the prompt, and of what is asked after it."""
    then = prompt.then
    following = None if then is None else lambda ids: _shortened(then(ids), room)
    return replace(prompt, tokens=prompt.tokens[-room:], then=following)


def choose(text: str, forced: bool) -> list[Suite]:
    """The suites of a comma-separated list; "all" and "spec-bench" stand for those that have the
    mode. Raises ConfigError for an unknown name, one named twice, or one without the mode."""
    out: list[Suite] = []
    for name in (part.strip() for part in text.split(",")):
        if not name:
            continue
        group = [s for s in SUITES if name == "all" or s.name.startswith(f"{name}:")]
        found = [s for s in group if _has(s, forced)] or [s for s in SUITES if s.name == name]
        if not found:
            known = ", ".join(suite.name for suite in SUITES)
            raise ConfigError("suite", name, f"one of all, spec-bench, {known}")
        if not all(_has(suite, forced) for suite in found):
            having = ", ".join(suite.name for suite in SUITES if _has(suite, forced))
            mode = "with --references" if forced else "without --references"
            raise ConfigError("suite", name, f"{mode} one of {having}")
        out += found
    names = [suite.name for suite in out]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError("suite", twice, "each suite once")
    if not out:
        raise ConfigError("suite", text, "at least one name")
    return out


def _has(suite: Suite, forced: bool) -> bool:
    return suite.forced if forced else suite.own


def spec_bench_categories() -> dict[str, str]:
    """Of the bundled questions, by id."""
    return {str(row["question_id"]): row["category"] for row in _read("spec_bench.jsonl")}


def _read(file: str) -> Rows:
    return [json.loads(line) for line in (FOLDER / file).read_text("utf-8").splitlines()]


def _spread(rows: Iterable[dict[str, Any]], key: str) -> Rows:
    """The first row of each value of `key`, then the second of each, and so on."""
    lists: dict[str, Rows] = {}
    for row in rows:
        lists.setdefault(row[key], []).append(row)
    longest = max(map(len, lists.values()))
    return [rows[i] for i in range(longest) for rows in lists.values() if i < len(rows)]


def _humaneval(asking: Asking) -> Iterator[Prompt]:
    for row in _read("humaneval.jsonl"):
        yield asking.plain(row["task_id"], row["prompt"], row["canonical_solution"])


def _gsm8k(asking: Asking) -> Iterator[Prompt]:
    for i, row in enumerate(_read("gsm8k.jsonl")):
        yield asking.ask(f"gsm8k/{i}", row["question"], row["answer"])


def _gsm8k_llm(asking: Asking) -> Iterator[Prompt]:
    for i, row in enumerate(_read("gsm8k.jsonl")):
        yield asking.ask(f"gsm8k/{i}", row["question"], row["written"][0])


def _spec_bench(group: str, asking: Asking) -> Iterator[Prompt]:
    rows = [row for row in _read("spec_bench.jsonl") if row["category"] in _GROUPS[group]]
    for row in _spread(rows, "category"):
        first, *more = row["turns"]
        reference = row["reference"][0] if group in _TEXTS else None
        prompt = asking.ask(f"{QUESTION}{row['question_id']}", first, reference)
        yield followed(prompt, asking.tokenizer, first, more[0]) if more else prompt


def _edit(asking: Asking) -> Iterator[Prompt]:
    for i, row in enumerate(_spread(_read("edits.jsonl"), "doc_id")):
        question = INSTRUCTION + row["before"]
        yield asking.ask(f"edit/{i}", question, row["after"], row["before"])


def _mixed(asking: Asking) -> Iterator[Prompt]:
    """Code and maths in turn."""
    for code, maths in zip(_humaneval(asking), _gsm8k(asking), strict=False):
        yield from (code, maths)


def _repeat(asking: Asking) -> Iterator[Prompt]:
    """TIMES rounds over the same requests; a limit leaves fewer of them, not fewer rounds."""
    wanted = REPEATED if asking.limit is None else min(-(-asking.limit // TIMES), REPEATED)
    requests = list(islice(_mixed(asking), wanted))
    for turn in range(TIMES):
        for prompt in requests:
            yield replace(prompt, name=f"{prompt.name} #{turn + 1}")


def _samples(asking: Asking) -> Iterator[Prompt]:
    """Own text: SAMPLES seeds for each problem. Forced: the four texts that models wrote to it,
    then the person's."""
    problems = ANSWERED if asking.forced else SAMPLED
    for i, row in enumerate(_read("gsm8k.jsonl")[:problems]):
        if asking.forced:
            for n, text in enumerate([*row["written"], row["answer"]]):
                yield asking.ask(f"gsm8k/{i} #{n + 1}", row["question"], text)
        else:
            prompt = asking.ask(f"gsm8k/{i}", row["question"])
            for n in range(SAMPLES):
                yield replace(prompt, name=f"{prompt.name} #{n + 1}", seed=1 + i * SAMPLES + n)


def _random(asking: Asking) -> Iterator[Prompt]:
    """Uniform tokens as the prompt and as the text that is followed: nothing can be foreseen."""
    for i in range(RANDOM_TEXTS):
        size = RANDOM_PROMPT + asking.new_tokens
        tokens = np.random.default_rng(i).choice(np.asarray(asking.ordinary), size).tolist()
        yield Prompt(f"random/{i}", tokens[:RANDOM_PROMPT], "", tokens[RANDOM_PROMPT:])


def _demo(asking: Asking) -> Iterator[Prompt]:
    """What `foretoken demo` decodes."""
    rows = read_rows(sorted((ASSETS / "prompts").glob("*.jsonl")))
    for i, (_, row) in enumerate(rows):
        yield replace(encode([(f"demo/{i}", row)], asking.tokenizer)[0], then=None)


def _hot(asking: Asking) -> Iterator[Prompt]:
    for i, prompt in enumerate(islice(_mixed(asking), HOT)):
        yield replace(prompt, seed=1 + i)


SUITES: Sequence[Suite] = (
    Suite("demo", "the prompts of `foretoken demo`: code and maths in turn", _demo),
    Suite("humaneval", "Python functions to complete (HumanEval)", _humaneval, forced=True),
    Suite("gsm8k", "grade-school maths (GSM8K)", _gsm8k, forced=True),
    Suite("gsm8k-llm", "the same, as language models answered", _gsm8k_llm, own=False, forced=True),
    *(
        Suite(f"spec-bench:{group}", f"Spec-Bench: {group}", partial(_spec_bench, group),
              forced=group in _TEXTS)
        for group in _GROUPS
    ),
    Suite("edit", "documents to revise, the old text as the prediction (IteraTeR)", _edit,
          forced=True, whole=True),
    Suite("repeat", f"{REPEATED} requests that come {TIMES} times, interleaved", _repeat,
          forced=True),
    Suite("samples", f"{SAMPLES} samples of one problem at temperature 0.8; forced: five solutions",
          _samples, forced=True, sampling={"temperature": 0.8}),
    Suite("random", "random tokens after random tokens: nothing to foresee", _random, own=False,
          forced=True),
    Suite("hot", "code and maths at temperature 1.5", _hot, sampling={"temperature": 1.5}),
)  # fmt: skip
