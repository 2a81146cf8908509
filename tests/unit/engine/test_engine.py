"""Engine: joining, leaving, streaming, bad requests, callbacks that misbehave."""

import asyncio
import threading

import pytest

from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError, ForetokenError
from foretoken.types import Request, Session
from tests import tiny
from tests.unit.engine.test_loop import Decoder

PROMPTS = [tiny.prompt(i, n, 32) for i, n in ((1, 9), (2, 4), (3, 15), (4, 1))]
NEW = 16


@pytest.fixture(scope="module")
def answers() -> list[list[int]]:
    return tiny.generate("small", PROMPTS, NEW)


def make(text: bool = False, **values: object) -> Engine:
    engine = Engine(tiny.target("small"), **{"method": "random", **values})
    engine.tokenizer = Decoder() if text else None
    return engine


def requests(**limits: object) -> list[Request]:
    return [tiny.request(p, NEW, **limits) for p in PROMPTS]


def test_completions_come_in_order(answers: list[list[int]]) -> None:
    done = make(max_sessions=2).run(requests())
    assert [c.tokens for c in done] == answers
    assert [c.prompt for c in done] == PROMPTS
    assert {c.guarantee for c in done} == {"exact"}
    assert all(c.finish_reason == "length" and c.text == "" for c in done)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "at least one token"), ([0, 32], "32"), ([-1], "-1"), ([1] * 256, "context of 256")],
)
def test_bad_prompts(prompt: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=f"prompt: .*{message}"):
        make().add(tiny.request(prompt, 4))


def test_a_bad_request_takes_the_others_out_again(answers: list[list[int]]) -> None:
    engine = make()
    with pytest.raises(ConfigError):
        engine.run([*requests(), tiny.request([], 4)])
    assert engine.step() == []


def test_bad_number_of_sessions() -> None:
    with pytest.raises(ConfigError, match="max_sessions: 0"):
        make(max_sessions=0)


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(ConfigError, match="stop"):
        make().add(tiny.request([1], 4, stop=("x",)))


def test_stream_is_the_text(answers: list[list[int]]) -> None:
    engine = make(text=True)
    assert "".join(engine.stream(requests()[0])) == Decoder().decode(answers[0])
    stop = Decoder().decode(answers[0])[5:8]
    cut = "".join(engine.stream(tiny.request(PROMPTS[0], NEW, stop=(stop,))))
    assert cut == Decoder().decode(answers[0]).split(stop)[0]


def test_closing_a_stream_cancels_its_session() -> None:
    engine = make(text=True)
    stream = engine.stream(requests()[0])
    next(stream)
    assert len(engine.sessions) == 1
    stream.close()
    assert engine.sessions == []


def test_streams_from_many_threads(answers: list[list[int]]) -> None:
    engine, out = make(text=True, max_sessions=3), {}

    def read(i: int) -> None:
        out[i] = "".join(engine.stream(requests()[i]))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert out == {i: Decoder().decode(a) for i, a in enumerate(answers)}


def test_async_streams_side_by_side(answers: list[list[int]]) -> None:
    engine = make(text=True)

    async def read(request: Request) -> str:
        return "".join([piece async for piece in engine.astream(request)])

    async def both() -> list[str]:
        return await asyncio.gather(*(read(r) for r in requests()))

    assert asyncio.run(both()) == [Decoder().decode(a) for a in answers]


def test_an_abandoned_async_stream_is_cancelled() -> None:
    """A client that hangs up while a step runs: no error, and the session leaves."""
    engine = make(text=True)

    async def read() -> None:
        async for _ in engine.astream(tiny.request(PROMPTS[0], 200)):
            pass

    async def hang_up() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(hang_up())
    assert engine.sessions == []


def test_on_tokens_sees_every_token_once(answers: list[list[int]]) -> None:
    got: list[int] = []
    request = Request(**{**vars(requests()[0]), "on_tokens": lambda s, new: got.extend(new)})
    make().run([request])
    assert got == answers[0]


def test_a_raising_callback_does_not_revive_finished_sessions() -> None:
    """Two sessions end in the same step; the first one's callback raises."""

    def fail(session: Session, new: list[int]) -> None:
        raise ZeroDivisionError

    engine = make(method="plain")
    first = engine.add(Request(**{**vars(tiny.request([1], 1)), "on_tokens": fail}))
    second = engine.add(tiny.request([2], 1))
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert engine.sessions == []
    assert (first.finish_reason, second.finish_reason) == ("length", "length")
    assert len(second.output) == 1


def test_a_callback_may_cancel_another_session(answers: list[list[int]]) -> None:
    engine, others = make(method="plain"), []

    def cancel(session: Session, new: list[int]) -> None:
        engine.cancel(others[0])

    mine = engine.add(Request(**{**vars(requests()[0]), "on_tokens": cancel}))
    others.append(engine.add(requests()[1]))
    while engine.step():
        pass
    assert (others[0].finish_reason, mine.output) == ("cancelled", answers[0])


def test_an_engine_survives_an_exception(answers: list[list[int]]) -> None:
    engine = make()

    def interrupt(session: Session, step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(requests(), on_step=interrupt)
    assert engine.sessions == []
    assert [c.tokens for c in engine.run(requests())] == answers


def test_resume_reads_only_what_is_new(answers: list[list[int]]) -> None:
    engine = make()
    first = engine.add(Request(**{**vars(requests()[0]), "keep_cache": True}))
    while engine.step():
        pass
    longer = [*first.tokens, 7, 8]
    second = engine.add(tiny.request(longer, NEW), resume=first)
    assert second.cache.length == len(first.tokens) - 1
    while engine.step():
        pass
    assert second.output == tiny.generate("small", [longer], NEW)[0]
    with pytest.raises(ConfigError, match="resume"):
        engine.add(tiny.request(longer, NEW), resume=second)


def test_resume_with_another_prompt_keeps_what_is_shared(answers: list[list[int]]) -> None:
    engine = make()
    first = engine.add(Request(**{**vars(requests()[2]), "keep_cache": True}))
    other = engine.add(requests()[1])  # its slot lies behind the kept one
    while engine.step():
        pass
    prompt = [*PROMPTS[2][:6], 30, 31]
    second = engine.add(tiny.request(prompt, NEW), resume=first)
    assert second.cache.length >= 6 - 1
    while engine.step():
        pass
    assert second.output == tiny.generate("small", [prompt], NEW)[0]
    assert other.output == answers[1]


def test_logits_and_logprobs_are_the_targets(answers: list[list[int]]) -> None:
    request = Request(**{**vars(requests()[0]), "keep_logits": True})
    oracle = tiny.drafter("oracle", answers[0], vocab=32)
    done = make(method=oracle, policy="fixed").run([request])[0]
    plain = tiny.plain_logits("small", [*PROMPTS[0], *done.tokens])[len(PROMPTS[0]) - 1 : -1]
    for row, expected, token, logprob in zip(
        done.logits, plain, done.tokens, done.logprobs, strict=True
    ):
        assert row.tolist() == pytest.approx(expected.tolist(), abs=2e-5)
        assert logprob == pytest.approx(float(expected.log_softmax(-1)[token]), abs=1e-4)
    assert any(done.origin)


def test_equal_arguments_share_a_method() -> None:
    engine = make()
    assert engine.use("random", "fixed") is engine.use("random", "fixed")
    assert engine.use("random", "fixed") is not engine.use("random", "fixed", options={"seed": 1})


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(ForetokenError, match="tokenizer"):
        list(make().stream(requests()[0]))
