"""Every kind of engine: opened by name, asked, compared; what cannot be is one clear line."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foretoken.audit.engines import parse
from foretoken.audit.run import Watch
from foretoken.errors import ConfigError
from foretoken.types import Sampling
from tests import tiny
from tests.unit.audit.helper import PROMPT, audit, bent, reference, setup, write

FILE = str(Path(__file__).with_name("engine_file.py"))
MODULE = "tests.unit.audit.engine_file"


@pytest.mark.parametrize(
    "name", ["foretoken:plain", "foretoken:random:verifier=walk,nodes=6", "foretoken:prompt-lookup"]
)
def test_our_engine_passes(name: str) -> None:
    report = audit(setup(), [name], [PROMPT, [5, 4, 5, 4]])
    [result] = report.engines
    assert result.verdict == "exact as far as tested"
    assert result.greedy is not None
    assert (result.greedy.same, result.greedy.tokens) == (2, 24)
    assert result.sampling is not None
    assert result.sampling.samples == 600
    assert (result.sampling.tokens_per_step or 0) >= 1.0
    if "random" in name:
        assert (result.sampling.tokens_per_step or 0) > 1.1


@pytest.mark.parametrize("name", ["hf", "hf-prompt-lookup"])
def test_transformers_generate(name: str) -> None:
    few = 600 if name == "hf" else 200
    [result] = audit(setup(), [name], samples=few).engines
    assert not result.failed
    assert result.greedy is not None
    assert result.greedy.same == 1
    if name != "hf":
        assert (result.sampling.tokens_per_step or 0) > 1.0  # type: ignore[union-attr]


def test_transformers_with_an_assistant(monkeypatch: pytest.MonkeyPatch) -> None:
    given = setup()
    monkeypatch.setattr(type(given), "open_transformers", lambda self, name: bent("six"))
    [result] = audit(given, ["hf-assistant:anything"], sampling=False).engines
    assert not result.failed
    assert result.greedy is not None
    assert result.greedy.same == 1
    monkeypatch.setattr(type(given), "open_transformers", lambda self, name: bent("llama"))
    with pytest.raises(ConfigError, match="vocabulary"):
        audit(given, ["hf-assistant:anything"])


def test_a_model_that_is_another_is_a_fault_in_greedy_and_sampled_text() -> None:
    given = setup()
    given.__dict__["transformers"] = bent("six")
    [result] = audit(given, ["hf"]).engines
    assert result.failed
    assert result.greedy is not None
    assert result.greedy.faults > 0
    assert result.sampling is not None
    assert all(not test.passed for test in result.sampling.tests[:2]), (
        "both the first token and the joint law"
    )


def test_functions_by_file_and_by_module() -> None:
    names = [f"python:{FILE}:right", f"python:{MODULE}:cooler", f"python:{FILE}:stops"]
    right, cooler, stops = audit(setup(), names, samples=1000).engines
    assert not right.failed
    assert cooler.greedy is not None
    assert not cooler.greedy.faults  # a wrong temperature is no fault of greedy text
    assert cooler.sampling is not None
    assert cooler.sampling.failed
    assert next(t for t in cooler.sampling.tests if "surprise" in t.what).passed is False
    assert stops.sampling is not None
    assert stops.sampling.short == 1000
    assert stops.failed


def test_an_impossible_token_is_a_fault_at_once() -> None:
    """The function does not know top-k: what lies outside is no matter of statistics."""
    given = setup(sampling=Sampling(temperature=1.0, top_k=3))
    [result] = audit(given, [f"python:{FILE}:right"], samples=200).engines
    assert result.sampling is not None
    assert result.sampling.impossible
    assert result.failed


def test_functions_that_misbehave() -> None:
    with pytest.raises(ConfigError, match="list of token ids"):
        audit(setup(), [f"python:{FILE}:words"])
    [result] = audit(setup(), [f"python:{FILE}:breaks"]).engines
    assert "KeyError: 'no such page'" in result.error


class StandIn:
    """As vLLM's class behaves, with a tiny model behind it."""

    def __init__(self, model: str, **options: Any) -> None:
        self.model, self.options = tiny.model(model), options

    def generate(self, prompts: list[Any], settings: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        rows = [
            write(self.model, p["prompt_token_ids"], s.max_tokens, s.temperature, s.seed or 0)
            for p, s in zip(prompts, settings, strict=True)
        ]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(row))]) for row in rows]


class Params:
    def __init__(
        self, temperature: float, max_tokens: int, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        self.temperature, self.max_tokens, self.seed = temperature, max_tokens, seed


def test_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="not installed"):
        parse("vllm:six", "fixed")
    stand_in = SimpleNamespace(LLM=StandIn, SamplingParams=Params, __version__="0.0")
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    [result] = audit(setup(), ['vllm:six:{"seed": 1}'], samples=400).engines
    assert not result.failed
    assert '"seed": 1' in result.what
    assert result.greedy is not None
    assert result.greedy.same == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("magic", "hf-prompt-lookup"),
        ("foretoken:", "foretoken:METHOD"),
        ("foretoken:magic", "magic"),
        ("foretoken:plain,aded,random", "foretoken:METHOD"),
        ("hf:7", "without options"),
        ("hf-assistant", "FOLDER"),
        ("python:tests", "python:MODULE:FUNCTION"),
        ("python:no.such.module:f", "no.such"),
        ("python:nofile.py:f", "nofile.py"),
        (f"python:{FILE}:nothing", "nothing"),
        ("http:ftp://x", "http://"),
        ("vllm:", "vllm:FOLDER"),
        ("vllm:x:{oops", "JSON"),
    ],
)
def test_bad_names_are_one_clear_line(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(name, "fixed")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_an_engine_cannot_is_said() -> None:
    class Half:
        name, what, tokens_per_step = "half", "a stand-in", None
        cannot = {"sampling": "it knows no seed"}

        def greedy(self, prompt: list[int], n: int) -> list[int]:
            return write(tiny.model("six"), prompt, n, 0.0, 0)

    given = setup()
    from foretoken.audit.run import Audit, Wanted, empty_report

    asked = Wanted(samples=300)
    run = Audit(given, asked, [PROMPT], empty_report(given, asked, 1, [], ""))
    run.run({"half": Half})
    [result] = run.report.engines
    assert result.skipped == {"sampling": "it knows no seed"}
    assert result.sampling is None
    assert result.verdict == "exact as far as tested"


def test_an_engine_that_breaks_off_is_reported_and_the_next_one_audited() -> None:
    """Opening, writing or drawing: what was finished stays, and it is closed."""
    closed = []

    class Breaks:
        what, tokens_per_step, cannot = "a stand-in", None, {}

        def __init__(self, where: str) -> None:
            self.name, self.where = where, where
            if where == "open":
                raise RuntimeError("no such kernel\nand a long story")

        def greedy(self, prompt: list[int], n: int) -> list[int]:
            if self.where == "greedy":
                raise OSError("the process ended")
            return write(tiny.model("six"), prompt, n, 0.0, 0)

        def sample(self, *_: object) -> list[list[int]]:
            raise RuntimeError("not with a draft model")

        def close(self) -> None:
            closed.append(self.name)

    given = setup()
    from foretoken.audit.run import Audit, Wanted, empty_report

    asked = Wanted(samples=300)
    run = Audit(given, asked, [PROMPT], empty_report(given, asked, 1, [], ""))
    ours = parse("foretoken:plain", "fixed")
    wheres = ("open", "greedy", "sample")
    run.run({**{w: partial(Breaks, w) for w in wheres}, "plain": partial(ours, given)})
    by_name = {result.engine: result for result in run.report.engines}
    assert by_name["open"].error == "no such kernel"
    assert by_name["greedy"].error == "the process ended"
    assert by_name["sample"].error == "not with a draft model"
    assert by_name["sample"].greedy is not None
    assert by_name["sample"].greedy.tokens > 0
    assert {by_name[w].verdict for w in wheres} == {"it broke off"}
    assert by_name["foretoken:plain"].verdict == "exact as far as tested"
    assert run.report.failed
    assert closed == ["greedy", "sample"]


class Interrupt(Watch):
    """Ctrl-C after so many samples."""

    def __init__(self, after: int) -> None:
        self.after = after

    def advance(self, by: int = 1) -> None:
        self.after -= by
        if self.after <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("after", "kept"), [(300, 512), (1, None)])
def test_an_interrupt_keeps_what_was_produced(after: int, kept: int | None) -> None:
    report = audit(
        setup(), ["foretoken:plain", "foretoken:random"], watch=Interrupt(after), greedy=after > 1
    )
    assert report.interrupted
    [result] = report.engines
    if kept is None:
        assert result.sampling is not None
        assert result.sampling.samples == 256
    else:
        assert result.greedy is not None
        assert result.sampling is not None
        assert result.sampling.samples == kept
    assert not report.failed


def test_the_reference_of_a_lower_precision_has_its_weights(monkeypatch: Any) -> None:
    given = setup()
    assert given.transformers is given.reference.model
    low = reference()
    low.dtype = torch.bfloat16
    given = setup()
    given.reference = low
    monkeypatch.setattr(type(given), "open_transformers", lambda self, name: name)
    assert given.transformers == "six"
