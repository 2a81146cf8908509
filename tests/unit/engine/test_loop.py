"""The invariant `cache.length == len(tokens) - 1` after every step, wherever and however it ends."""

import random

import pytest
import torch

from foretoken import registry
from foretoken.engine.engine import Engine
from foretoken.engine.loop import Clock, draft
from foretoken.target.base import Job
from foretoken.tree import EMPTY
from foretoken.types import Request, Session, Step
from tests import tiny

DRAFTERS = registry.names("drafter")
PROMPT = tiny.prompt(1, 9, 32)
NEW = 20


@pytest.fixture(scope="module")
def answer() -> list[int]:
    return tiny.generate("small", [PROMPT], NEW)[0]


def invariant(session: Session, step: Step) -> None:
    made = step.committed
    assert session.cache.length == len(session.tokens) - 1
    assert session.tokens[step.context :] == made.tokens
    assert len(made.tokens) <= len(step.verdict.path) + 1
    assert made.accepted <= len(step.verdict.path)
    assert (
        len(session.logprobs) == len(session.origin) == len(session.output) == session.stats.tokens
    )
    assert len(step.tree) <= step.budget.nodes
    assert set(step.seconds) == {"draft", "target", "verify"}
    assert all(spent >= 0 for spent in step.seconds.values())


class Decoder:
    """Just enough of a tokenizer: token t is the letter of its number."""

    bos_token_id = None
    name_or_path = "letters"

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(65 + t) for t in tokens)


def run(req: Request, name: str, known: list[int], text: bool = False) -> Session:
    engine = Engine(tiny.target("small"), method="plain")
    engine.tokenizer = Decoder() if text else None
    req = Request(**{**vars(req), "keep_cache": True})  # so that the last step can be looked at
    session = engine.add(req, tiny.method(tiny.target("small"), name, known, nodes=8))
    while steps := engine.step():
        for stepped, done in steps:
            invariant(stepped, done)
    engine.release(session)
    return session


@pytest.mark.parametrize("name", DRAFTERS)
class TestStops:
    """With the oracle, stops fall inside an accepted run; nothing behind them may leak out."""

    @pytest.mark.parametrize("new", [1, 2, 7, NEW])
    def test_max_tokens(self, name: str, new: int, answer: list[int]) -> None:
        session = run(tiny.request(PROMPT, new), name, answer)
        assert (session.output, session.finish_reason) == (answer[:new], "length")

    @pytest.mark.parametrize("at", [0, 3, 12])
    def test_eos_inside_an_accepted_run(self, name: str, at: int, answer: list[int]) -> None:
        eos = answer[at]
        first = answer.index(eos)
        session = run(tiny.request(PROMPT, NEW, eos_token_ids=(eos,)), name, answer)
        assert (session.output, session.finish_reason) == (answer[: first + 1], "stop")
        on = run(tiny.request(PROMPT, NEW, eos_token_ids=(eos,), ignore_eos=True), name, answer)
        assert (on.output, on.finish_reason) == (answer, "length")

    def test_stop_string_over_token_boundaries(self, name: str, answer: list[int]) -> None:
        text = Decoder().decode(answer)
        stop = text[7:9]
        session = run(tiny.request(PROMPT, NEW, stop=(stop,)), name, answer, text=True)
        end = text.index(stop)
        assert session.output == answer[: end + 2]
        assert (session.text_end, session.finish_reason) == (end, "stop")

    def test_criteria_see_every_token(self, name: str, answer: list[int]) -> None:
        seen = []

        def criterion(tokens: list[int]) -> bool:
            seen.append(len(tokens))
            return len(tokens) == len(PROMPT) + 6

        session = run(tiny.request(PROMPT, NEW, criteria=(criterion,)), name, answer)
        assert (session.output, session.finish_reason) == (answer[:6], "criteria")
        assert seen == list(range(len(PROMPT) + 1, len(PROMPT) + 7))

    def test_raising_criterion_gives_back_the_step(self, name: str, answer: list[int]) -> None:
        def criterion(tokens: list[int]) -> bool:
            if len(tokens) == len(PROMPT) + 6:
                raise ZeroDivisionError
            return False

        engine = Engine(tiny.target("small"), method="plain")
        req = Request(
            **{**vars(tiny.request(PROMPT, NEW, criteria=(criterion,))), "keep_cache": True}
        )
        session = engine.add(req, tiny.method(tiny.target("small"), name, answer, nodes=4))
        with pytest.raises(ZeroDivisionError):
            while engine.step():
                pass
        assert session.finish_reason == "error"
        assert session.output == answer[: len(session.output)]
        assert len(session.output) < 6
        held = session.cache.length
        assert held == (len(session.tokens) - 1 if session.output else 0)
        tokens = session.tokens
        (scores,) = tiny.target("small").score([Job(session.cache, tokens[held:], EMPTY)])
        plain = tiny.plain_logits("small", tokens)[-1]
        torch.testing.assert_close(scores.logits[0], plain, atol=2e-5, rtol=1e-4)
        engine.release(session)

    def test_cancel_at_any_step(self, name: str, answer: list[int]) -> None:
        for after in range(3):
            engine = Engine(tiny.target("small"), method="plain")
            method = tiny.method(tiny.target("small"), name, answer, nodes=3)
            session, other = (engine.add(tiny.request(PROMPT, NEW), method) for _ in range(2))
            for _ in range(after):
                engine.step()
            engine.cancel(session)
            assert session.finish_reason == "cancelled"
            while engine.step():
                pass
            assert session.output == answer[: len(session.output)]
            assert other.output == answer


@pytest.mark.parametrize("family", ["short", "short-gpt2"])
@pytest.mark.parametrize("name", DRAFTERS)
def test_the_models_context_ends_the_text(family: str, name: str) -> None:
    """24 positions: a longer request ends there, and no draft reaches behind."""
    prompt = tiny.prompt(4, 10)
    known = tiny.generate(family, [prompt], 14)[0]
    done = tiny.decode(tiny.target(family), tiny.request(prompt, 100), name, [*known, *known])
    assert (done.tokens, done.finish_reason) == (known, "length")


def test_budget_ends_where_the_text_does() -> None:
    target = tiny.target("small")
    engine = Engine(target, method="plain")
    asked = []
    method = tiny.method(target, "random", nodes=500)
    original = method.drafter.propose
    method.drafter.propose = lambda s, b: (asked.append((s.room, b)), original(s, b))[1]
    engine.run([tiny.request(PROMPT, NEW)], method)
    assert all(b.depth <= room - 1 for room, b in asked)
    assert all(1 <= b.nodes <= target.max_draft for _, b in asked)
    assert min(room for room, _ in asked) >= 2, "the last token needs no draft"


def test_draft_with_no_room_is_empty() -> None:
    engine = Engine(tiny.target("small"), method="plain")
    session = engine.add(tiny.request(PROMPT, 1), tiny.method(tiny.target("small"), "random"))
    ((budget, tree),) = draft(tiny.target("small"), [session])
    assert (budget.nodes, len(tree)) == (0, 0)


def test_clock_laps_are_positive() -> None:
    clock = Clock()
    assert clock.lap() >= 0
    assert random.random() < 1 <= 1 + clock.lap()
