"""Greedy text equals transformers' `generate`, token for token: every family, every drafter."""

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from foretoken import registry
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.learn.trigram import TrigramBuilder
from foretoken.target.hf import HFTarget
from foretoken.target.load import set_attention
from foretoken.types import Request
from tests import tiny

DRAFTERS = registry.names("drafter")
NEW = 20


@cache
def truth(family: str) -> tuple[list[list[int]], list[list[int]]]:
    """Three prompts, of lengths 1, 5 and 14, and what `generate` writes after them."""
    prompts = [tiny.prompt(i, n) for i, n in ((1, 14), (2, 5), (3, 1))]
    return prompts, tiny.generate(family, prompts, NEW)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_in_mixed_company(family: str) -> None:
    """Every drafter on every prompt, 8 riding together, the others joining as seats get free."""
    target = tiny.target(family)
    prompts, expected = truth(family)
    engine = Engine(target, method="plain", max_sessions=8)
    sessions = []
    for i, name in enumerate(DRAFTERS * 2):
        which, new = i % 3, NEW - i % 4
        method = tiny.method(target, name, expected[which], nodes=3 + i)
        sessions.append((which, engine.add(tiny.request(prompts[which], new), method)))
    widest = 0
    while steps := engine.step():
        widest = max(widest, len(steps))
    assert widest == min(8, len(sessions))
    for which, session in sessions:
        assert session.output == expected[which][: session.request.limits.max_new_tokens]
        assert session.finish_reason == "length"


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_every_drafter_alone(family: str, name: str) -> None:
    target = tiny.target(family)
    prompts, expected = truth(family)
    for tokens, known in zip(prompts, expected, strict=True):
        done = tiny.decode(target, tiny.request(tokens, NEW), name, known)
        assert done.tokens == known


def test_the_oracle_saves_steps() -> None:
    """What drafts well is accepted: one step where plain decoding needs twenty."""
    prompts, expected = truth("llama")
    done = tiny.Engine(tiny.target("llama"), method="plain").run(
        [tiny.request(prompts[0], NEW)],
        tiny.method(tiny.target("llama"), "oracle", expected[0], nodes=32),
    )[0]
    assert done.tokens == expected[0]
    assert (done.stats.steps, done.stats.accepted) == (1, NEW - 1)


class TestTables:
    """methods/aded.md, faithfulness check 1: 50 prompts x 64 tokens under any table."""

    PROMPTS = [tiny.prompt(i, 6, 32) for i in range(50)]

    @pytest.fixture(scope="class")
    def expected(self) -> list[list[int]]:
        return tiny.generate("small", self.PROMPTS, 64)

    @pytest.fixture(params=["empty", "random", "adversarial", "right"])
    def table(self, request: pytest.FixtureRequest, tmp_path: Path, expected) -> Path | None:
        dice = random.Random(1)
        texts = {
            "random": [dice.choices(range(32), k=2000)],
            # after every pair that will occur, whatever the target does not write there
            "adversarial": [
                [a, b, (c + 1) % 32]
                for p, e in zip(self.PROMPTS, expected, strict=True)
                for t in [p + e] for a, b, c in zip(t, t[1:], t[2:], strict=False)
            ],
            "right": [p + e for p, e in zip(self.PROMPTS, expected, strict=True)],
        }.get(request.param)  # fmt: skip
        if texts is None:
            return None
        builder = TrigramBuilder(tmp_path / "work", 32)
        for text in texts:
            builder.add(np.array(text))
        builder.finish(tmp_path / "aded.table", "")
        return tmp_path / "aded.table"

    def test_text_stays_under_any_table(
        self, table: Path | None, expected: list[list[int]]
    ) -> None:
        target = tiny.target("small")
        engine = Engine(
            target, method="aded", options={"table": table, "scope": "process"} if table else None,
            policy="fixed", policy_options={"nodes": 8}, max_sessions=25,
        )  # fmt: skip
        done = engine.run([tiny.request(p, 64) for p in self.PROMPTS])
        assert [c.tokens for c in done] == expected
        assert sum(c.stats.drafted for c in done) > 0


class TestBitwise:
    """exact="bitwise": in bfloat16, too, and down to the bits of the logits."""

    @pytest.fixture(scope="class", params=[32, 256])
    def target(self, request: pytest.FixtureRequest) -> HFTarget:
        h = request.param
        config = tf.LlamaConfig(
            vocab_size=97, hidden_size=h, intermediate_size=2 * h, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = tiny.make(config, std=1.5 * h**-0.5).to(torch.bfloat16)
        set_attention(model, "bitwise")
        return HFTarget(model, exact="bitwise")

    @pytest.mark.parametrize("name", DRAFTERS)
    def test_tokens_and_logits_are_those_of_plain_decoding(
        self, target: HFTarget, name: str
    ) -> None:
        prompts = [tiny.prompt(i, n) for i, n in ((1, 12), (2, 40))]
        requests = [
            Request(p, limits=tiny.Limits(max_new_tokens=12), keep_logits=True) for p in prompts
        ]
        plain = self.run(target, requests, tiny.method(target, "plain"))
        known = plain[0].tokens
        for drafted in (
            self.run(target, requests, tiny.method(target, name, known, nodes=8)),
            [
                self.run(target, [r], tiny.method(target, name, known, nodes=20))[0]
                for r in requests
            ],
        ):
            for one, other in zip(plain, drafted, strict=True):
                assert one.tokens == other.tokens
                assert all(torch.equal(a, b) for a, b in zip(one.logits, other.logits, strict=True))

    @staticmethod
    def run(target: HFTarget, requests: list[Request], method: Method) -> list:
        return Engine(target, method="plain").run(requests, method)


def test_a_wrong_cache_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parity test can fail: keeping the wrong draft rows changes the text."""
    from foretoken.target.cache import SlotCache

    prompts, expected = truth("llama")
    target = tiny.fresh_target("llama")
    method = build(
        target, tiny.context(), tiny.drafter("corrupt", expected[0]), "fixed", "walk",
        None, {"nodes": 6},
    )  # fmt: skip
    right = SlotCache.keep

    def wrong(self: SlotCache, path: list[int]) -> None:
        right(self, [max(node - 1, 0) for node in path])

    monkeypatch.setattr(SlotCache, "keep", wrong)
    done = Engine(target, method="plain").run([tiny.request(prompts[0], NEW)], method)[0]
    assert done.tokens != expected[0]
