"""transformers' own decoding as a contestant."""

from __future__ import annotations

import pytest

from foretoken.bench.contest import Plan
from foretoken.bench.peers.hf import Peer
from foretoken.bench.peers.together import check_peers
from foretoken.bench.results import make_report
from foretoken.errors import ConfigError
from foretoken.types import Sampling
from tests import tiny
from tests.unit.bench import helper

HF = ("hf", "hf-prompt-lookup", "hf-assistant")


def test_peers_write_plains_text_in_float32() -> None:
    peers = [Peer(name, tiny.model("llama"), tiny.model("llama")) for name in HF]
    plan = Plan(max_new_tokens=20, repeats=1, cut_loops=False)
    out = helper.compare(plan, helper.prompts(2), "plain", more=peers)
    report = make_report(out, tiny.target("llama"))
    assert not report.failed
    for name in HF:
        result = report.of(name)
        assert result.peer
        assert result.identical is True
        assert result.new_tokens == 2 * 20
        assert result.seconds is None
        assert result.ratio_to_plain is not None
        assert result.own_plain == (None if name == "hf" else "hf")
        assert result.first_token_s is not None
    assert report.of("hf").tokens_per_step == 1.0
    assert (report.of("hf-prompt-lookup").tokens_per_step or 0) > 1.0


def test_a_peer_that_writes_something_else_is_found_out() -> None:
    other = Peer("hf", tiny.make(tiny.FAMILIES["llama"](), seed=1))
    plan = Plan(max_new_tokens=8, repeats=1, cut_loops=False)
    report = make_report(
        helper.compare(plan, helper.prompts(1), "plain", more=[other]), tiny.target("llama")
    )
    assert not report.failed, "ours are right"
    assert report.of("plain").tokens_per_s is not None
    assert report.of("hf").identical is False
    assert report.of("hf").tokens_per_s is None


def test_sampled_texts_of_peers_are_not_compared() -> None:
    peer = Peer("hf", tiny.model("llama"))
    plan = Plan(max_new_tokens=8, repeats=1, cut_loops=False,
                sampling=Sampling(temperature=0.7, top_p=0.9, top_k=20))  # fmt: skip
    report = make_report(
        helper.compare(plan, helper.prompts(1), "plain", more=[peer]), tiny.target("llama")
    )
    assert not report.failed
    assert report.of("hf").identical is None
    assert report.of("hf").new_tokens == 8


@pytest.mark.parametrize(
    ("names", "plan", "says"),
    [
        (["tgi"], Plan(), "hf-prompt-lookup"),
        (["onnx"], Plan(sampling=Sampling(min_p=0.1)), "min_p"),
        (["openvino"], Plan(batch=2), "--batch"),
        (["hf"], Plan(forced=True), "--forced"),
        (["hf"], Plan(batch=2), "--batch"),
        (["hf"], Plan(sampling=Sampling(presence_penalty=1.0)), "presence_penalty"),
    ],
)
def test_what_peers_cannot_do_is_refused(names: list[str], plan: Plan, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_peers(names, plan)
    assert says in str(caught.value)
