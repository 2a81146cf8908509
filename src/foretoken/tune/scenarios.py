"""Streams of requests in which something changes on purpose: what adapting is tested on.

Each function below makes one scenario from the texts that come with the package (HumanEval
solutions, GSM8K solutions written by a language model): a stream of (prompt, output) and its
phases. A phase says what holds while its requests are written; the borders between phases are the
shifts. Everything is settled by (material, tokens a phase, seed); no model is run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from foretoken.errors import ConfigError
from foretoken.prompt.samples import ASSETS, render

PHASE_TOKENS = 600
NOISE = 0.3  # share of tokens replaced: more than any drafter can live with
STEEP, FLAT = 4.0, 0.25  # what a further row costs, as a multiple of the measured curve


class Passage(NamedTuple):
    """One request of a stream: what is asked and what is written, as token ids."""

    prompt: list[int]
    output: list[int]


@dataclass(frozen=True)
class Phase:
    """Requests during which nothing changes."""

    name: str
    passages: list[Passage]
    slope: float = 1.0  # what a further row costs, as a multiple of the curve's
    outage: bool = False  # the drafter (of a mixture: its first source) proposes nothing

    @property
    def tokens(self) -> int:
        """Tokens written in it."""
        return sum(len(passage.output) for passage in self.passages)


@dataclass(frozen=True)
class Scenario:
    """A stream with scripted shifts."""

    name: str
    summary: str
    phases: list[Phase]

    @property
    def passages(self) -> list[Passage]:
        """The whole stream."""
        return [passage for phase in self.phases for passage in phase.passages]

    @property
    def borders(self) -> list[int]:
        """[phases + 1] the token of the stream at which each phase begins, and the stream's end."""
        out = [0]
        for phase in self.phases:
            out.append(out[-1] + phase.tokens)
        return out

    def phase_of(self, request: int) -> Phase:
        """The phase in which the request with this number is written."""
        for phase in self.phases:
            if request < len(phase.passages):
                return phase
            request -= len(phase.passages)
        raise IndexError(request)


@dataclass(frozen=True)
class Material:
    """The texts in the model's own tokens, in an order that the seed settles.

    tokens: a phase ends with the passage that reaches so many. longest: tokens of one output kept.
    """

    tokenizer: Any
    vocab: int  # rows of the model's output
    eos: tuple[int, ...] = ()
    tokens: int = PHASE_TOKENS
    seed: int = 0
    longest: int = 256

    @cached_property
    def code(self) -> list[dict[str, Any]]:
        """HumanEval: prompt, canonical_solution."""
        return self._rows("humaneval.jsonl")

    @cached_property
    def maths(self) -> list[dict[str, Any]]:
        """GSM8K: question, answer, solutions written by a model."""
        return self._rows("gsm8k.jsonl")

    def dice(self, purpose: str) -> random.Random:
        """Randomness of its own for each purpose."""
        return random.Random(f"{self.seed} {purpose}")

    def phase(
        self,
        rows: Sequence[dict[str, Any]],
        said: Callable[[dict[str, Any]], tuple[str, str]],
        skip: int = 0,
    ) -> list[Passage]:
        """Passages until the phase is long enough; ConfigError if the texts run out.

        said: (prompt, output) of a row. skip: rows to leave out, so that a topic that returns does
        not repeat itself.
        """
        out: list[Passage] = []
        written = 0
        for row in rows[skip:]:
            prompt, output = (self._encode(text) for text in said(row))
            out.append(Passage(prompt, output[: self.longest]))
            written += len(out[-1].output)
            if written >= self.tokens:
                return out
        raise ConfigError("tokens", self.tokens, f"at most {written}: the bundled texts end there")

    def _encode(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return [int(i) for i in ids if int(i) not in self.eos]

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path = ASSETS / "suites" / name
        try:
            lines = path.read_text("utf-8").splitlines()
        except OSError:
            accepted = f"a complete installation: {path} is missing"
            raise ConfigError("scorecard", name, accepted) from None
        rows = [json.loads(line) for line in lines]
        self.dice(name).shuffle(rows)
        return rows


def _solution(row: dict[str, Any]) -> tuple[str, str]:
    return row["prompt"], row["canonical_solution"]


def _steps(row: dict[str, Any]) -> tuple[str, str]:
    written = row.get("written") or [row["answer"]]
    return render(row), " " + written[0].strip() + "\n"


def _as_list(row: dict[str, Any]) -> tuple[str, str]:
    """An answer in a fixed form of sentences."""
    prompt, steps = _steps(row)
    *lines, answer = steps.strip().splitlines()
    said = "".join(f"Step {i}. {line}\n" for i, line in enumerate(lines, start=1))
    return prompt, f"Let us solve this step by step.\n{said}So the final answer is {answer}.\n"


def _as_json(row: dict[str, Any]) -> tuple[str, str]:
    """The same answer as a JSON document."""
    prompt, steps = _steps(row)
    *lines, answer = steps.strip().splitlines()
    document = {
        "status": "solved",
        "reasoning": [{"index": i, "text": line} for i, line in enumerate(lines)],
        "final_answer": answer,
    }
    return prompt, json.dumps(document, indent=2) + "\n"


def topic(material: Material) -> Scenario:
    """code, then maths"""
    return Scenario("topic", topic.__doc__ or "", [
        Phase("code", material.phase(material.code, _solution)),
        Phase("maths", material.phase(material.maths, _steps)),
    ])  # fmt: skip


def template(material: Material) -> Scenario:
    """answers in sentences of one form, then the same kind of answers as JSON"""
    listed = material.phase(material.maths, _as_list)
    return Scenario("template", template.__doc__ or "", [
        Phase("sentences", listed),
        Phase("JSON", material.phase(material.maths, _as_json, len(listed))),
    ])  # fmt: skip


def temperature(material: Material) -> Scenario:
    """maths; then 30 % of the tokens are random, as at a high temperature; then calm again"""
    calm = material.phase(material.maths, _steps)
    hot = material.phase(material.maths, _steps, len(calm))
    after = material.phase(material.maths, _steps, len(calm) + len(hot))
    dice = material.dice("temperature")
    ids = [i for i in range(material.vocab) if i not in material.eos]
    noisy = [
        Passage(p.prompt, [dice.choice(ids) if dice.random() < NOISE else t for t in p.output])
        for p in hot
    ]
    return Scenario("temperature", temperature.__doc__ or "", [
        Phase("calm", calm), Phase("hot", noisy), Phase("calm again", after),
    ])  # fmt: skip


def cost(material: Material) -> Scenario:
    """further rows of a forward become 4 times as dear, then a quarter as dear as measured"""
    first = material.phase(material.code, _solution)
    second = material.phase(material.code, _solution, len(first))
    third = material.phase(material.maths, _steps)
    mixed = _alternating(material, [*first, *second, *third])
    return Scenario("cost", cost.__doc__ or "", [
        Phase("as measured", mixed[0]),
        Phase("steep", mixed[1], slope=STEEP),
        Phase("flat", mixed[2], slope=FLAT),
    ])  # fmt: skip


def outage(material: Material) -> Scenario:
    """the drafter (of a mixture: its first source) proposes nothing for a while"""
    first = material.phase(material.maths, _steps)
    second = material.phase(material.maths, _steps, len(first))
    third = material.phase(material.maths, _steps, len(first) + len(second))
    return Scenario("outage", outage.__doc__ or "", [
        Phase("working", first), Phase("out", second, outage=True), Phase("working again", third),
    ])  # fmt: skip


def permutation(material: Material) -> Scenario:
    """maths; then every token gets another id, so that all that was learned is stale"""
    first = material.phase(material.maths, _steps)
    second = material.phase(material.maths, _steps, len(first))
    ids = [i for i in range(material.vocab) if i not in material.eos]
    other = dict(zip(ids, material.dice("permutation").sample(ids, len(ids)), strict=True))
    moved = [Passage([other[t] for t in p], [other[t] for t in o]) for p, o in second]
    return Scenario("permutation", permutation.__doc__ or "", [
        Phase("own ids", first), Phase("other ids", moved),
    ])  # fmt: skip


def back(material: Material) -> Scenario:
    """code, then maths, then code again (other problems)"""
    first = material.phase(material.code, _solution)
    return Scenario("back", back.__doc__ or "", [
        Phase("code", first),
        Phase("maths", material.phase(material.maths, _steps)),
        Phase("code", material.phase(material.code, _solution, len(first))),
    ])  # fmt: skip


def _alternating(material: Material, passages: list[Passage]) -> list[list[Passage]]:
    """Three parts of equal length and equal mixture."""
    material.dice("cost").shuffle(passages)
    third = sum(len(passage.output) for passage in passages) / 3
    parts: list[list[Passage]] = [[], [], []]
    written = 0
    for passage in passages:
        parts[min(int(written / third), 2)].append(passage)
        written += len(passage.output)
    return parts


SCENARIOS: dict[str, Callable[[Material], Scenario]] = {
    made.__name__: made for made in (topic, template, temperature, cost, outage, permutation, back)
}
