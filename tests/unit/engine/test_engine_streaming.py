"""Streams: many at once, no stop string leaks, closing and failing leave a clean engine."""

import asyncio
import threading

import pytest

from foretoken.engine.engine import Engine
from foretoken.errors import ForetokenError
from foretoken.types import Limits, Request
from tests import letters, tiny

NEW = 20


@pytest.fixture(scope="module")
def target():
    return tiny.fresh_target("llama")


@pytest.fixture(params=["random", "prompt-lookup"])
def engine(target, request):
    made = Engine(target, letters.tokenizer(), method=request.param, max_sessions=3)
    yield made
    assert not made.sessions
    assert not made._waiting
    assert not target.pool.handles


def prompt(i):
    return tiny.prompt(i, 5 + i, vocab=96)


def request(i, new=NEW, **limits):
    return Request(prompt(i), limits=Limits(max_new_tokens=new, **limits))


def truth(i, new=NEW):
    return letters.tokenizer().decode(tiny.generate("llama", [prompt(i)], new)[0],
                                      skip_special_tokens=True)  # fmt: skip


def test_a_stream_is_the_text(engine):
    pieces = list(engine.stream(request(1)))
    assert "".join(pieces) == truth(1)
    assert len(pieces) > 1
    assert all(pieces)


def test_streams_read_in_turns(engine):
    """One thread, more streams than seats: a waiting one must not block those that are in."""
    streams = [engine.stream(request(i)) for i in range(5)]
    texts = [""] * 5
    live = set(range(5))
    while live:
        for i in sorted(live):
            piece = next(streams[i], None)
            if piece is None:
                live.discard(i)
            else:
                texts[i] += piece
    assert texts == [truth(i) for i in range(5)]


def test_many_async_streams_on_one_engine(engine):
    async def read(i):
        return "".join([piece async for piece in engine.astream(request(i))])

    async def main():
        return await asyncio.gather(*(read(i) for i in range(7)))

    assert asyncio.run(main()) == [truth(i) for i in range(7)]


def test_the_event_loop_stays_free(engine):
    """While streams run, another task gets its turns."""
    turns = 0

    async def main():
        nonlocal turns

        async def tick():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        async for _ in engine.astream(request(0)):
            pass
        ticking.cancel()

    asyncio.run(main())
    assert turns > NEW


def test_streams_from_many_threads(engine):
    texts = {}

    def read(i):
        texts[i] = "".join(engine.stream(request(i)))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {i: truth(i) for i in range(6)}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_stop_strings_never_leak(engine, size):
    for i in range(4):
        whole = truth(i)
        stop = whole[9 : 9 + size]
        expected = whole[: whole.index(stop)]
        shown = ""
        for piece in engine.stream(request(i, stop=(stop,))):
            shown += piece
            assert expected.startswith(shown), "at no moment more than the text"
        assert shown == expected


def test_what_only_looked_like_a_stop_string_is_given_out(engine):
    whole = truth(2)
    stop = whole[-2:] + "~~~"  # its start is held back until the end of the text
    assert "".join(engine.stream(request(2, stop=(stop,)))) == whole


def test_closing_a_stream_frees_its_seat(engine, target):
    streams = [engine.stream(request(i)) for i in range(3)]
    for stream in streams:
        next(stream)
    assert len(target.pool.handles) == 3
    streams[1].close()
    assert len(target.pool.handles) == 2
    assert "".join(engine.stream(request(4))) == truth(4)
    assert "".join(streams[0]) != ""
    streams[0].close()
    del streams  # an abandoned generator is closed by Python


def test_closing_a_stream_that_never_began(engine):
    engine.stream(request(0)).close()


def test_closing_an_async_stream(engine, target):
    async def main():
        stream = engine.astream(request(0))
        async for _ in stream:
            break
        assert len(target.pool.handles) == 1
        await stream.aclose()
        assert not target.pool.handles
        return "".join([piece async for piece in engine.astream(request(1))])

    assert asyncio.run(main()) == truth(1)


def test_cancelling_a_task_in_the_middle_of_a_step(engine, target):
    """The thread that makes the step cannot be stopped; its session must leave all the same."""
    inside = threading.Event()

    def slow(tokens):
        inside.set()
        threading.Event().wait(0.02)
        return False

    async def main():
        async def read():
            async for _ in engine.astream(request(0, criteria=(slow,))):
                pass

        task = asyncio.create_task(read())
        while not inside.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not target.pool.handles
        return "".join([piece async for piece in engine.astream(request(1))])

    assert asyncio.run(main()) == truth(1)


class MineError(Exception):
    pass


def raises_at(n):
    def criterion(tokens):
        if len(tokens) >= n:
            raise MineError
        return False

    return criterion


def test_a_raising_criterion_leaves_the_engine_usable(engine, target):
    bad = request(0, criteria=(raises_at(len(prompt(0)) + 4),))
    shown = ""
    pieces = engine.stream(bad)
    with pytest.raises(MineError):
        for piece in pieces:
            shown += piece
    assert truth(0).startswith(shown)
    assert not target.pool.handles
    assert "".join(engine.stream(request(0))) == truth(0)
    with pytest.raises(MineError):
        engine.run([bad])
    assert engine.run([request(0)])[0].text == truth(0)


def test_a_text_broken_off_by_another_is_an_error(engine):
    """Whoever made the step gets the exception; nobody takes half a text for a whole one."""
    good, bad = (
        engine.stream(request(1)),
        engine.stream(request(0, criteria=(raises_at(len(prompt(0)) + 6),))),
    )
    outcomes = []
    for stream in (bad, good):
        next(stream)
    for stream in (bad, good):
        try:
            outcomes.append("".join(stream))
        except (MineError, ForetokenError) as error:
            outcomes.append(type(error))
    assert outcomes == [MineError, ForetokenError]


def test_an_async_criterion_error_reaches_the_reader(engine):
    async def main():
        bad = request(0, criteria=(raises_at(len(prompt(0)) + 4),))
        with pytest.raises(MineError):
            _ = [piece async for piece in engine.astream(bad)]
        return "".join([piece async for piece in engine.astream(request(2))])

    assert asyncio.run(main()) == truth(2)
