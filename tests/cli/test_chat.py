"""foretoken chat: a turn reads only what is new, and answers as a fresh engine would."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from foretoken.cli.chat import Conversation
from foretoken.cli.opening import open_engine
from foretoken.cli.options import MethodOptions, TargetOptions
from foretoken.errors import ConfigError
from foretoken.prompt.tokens import render_chat
from foretoken.types import Limits, Request, Sampling

LIMITS = Limits(max_new_tokens=12)


@pytest.fixture
def engine(model):
    return open_engine(TargetOptions(model, "float32"), MethodOptions(policy="fixed"))


@pytest.fixture
def fresh_rows(engine, monkeypatch):
    """Committed tokens that each forward read, first one of a turn first."""
    rows, score = [], engine.target.score

    def spy(jobs):
        rows.append([len(job.fresh) for job in jobs])
        return score(jobs)

    monkeypatch.setattr(engine.target, "score", spy)
    return rows


def alone(engine, messages):
    ids = render_chat(engine.tokenizer, messages)
    return engine.run([Request(ids, Sampling(), LIMITS)])[0].tokens


def test_second_turn_reads_only_what_is_new(engine, fresh_rows):
    talk = Conversation(engine, Sampling(), LIMITS)
    first = talk.say("How many eggs?")
    held = first.session.tokens[:-1]  # what the cache holds: all but the root
    fresh_rows.clear()
    second = talk.say("And how many hens?")
    prompt = second.completion.prompt
    shared = next((i for i, (a, b) in enumerate(zip(held, prompt, strict=False)) if a != b),
                  min(len(held), len(prompt) - 1))  # fmt: skip
    assert shared >= len(first.completion.prompt)
    assert fresh_rows[0] == [len(prompt) - shared]
    # the first turn's cached rows are as good as ones that were read anew
    assert second.completion.tokens == alone(engine, talk.messages[:-1])
    talk.reset()
    assert engine.target.pool.handles == []


def test_reset_forgets_the_turns(engine, fresh_rows):
    talk = Conversation(engine, Sampling(), LIMITS, system="Be brief.")
    first = talk.say("How many eggs?")
    talk.reset()
    fresh_rows.clear()
    again = talk.say("How many eggs?")
    assert again.completion.tokens == first.completion.tokens
    assert again.completion.prompt == first.completion.prompt
    assert fresh_rows[0] == [len(again.completion.prompt)]
    talk.reset()


def test_an_interrupted_answer_is_part_of_the_talk(engine, monkeypatch):
    talk, step, count = Conversation(engine, Sampling(), LIMITS), type(engine).step, 0

    def interrupted(self):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(type(engine), "step", interrupted)
    first = talk.say("How many eggs?")
    assert first.interrupted
    assert first.completion.finish_reason == "cancelled"
    second = talk.say("And how many hens?")
    assert not second.interrupted
    assert second.completion.tokens == alone(engine, talk.messages[:-1])
    talk.reset()


def test_a_turn_beyond_the_context_is_refused_and_forgotten(engine):
    talk = Conversation(engine, Sampling(), LIMITS)
    talk.say("How many eggs?")
    before = list(talk.messages)
    with pytest.raises(ConfigError, match="context of 1024"):
        talk.say("eggs " * 1000)
    assert talk.messages == before
    talk.say("And hens?")
    talk.reset()


@pytest.mark.parametrize("method", ["plain", "aded"])
def test_resume_where_the_prompts_part_early_or_are_equal(engine, method):
    chosen = engine.use(method, "fixed")
    run = [5, 6, 7, 8, 9, 10]

    def finish(prompt, resume=None):
        session = engine.add(Request(prompt, limits=LIMITS, keep_cache=True), chosen, resume)
        while session.finish_reason is None:
            engine.step()
            if session.finish_reason is None:
                assert session.cache.length == len(session.tokens) - 1
        return session

    last = finish(run)
    for prompt in (run, run[:2], [9, *run], [*last.tokens, 11], [*run, 3] * 40):
        expected = engine.run([Request(prompt, limits=LIMITS)])[0].tokens
        last = finish(prompt, last)
        assert last.output == expected
    engine.release(last)
    engine.release(last)  # harmless
    assert engine.target.pool.handles == []


def test_only_a_kept_cache_can_be_resumed_and_only_once(engine):
    kept = engine.add(Request([5, 6], limits=LIMITS, keep_cache=True))
    with pytest.raises(ConfigError, match="resume"):
        engine.add(Request([5, 6], limits=LIMITS), resume=kept)  # not finished
    lost = engine.add(Request([5, 6], limits=LIMITS))
    while engine.step():
        pass
    with pytest.raises(ConfigError, match="resume"):
        engine.add(Request([5, 6], limits=LIMITS), resume=lost)
    waiting = engine.add(Request([5, 6, 7], limits=LIMITS), resume=kept)
    with pytest.raises(ConfigError, match="resume"):
        engine.add(Request([5, 6], limits=LIMITS), resume=kept)
    engine.cancel(waiting)
    assert engine.target.pool.handles == []


def talk_to(cli, monkeypatch, model, said, *arguments):
    lines = io.StringIO(said)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    monkeypatch.setattr("builtins.input", lambda _: _next(lines))
    return cli("chat", "--model", model, "-n", 8, *arguments)


def _next(lines):
    line = lines.readline()
    if not line:
        raise EOFError
    return line


def test_commands_and_end_of_input(cli, model, monkeypatch):
    ran = talk_to(cli, monkeypatch, model, "Eggs?\n\n/reset\nEggs?\n")
    assert ran.code == 0, ran.err
    assert ran.err.count("tokens/s") == 2
    middle = len(ran.out) // 2
    assert ran.out[:middle] == ran.out[middle:]  # the same answer twice: nothing was remembered
    assert "tokens/s" not in talk_to(cli, monkeypatch, model, "/quit\nEggs?\n").err


def test_a_model_without_template_is_refused(cli, model, monkeypatch, tmp_path):
    import json
    import shutil
    from pathlib import Path

    folder = tmp_path / "bare"
    shutil.copytree(model, folder)
    config = Path(folder / "tokenizer_config.json")
    bare = {k: v for k, v in json.loads(config.read_text()).items() if k != "chat_template"}
    config.write_text(json.dumps(bare))
    ran = talk_to(cli, monkeypatch, str(folder), "Eggs?\n")
    assert ran.code == 2
    assert "chat template" in ran.err


def test_a_conversation_can_be_recorded_and_replayed(cli, model, tmp_path, monkeypatch):
    """Turns that took over rows of memory are whole requests of the trace."""
    from foretoken.learn.trace import Trace
    from foretoken.target.cost import CostCurve
    from foretoken.tune.replay import replay

    typed = SimpleNamespace(isatty=lambda: False)
    lines = iter(["How many eggs?", "And hens?", "/quit"])
    monkeypatch.setattr("sys.stdin", typed)
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    path = tmp_path / "a.trace"
    ran = cli(
        "chat", "--model", model, "--dtype", "float32", "-n", 9, "--trace", path, "--policy",
        "fixed", "--method", "prompt-lookup",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    trace = Trace.load(path)
    assert len(trace.requests) == 2
    assert trace.requests[1].prompt[: len(trace.requests[0].prompt)] == trace.requests[0].prompt
    curve = CostCurve(rows=(1,), contexts=(0,), seconds=((1.0,),))
    assert replay(trace, "prompt-lookup", "fixed", curve=curve).tokens == trace.tokens
