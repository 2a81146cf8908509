"""`lm`: the model is found and checked before any work, the chain and its q are right."""

import copy
import gc
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from foretoken.draft.base import Context
from foretoken.draft.lm import Lm
from foretoken.draft.lm_model import _shared
from foretoken.engine.build import build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError, ForetokenError
from foretoken.prompt.sampling import Warper
from foretoken.prompt.tokens import tokenizer_hash
from foretoken.types import Budget, Sampling, Session

CONTEXT, GREEDY = tiny.context(32), Sampling()


def lm(model: Any, context: Context = CONTEXT, **values: Any) -> Lm:
    return Lm(options(Lm.Options, {"model": model, **values}, "lm"), context)


def tokenizer(words: str) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model of 32 tokens, without a tokenizer."""
    tiny.model("small").save_pretrained(tmp_path / "drafter")
    return tmp_path / "drafter"


@pytest.fixture
def session():
    """A session of the target "small" in its first step, drafted for by what the test makes."""
    engines = []

    def add(drafter: Lm, sampling: Sampling = GREEDY, **limits: Any) -> Session:
        engine = Engine(tiny.target("small"), method="plain")
        method = build(tiny.target("small"), CONTEXT, drafter, "fixed", "walk")
        request = tiny.request(tiny.prompt(1, 9, 32), 30, sampling, **limits)
        engines.append((engine, engine.add(request, method)))
        return engines[-1][1]

    yield add
    for engine, one in engines:
        one.drafter.end(one)
        engine.cancel(one)


class TestTheModel:
    def test_none_is_given(self, tmp_path: Path) -> None:
        for context in (CONTEXT, replace(CONTEXT, assets=tmp_path)):
            with pytest.raises(ConfigError, match=r"^lm.model: None .* target's vocabulary"):
                lm(None, context)

    def test_it_lies_beside_the_target(self, folder: Path) -> None:
        found = lm(None, replace(CONTEXT, assets=folder.parent))
        assert found.model.name == str(folder)
        assert found.model.target.vocab == 32

    def test_another_vocabulary(self, folder: Path) -> None:
        for model in (folder, tiny.target("llama"), copy.deepcopy(tiny.model("six"))):
            with pytest.raises(ConfigError, match=r"^lm.model: .*target's 33 tokens.* (32|97|6)$"):
                lm(model, replace(CONTEXT, vocab=33))

    def test_another_tokenizer(self, folder: Path) -> None:
        tokenizer("abc").save_pretrained(folder)
        known = replace(CONTEXT, tokenizer_hash=tokenizer_hash(tokenizer("abd")))
        with pytest.raises(ConfigError, match=r"^lm.model: .*drafter.*the target's tokenizer"):
            lm(str(folder), known)
        lm(str(folder), replace(CONTEXT, tokenizer_hash=tokenizer_hash(tokenizer("abc"))))
        lm(str(folder))  # the target's is not known

    def test_no_tokenizer_is_no_reason(self, folder: Path) -> None:
        lm(folder, replace(CONTEXT, tokenizer_hash="of another"))

    @pytest.mark.parametrize("wrong", ["/not/there", 3.5, ["a"]])
    def test_what_is_no_model(self, wrong: Any) -> None:
        with pytest.raises(ConfigError, match=r"^lm.model: .*a folder") as error:
            lm(wrong)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("name", "value"), [("depth", 0), ("temperature", 0.0), ("modle", "x")]
    )
    def test_options_are_closed(self, name: str, value: Any) -> None:
        with pytest.raises(ConfigError, match=rf"^lm.{name}: {value!r}"):
            options(Lm.Options, {name: value}, "lm")

    def test_drafters_share_a_model_while_they_live(self, folder: Path) -> None:
        one, two = lm(str(folder)), lm(folder / ".." / "drafter")
        assert one.model is two.model
        model = tiny.make(copy.deepcopy(tiny.model("small").config))
        three, four = lm(model), lm(model)
        assert three.model is four.model is not one.model
        assert lm(three.model.target).model.target is three.model.target
        before = len(_shared)
        del one, two, three, four
        gc.collect()
        assert len(_shared) < before


class TestTheChain:
    def test_it_is_what_the_model_would_write(self, session) -> None:
        drafter = lm(tiny.target("small"), depth=5)
        text = session(drafter)
        tree = drafter.propose(text, Budget(9))
        assert tree.is_chain
        assert [tree.tokens] == [
            tuple(row) for row in tiny.generate("small", [text.request.prompt], 5)
        ]
        assert drafter.propose(text, Budget(3)).tokens == tree.tokens[:3]
        assert drafter.propose(text, Budget(9, depth=2)).tokens == tree.tokens[:2]
        least = tree.joint[2]
        assert len(drafter.propose(text, Budget(9, min_prob=least * 1.01))) == 2
        assert len(drafter.propose(text, Budget(9, min_prob=least * 0.99))) >= 3

    def test_nothing_follows_the_end_of_the_text(self, session) -> None:
        drafter = lm(tiny.target("small"))
        plain = drafter.propose(session(drafter), Budget(6)).tokens
        ends = session(drafter, eos_token_ids=(plain[2],))
        assert drafter.propose(ends, Budget(6)).tokens == plain[: plain.index(plain[2]) + 1]
        goes_on = session(drafter, eos_token_ids=(plain[2],), ignore_eos=True)
        assert drafter.propose(goes_on, Budget(6)).tokens == plain

    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": 0.7, "top_k": 9, "top_p": 0.9},
            {"temperature": 1.0, "repetition_penalty": 1.5, "frequency_penalty": 0.4},
            {"temperature": 1.0, "no_repeat_ngram_size": 2, "min_p": 0.05},
            {"repetition_penalty": 3.0},
            {},
        ],
    )
    def test_q_is_processed_as_p_is(self, session, fields: dict[str, Any]) -> None:
        drafter = lm(tiny.target("small"), depth=4)
        text = session(drafter, Sampling(**fields))
        tree = drafter.propose(text, Budget(4))
        history = list(text.tokens)
        for token, q in zip(tree.tokens, tree.q, strict=True):
            row = text.warper.warp(tiny.plain_logits("small", history)[-1], history).softmax(-1)
            assert int(row.argmax()) == token
            assert q == pytest.approx(float(row[token]), abs=1e-5)
            history.append(token)

    def test_its_own_temperature(self, session) -> None:
        """It takes the place of all processing in drawn text, and is nothing to greedy text."""
        drafter = lm(tiny.target("small"), temperature=0.5)
        drawn = session(drafter, Sampling(temperature=1.3, top_k=2))
        row = (tiny.plain_logits("small", drawn.tokens)[-1] / 0.5).softmax(-1)
        assert drafter.propose(drawn, Budget(1)).q[0] == pytest.approx(float(row.max()), abs=1e-5)
        greedy = session(drafter)
        row = tiny.plain_logits("small", greedy.tokens)[-1].softmax(-1)
        assert drafter.propose(greedy, Budget(1)).q[0] == pytest.approx(float(row.max()), abs=1e-5)

    def test_a_users_processor_sees_no_draft(self, session) -> None:
        """It may count its calls; the others still shape q."""
        calls = []
        spy = lambda ids, scores: calls.append(1) or scores
        drafter = lm(tiny.target("small"))
        text = session(drafter, Sampling(temperature=1.0, top_k=3, processors=(spy,)))
        row = tiny.plain_logits("small", text.tokens)[-1].topk(3).values.softmax(-1)
        assert drafter.propose(text, Budget(1)).q[0] == pytest.approx(float(row[0]), abs=1e-5)
        assert not calls

    def test_a_broken_model_is_seen(self, session) -> None:
        model = copy.deepcopy(tiny.model("small"))
        model.lm_head.weight.data[3] = math.nan
        drafter = lm(model)
        for sampling in (Sampling(), Sampling(temperature=1.0)):
            with pytest.raises(ForetokenError, match="token 9: .*NaN"):
                drafter.propose(session(drafter, sampling), Budget(3))


def test_only_what_is_new_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """All accepted: the last node, which was not scored, and the bonus; else the bonus alone."""
    drafter = lm(tiny.fresh_target("small"), depth=4)
    small, read = drafter.model.target, []
    score = small.score

    def spy(jobs: list[Any]) -> Any:
        read.append([(len(job.fresh), len(job.tree) - job.scored) for job in jobs])
        return score(jobs)

    monkeypatch.setattr(small, "score", spy)
    for right, fresh in ((True, 2), (False, 1)):
        read.clear()
        sampling = Sampling() if right else Sampling(logit_bias={7: 100.0})
        target = tiny.fresh_target("small")
        if not right:  # the small model does not know of the bias
            drafter.options = drafter.options.model_copy(update={"temperature": 1.0})
            sampling = sampling.model_copy(update={"temperature": 1.0})
        method = build(target, CONTEXT, drafter, "fixed", "walk", None, {"nodes": 4})
        request = tiny.request(tiny.prompt(1, 9, 32), 21, sampling)
        Engine(target, method="plain").run([request], method)
        assert read[:4] == [[(9, 0)], [(0, 1)], [(0, 1)], [(0, 1)]]
        assert [jobs[0] for jobs in read[4:] if jobs[0][0]][:3] == [(fresh, 0)] * 3


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7, "top_p": 0.8, "min_p": 0.02, "eta_cutoff": 0.01},
        {"temperature": 0.7, "top_k": 12, "top_p": 0.8, "typical_p": 0.9},
        {"temperature": 1.0, "repetition_penalty": 1.3, "bad_words_ids": ((1, 2), (4,))},
        {"logit_bias": {3: 5.0}, "min_new_tokens": 9, "suppress_tokens": (8,)},
        {"temperature": 1.0, "presence_penalty": 0.5},
    ],
)
@pytest.mark.parametrize("paths", [[[1, 2], [1, 4], [3, 3]], [[], [5], [5, 6]]])
def test_rows_at_once_are_the_rows_one_by_one(fields: dict[str, Any], paths: Any) -> None:
    warper, text = Warper(Sampling(**fields), [5, 6, 1], (0,), 20, 32), [5, 6, 1, 2, 4]
    logits = torch.randn(len(paths), 32, generator=torch.Generator().manual_seed(1)) * 3
    rows = warper.warp_rows(logits, text, paths)
    for row, own, path in zip(rows, logits, paths, strict=True):
        assert torch.equal(row, warper.warp(own, [*text, *path]))


def test_rows_at_once_are_refused_like_one() -> None:
    warper = Warper(Sampling(temperature=1.0, top_k=5), [5], (), 20, 8)
    logits = torch.zeros(3, 8)
    logits[1, 2] = math.nan
    with pytest.raises(ForetokenError, match="token 3: .*NaN"):
        warper.warp_rows(logits, [5, 6], [[1], [2], [3]])
