"""A target answers prompts: batches of one engine, several answers a prompt, turn by turn.

Every text is the target's own, whatever drafts it: it depends on the prompt, the temperature and a
seed that is tied to (prompt, sample), not on its place in a file or a batch. (In float32, or with
`--exact bitwise`, it is the same bits with any method; in bfloat16 a near-tie may fall otherwise
when another method rides along.) A conversation is written turn by turn against the target's own
earlier answers, and ends early where an answer does not end by itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from foretoken.bench.loops import SHORTEST, loop_start
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.learn.recipes.answers import GIVEN, Row
from foretoken.learn.recipes.talks import Message, Talk
from foretoken.learn.recipes.turns import Turn, given_turns, prompt_of, rows_of
from foretoken.types import Limits, Options, Request, Sampling, Session

LOOPS = ("cut", "drop", "keep")
LOOKED = 64  # tokens between looks for a loop: a text that loops need not be written to its end


class Settings(Options):
    """What the text of a data set depends on, besides model and prompts."""

    temperatures: tuple[float, ...] = Field((0.0, 0.7, 1.0), min_length=1)
    samples: int = Field(1, ge=1, description="answers per prompt and temperature above 0")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    max_new_tokens: int = Field(256, ge=1)
    seed: int = Field(0, ge=0)
    loops: str = "cut"
    shard: int = Field(128, ge=1, description="prompts per file")
    prompt_tokens: int = Field(64, ge=1, description="tokens read of a document")
    keep_answers: bool = False

    def checked(self) -> Settings:
        """Raises ConfigError for what types do not say."""
        if self.loops not in LOOPS:
            raise ConfigError("loops", self.loops, ", ".join(LOOPS))
        if bad := [t for t in self.temperatures if t < 0]:
            raise ConfigError("temperature", bad[0], "a number from 0")
        return self

    def draws(self) -> list[float]:
        """The temperature of each answer to a prompt; greedy text is written once."""
        found = dict.fromkeys(self.temperatures)
        return [t for t in found for _ in range(self.samples if t else 1)]


def seed_of(seed: int, key: str, sample: int) -> int:
    """The seed of a prompt's n-th answer: 63 bits of a hash."""
    text = f"{seed},{key},{sample}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass
class _Job:
    """One answer (of several turns) to one talk."""

    talk: Talk
    sample: int
    sampling: Sampling
    left: list[Message] = field(default_factory=list)  # what is still to be said to the model
    said: list[Message] = field(default_factory=list)  # what the next turn is asked behind
    turns: list[Turn] = field(default_factory=list)
    reason: str = ""  # how the last turn ended
    open: bool = True  # whether the model is asked once more
    looked: int = 0  # tokens of the running answer that hold no loop

    def prompt(self, tokenizer: Any) -> list[int] | None:
        """What the model reads next; None if it has answered everything."""
        if not self.open:
            return None
        if self.talk.ids:
            self.open = False
            return list(self.talk.ids)
        users = [i for i, message in enumerate(self.left) if message["role"] == "user"]
        if not users:
            return None
        self.said += self.left[: users[0] + 1]
        self.left = self.left[users[0] + 1 :]
        return prompt_of(tokenizer, self.said)


class Answering:
    """Writes the rows of some talks.

    Counted are `asked` answers, `turns` of them and `tokens` written in all; how turns ended:
    `stop`, `length`, `loop`; what was left out: `too-long` prompts, `empty` and `looping` turns;
    `given` rows; and what came of it: `rows`, `learned` tokens.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings.checked()
        self.counts: Counter[str] = Counter()

    def write(
        self, talks: Sequence[Talk], on_answer: Callable[[int], None] = lambda _: None
    ) -> tuple[list[Row], dict[str, int]]:
        """The rows of these talks, in their order, and what there was to count. on_answer: called
        with the tokens written for every turn that is finished. Ctrl-C ends all of them."""
        self.counts = Counter()
        jobs = [job for talk in talks for job in self._jobs(talk)]
        running: dict[int, tuple[_Job, Session]] = {}
        try:
            for job in jobs:
                self._ask(job, running)
            while running:
                for session, _ in self.engine.step():
                    job = running[session.index][0]
                    if self._finished(job, session):
                        del running[session.index]
                        on_answer(len(session.output))
                        self._ask(job, running)
        finally:
            for _, session in running.values():
                self.engine.cancel(session)
        rows = [row for job in jobs for row in self._rows(job)]
        self.counts.update(rows=len(rows), learned=sum(sum(row.loss_mask) for row in rows))
        return rows, dict(sorted(self.counts.items()))

    def _jobs(self, talk: Talk) -> Iterator[_Job]:
        settings, target = self.settings, self.engine.target
        bad = next((token for token in talk.ids if not 0 <= token < target.vocab), None)
        if bad is not None:
            accepted = f"token ids from 0 to {target.vocab - 1}"
            raise ConfigError("prompts", f"{talk.name}: {bad}", accepted)
        if talk.mask:
            yield _Job(talk, 0, Sampling(), reason=GIVEN, open=False)
            return
        if settings.keep_answers and talk.messages and talk.messages[-1]["role"] == "assistant":
            turns = given_turns(self.engine.tokenizer, talk.messages, target.eos)
            yield _Job(talk, 0, Sampling(), turns=turns, reason=GIVEN, open=False)
            return
        asked = [m for m in talk.messages if m["role"] != "assistant"]
        for sample, temperature in enumerate(settings.draws()):
            sampling = Sampling(
                temperature=temperature,
                top_p=settings.top_p if temperature else 1.0,
                top_k=settings.top_k if temperature else 0,
                seed=seed_of(settings.seed, talk.key, sample),
            )
            self.counts["asked"] += 1
            yield _Job(talk, sample, sampling, asked)

    def _ask(self, job: _Job, running: dict[int, tuple[_Job, Session]]) -> None:
        """Put the job's next turn to the model, if there is one."""
        try:
            prompt = job.prompt(self.engine.tokenizer)
        except ConfigError as error:
            raise ConfigError(error.field, job.talk.name, error.accepted) from None
        if prompt is None:
            return
        if len(prompt) >= self.engine.target.max_context:
            self.counts["too-long"] += 1
            job.open = False
            return
        job.looked = 0
        limits = Limits(max_new_tokens=self.settings.max_new_tokens)
        session = self.engine.add(Request(prompt, job.sampling, limits))
        running[session.index] = (job, session)

    def _finished(self, job: _Job, session: Session) -> bool:
        """Whether the answer is there, which is then taken in."""
        ended, output = session.finish_reason is not None, session.output
        loop = None if self.settings.loops == "keep" else _loop(job, output, ended)
        if loop is not None:
            self.engine.cancel(session)
            self._take(job, session, output[:loop], "loop")
        elif ended:
            self._take(job, session, output, session.finish_reason or "")
        return ended or loop is not None

    def _take(self, job: _Job, session: Session, answer: list[int], reason: str) -> None:
        self.counts.update(turns=1, tokens=len(session.output))
        self.counts[reason] += 1
        job.open &= reason == "stop"
        if reason == "loop" and (self.settings.loops == "drop" or len(answer) < SHORTEST):
            self.counts["looping"] += 1
        elif not set(answer) - set(self.engine.target.eos):
            self.counts["empty"] += 1
            job.open = False
        else:
            job.turns.append(Turn(session.request.prompt, answer))
            job.reason = reason
            # templates add their own space or line break before the content
            text = self.engine.tokenizer.decode(answer, skip_special_tokens=True).strip()
            job.said.append({"role": "assistant", "content": text})

    def _rows(self, job: _Job) -> Iterator[Row]:
        talk = job.talk
        rows = [(list(talk.ids), list(talk.mask))] if talk.mask else rows_of(job.turns)
        self.counts[GIVEN] += len(rows) * (job.reason == GIVEN)
        for i, (ids, mask) in enumerate(rows):
            name = f"{talk.name}#{job.sample}" + (f".{i}" if len(rows) > 1 else "")
            yield Row(name, ids, mask, job.sampling.temperature, job.sampling.seed, job.reason)


def _loop(job: _Job, output: Sequence[int], ended: bool) -> int | None:
    """Where a loop begins, looked for at the same lengths however many tokens a step adds."""
    while job.looked + LOOKED <= len(output):
        job.looked += LOOKED
        found = loop_start(output[: job.looked])
        if found is not None:
            return found
    return loop_start(output) if ended else None
