"""Drafters with another tokenizer: one tokenizer is `lm`, memory follows the text, refusals."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.contract.test_lm_cache import SAMPLING, NowAndThen, Scripted, same, watch
from tests.tokenizers_of_kinds import KINDS, byte_bpe, bytes_only, characters, fallback, unigram
from tokenizers import Tokenizer

from foretoken import registry
from foretoken.draft.base import Context
from foretoken.draft.foreign import Foreign
from foretoken.draft.lm import Lm
from foretoken.draft.lm_sampled import LmSampled
from foretoken.draft.lm_slem import encoded_behind, first_behind, translated
from foretoken.draft.lm_slrs import LmSlrs
from foretoken.draft.lm_tli import LmTli
from foretoken.draft.omnidraft import CACHE, OmniDraft
from foretoken.draft.spelling import Spelling
from foretoken.draft.vocabularies import Vocabularies
from foretoken.engine.build import build, options
from foretoken.engine.engine import Engine
from foretoken.errors import CapabilityError, ConfigError
from foretoken.prompt.samples import demo_model
from foretoken.prompt.tokens import load_tokenizer
from foretoken.target.hf import HFTarget
from foretoken.target.load import load
from foretoken.tree import DraftTree
from foretoken.types import Budget, Limits, Request, Sampling, Session

V = 32
NAMES = ["lm-tli", "lm-slem", "lm-slrs", "omnidraft"]


def make(name: str, context: Context | None = None, **values: Any) -> Foreign:
    """Of the target "small" and the foreign model of the contract tests."""
    cls = registry.find("drafter", name)
    given = {"model": tiny.foreign_model(), "tokenizer": tiny.foreign_tokenizer(), **values}
    made: Foreign = cls(options(cls.Options, given, name), context or tiny.context(V))
    return made


class TestOneTokenizer:
    """The map is the identity, nothing is re-encoded, the n-grams stay empty: a form of `lm`."""

    @pytest.mark.parametrize("setting", SAMPLING)
    @pytest.mark.parametrize(
        ("name", "plain"),
        [("lm-tli", LmSampled), ("lm-slrs", LmSampled), ("lm-slem", Lm), ("omnidraft", Lm)],
    )
    def test_the_drafts_are_those_of_lm(self, name: str, plain: type, setting: str) -> None:
        model, target, trees = tiny.small_model(V), tiny.target("small"), []
        own = {"model": model, "tokenizer": tiny.tokenizer(V), "depth": 4}
        for made in (
            make(name, **own),
            plain(plain.Options(model=model, depth=4), tiny.context(V)),
        ):
            seen: list[DraftTree] = []
            watch(made, lambda _, found, seen=seen: seen.extend(found))
            chosen = build(target, made.context, made, "fixed", Scripted(), None, {"nodes": 4})
            sampling = Sampling(**SAMPLING[setting], seed=3)
            Engine(target, method="plain").run(
                [tiny.request(tiny.prompt(1, 9, V), 30, sampling)], chosen
            )
            trees.append(seen)
        assert len(trees[0]) == len(trees[1]) > 5
        for one, other in zip(*trees, strict=True):
            same(one, other)
        assert max(map(len, trees[0])) == 4

    @pytest.mark.parametrize("rule", ["exact", "paper"])
    def test_nothing_becomes_an_ngram(self, rule: str) -> None:
        own = {"model": tiny.small_model(V), "tokenizer": tiny.tokenizer(V), "scope": "process"}
        made = make("omnidraft", rule=rule, **own)
        chosen = build(tiny.target("small"), made.context, made, "fixed", None, None, {"nodes": 4})
        requests = [tiny.request(tiny.prompt(s, 9, V), 20) for s in range(3)]
        done = Engine(tiny.target("small"), method="plain").run(requests, chosen)
        assert [c.tokens for c in done] == tiny.generate("small", [r.prompt for r in requests], 20)
        assert made.state()["stores"] == {"": []}

    def test_the_paper_rule_is_then_ordinary_speculative_sampling(self) -> None:
        own = {"model": tiny.small_model(V), "tokenizer": tiny.tokenizer(V), "depth": 4}
        drafts = []
        for name, values in (("omnidraft", {"rule": "paper"}), ("lm-tli", {})):
            made = make(name, **own, **values)
            session = started(made, Sampling(temperature=0.8, seed=4))
            drafts.append(made.propose(session, Budget(4)))
            made.end(session)
        same(*drafts)
        assert drafts[0].dist_row == [0, 1, 2, 3] == list(drafts[1].dist_row)

    def test_padded_rows_are_no_reason(self) -> None:
        """A model with more rows than its tokenizer, or the target's."""
        model = tiny.make(tiny.tf.LlamaConfig(**{**tiny.ONE_LAYER, "vocab_size": V + 8}), 5)
        made = make("lm-tli", model=model, tokenizer=tiny.tokenizer(V))
        assert made.pair.same
        session = started(made, Sampling(temperature=1.0))
        tree = made.propose(session, Budget(5))
        made.end(session)
        assert tree.dist.shape == (5, V)
        torch.testing.assert_close(tree.dist.sum(-1), torch.ones(5))


def started(made: Foreign, sampling: Sampling | None = None, tokens: Any = None) -> Session:
    """A session that begins, outside any engine's loop. Call `made.end`."""
    engine = Engine(tiny.target("small"), method="plain")
    chosen = build(tiny.target("small"), made.context, made, "fixed")
    session = engine.add(tiny.request(tokens or tiny.prompt(1, 9, V), 30, sampling), chosen)
    made.begin(session)
    return session


class TestMemory:
    @pytest.mark.parametrize("setting", ["greedy", "processed"])
    @pytest.mark.parametrize("name", [*NAMES, "omnidraft as published"])
    def test_every_draft_is_that_of_a_fresh_drafter(self, name: str, setting: str) -> None:
        """Whatever stood, whatever became of the tokens before; plain steps between."""
        published = {"rule": "paper"} if "published" in name else {}
        made = make(name.split(maxsplit=1)[0], **published)
        chosen = build(
            tiny.target("small"), made.context, made, NowAndThen(), Scripted(), None, None
        )
        compared = []

        def spy(asked: Any, trees: list[DraftTree]) -> None:
            for (session, budget), tree in zip(asked, trees, strict=True):
                other = replace(session, memo={})
                if CACHE in session.memo:  # the n-grams are what was learned
                    other.memo[CACHE] = session.memo[CACHE]
                other.drafter = type(made)(made.options, made.context)
                same(tree, other.drafter.propose(other, budget))
                super(type(made), other.drafter).end(other)
                compared.append(len(tree))

        watch(made, spy)
        sampling = Sampling(**SAMPLING[setting], seed=2)
        Engine(tiny.target("small"), method="plain").run(
            [
                tiny.request(tiny.prompt(i, n, V), 14 + 6 * i, sampling)
                for i, n in enumerate((1, 14, 5))
            ],
            chosen,
        )
        assert len(compared) > 6
        assert sum(map(bool, compared)) > 6
        assert not tiny.foreign_model().pool.handles

    @pytest.mark.parametrize("name", ["lm-tli", "lm-slem", "omnidraft"])
    def test_only_what_is_new_is_read(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """After the prompt a few tokens a step, whatever is accepted or re-encoded."""
        made, read = make(name), []
        small = made.model.target
        score = small.score

        def spy(jobs: list[Any]) -> Any:
            read.extend(len(job.fresh) for job in jobs if job.fresh)
            return score(jobs)

        monkeypatch.setattr(small, "score", spy)
        chosen = build(tiny.target("small"), made.context, made, "fixed", None, None, {"nodes": 4})
        Engine(tiny.target("small"), method="plain").run(
            [tiny.request(tiny.prompt(1, 40, V), 30)], chosen
        )
        assert read[0] > 40
        assert max(read[1:]) <= 6
        assert len(read) > 10

    @pytest.mark.parametrize("name", NAMES)
    def test_a_text_beyond_the_small_models_context(self, name: str) -> None:
        config = {**tiny.ONE_LAYER, "vocab_size": 11, "max_position_embeddings": 40}
        made = make(name, model=tiny.make(tiny.tf.LlamaConfig(**config), 3))
        chosen = build(tiny.target("small"), made.context, made, "fixed", None, None, {"nodes": 4})
        lengths: dict[int, int] = {}

        def spy(asked: Any, trees: list[DraftTree]) -> None:
            for (session, _), tree in zip(asked, trees, strict=True):
                lengths[len(session.memo[name].transcript.ids)] = tree.depth

        watch(made, spy)
        prompts = [tiny.prompt(1, 12, V), tiny.prompt(2, 40, V)]
        done = Engine(tiny.target("small"), method="plain").run(
            [tiny.request(p, 20) for p in prompts], chosen
        )
        assert [c.tokens for c in done] == tiny.generate("small", prompts, 20)
        assert any(depth for n, depth in lengths.items() if n <= 40)
        assert {depth for n, depth in lengths.items() if n > 40} == {0}


class TestTheModel:
    def test_lm_names_both_sizes_and_the_way_out(self) -> None:
        with pytest.raises(ConfigError, match=r"target's 32 tokens.*lm-tli.*11$") as error:
            Lm(Lm.Options(model=tiny.foreign_model()), tiny.context(V))
        assert "omnidraft" in str(error.value)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_folder_brings_its_tokenizer(self, name: str, tmp_path: Path) -> None:
        """Through an engine, which tells drafters the target's."""
        tiny.foreign_model().model.save_pretrained(tmp_path / "small")
        with pytest.raises(CapabilityError, match=f"'{name}'.*small model comes without") as _kept:
            make(name, model=str(tmp_path / "small"), tokenizer=None)
        # a notebook keeps that error, and with it the model: the tokenizer is looked for again
        tiny.foreign_tokenizer().save_pretrained(tmp_path / "small")
        engine = Engine(
            tiny.target("small"), tiny.tokenizer(V), method=name, policy="fixed",
            options={"model": str(tmp_path / "small")},
        )  # fmt: skip
        done = engine.run([tiny.request(tiny.prompt(1, 9, V), 12)])
        assert [done[0].tokens] == tiny.generate("small", [tiny.prompt(1, 9, V)], 12)
        assert done[0].stats.drafted > 0
        assert done[0].guarantee == "exact"

    def test_a_tokenizer_by_name(self, tmp_path: Path) -> None:
        tiny.foreign_tokenizer().save_pretrained(tmp_path)
        assert make("lm-slem", tokenizer=str(tmp_path)).pair.shared > 4
        with pytest.raises(ConfigError, match=r"^tokenizer: .*nowhere"):
            make("lm-slem", tokenizer="/nowhere")

    @pytest.mark.parametrize("name", NAMES)
    def test_a_target_without_a_tokenizer(self, name: str) -> None:
        with pytest.raises(CapabilityError, match=f"'{name}'.*target comes without"):
            make(name, replace(tiny.context(V), tokenizer=None))

    def test_nothing_shared(self) -> None:
        with pytest.raises(CapabilityError, match="shares no token.*lm-slem") as error:
            make("lm-tli", tokenizer=characters("xyz", eos=False))
        assert "\n" not in str(error.value)
        assert len(make("lm-slem", tokenizer=characters("xyz", eos=False)).pair.report) > 20

    def test_too_many_spellings(self) -> None:
        context = Context(400, (), "", tokenizer=byte_bpe())
        with pytest.raises(CapabilityError, match="'lm-slrs'.*9 bytes.*51. spellings.*lm-slem"):
            make("lm-slrs", context, tokenizer=bytes_only())

    def test_levels_are_asked_for(self) -> None:
        made = make("lm-tli")
        made.provide(frozenset({"entropy"}))
        session, levels = started(made, Sampling(temperature=1.0)), []
        budget = Budget(6, go_on=lambda level: levels.append(level) or len(levels) < 3)
        tree = made.propose(session, budget)
        made.end(session)
        assert tree.depth == len(levels) == 3
        assert all(len(level.entropy) == 1 for level in levels)
        with pytest.raises(CapabilityError, match="entropy"):
            LmSlrs.provide(make("lm-slrs"), frozenset({"entropy"}))


class TestSharedTokens:
    def test_q_is_processed_at_the_targets_ids(self) -> None:
        """The oracle: mask, lift, process, renormalise, step by step along the chain."""
        made = make("lm-tli", depth=4)
        fields = {"temperature": 0.7, "top_k": 5, "repetition_penalty": 1.4, "logit_bias": {1: 2.0}}
        session = started(made, Sampling(**fields, seed=1))
        tree = made.propose(session, Budget(4))
        model, history = tiny.foreign_model().model, list(session.tokens)
        ids = list(session.memo["lm-tli"].transcript.ids)
        for node, token in enumerate(tree.tokens):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1:].detach()
            row = session.warper.warp(made.pair.lift(logits)[0], history)
            shared = torch.tensor(made.pair.to_drafter) >= 0
            law = row.masked_fill(~shared, -math.inf).softmax(-1)
            torch.testing.assert_close(tree.dist[node], law, atol=1e-5, rtol=1e-4)
            assert float(law[token]) == pytest.approx(tree.q[node], abs=1e-5)
            history.append(token)
            ids.append(made.pair.to_drafter[token])
        made.end(session)
        assert len(tree) == 4

    def test_processing_that_leaves_no_shared_token_ends_the_draft(self) -> None:
        made = make("lm-tli")
        shared = [t for t, ours in enumerate(made.pair.to_drafter) if ours >= 0]
        session = started(made, Sampling(temperature=1.0, suppress_tokens=tuple(shared)))
        assert len(made.propose(session, Budget(4))) == 0
        made.end(session)

    def test_the_end_of_the_text_is_drafted_and_ends_the_draft(self) -> None:
        one, other = characters("abc", [("a", "b")]), characters("ab")
        target = tiny.make(tiny.tf.LlamaConfig(**{**tiny.ONE_LAYER, "vocab_size": len(one)}))
        target.generation_config.eos_token_id = one.eos_token_id
        small = tiny.make(tiny.tf.LlamaConfig(**{**tiny.ONE_LAYER, "vocab_size": len(other)}))
        target = HFTarget(target)
        for name in NAMES:
            cls = registry.find("drafter", name)
            made = cls(
                cls.Options(model=small, tokenizer=other),
                Context(target.vocab, target.eos, "", tokenizer=one),
            )
            chosen = build(target, made.context, made, "fixed")
            request = Request([0, 1], Sampling(), Limits(max_new_tokens=9))
            session = Engine(target, method="plain").add(request, chosen)
            made.begin(session)
            ends = other.eos_token_id
            bias = torch.zeros(len(other)).index_fill(0, torch.tensor([ends]), 99.0)
            score = made.model.target.score
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    made.model.target, "score",
                    lambda jobs, score=score, bias=bias: [
                        replace(s, logits=s.logits + bias) for s in score(jobs)
                    ],
                )  # fmt: skip
                tree = made.propose(session, Budget(4))
            made.end(session)
            assert list(tree.tokens) == [one.eos_token_id], name


def pair(one: Any, other: Any) -> Vocabularies:
    ends = [() if t.eos_token_id is None else (t.eos_token_id,) for t in (one, other)]
    sizes = len(one), len(other)
    return Vocabularies(Spelling(one), Spelling(other), sizes, tuple(ends), ("one", "other"))


class TestEncodedText:
    @pytest.mark.parametrize("kind", KINDS)
    def test_text_behind_text(self, kind: str) -> None:
        spelling = Spelling(KINDS[kind]())
        known, text = b"The quick brown", b" fox jumps over"
        ids = encoded_behind(spelling, known, text)
        assert spelling.written(ids) == text
        assert spelling.encode(known + text)[-len(ids) :] == ids

    def test_a_token_before_that_would_change_stands(self) -> None:
        """Behind "th", "e" is "e", though the whole would be "the"."""
        spelling = Spelling(characters("the ", [("t", "h"), ("th", "e")]))
        ids = encoded_behind(spelling, b"e th", b"ethe")
        assert spelling.written(ids) == b"ethe"
        assert ids == [2, *spelling.encode(b"the")]
        assert first_behind(spelling, b"e th", [b"e", b"the", b"?"]) == [2, ids[1], None]

    def test_what_cannot_be_written_ends_it(self) -> None:
        spelling = Spelling(unigram())
        assert spelling.written(encoded_behind(spelling, b"the", b" dog\xff dog")) == b" dog"
        assert encoded_behind(Spelling(characters("ab")), b"a", b"zb") == []

    def test_the_start_of_a_text(self) -> None:
        spelling = Spelling(fallback())
        ids = encoded_behind(spelling, b"", b"the fox")
        assert spelling.encode(b"the fox") == ids

    def test_chains_across_kinds(self) -> None:
        found = pair(byte_bpe(), unigram())
        draft = found.drafter.encode(b"x dog sleeps")[1:]  # a space, and then words
        logs = [-0.5 * (n + 1) for n in range(len(draft))]
        tree = translated(found, b"the", draft, logs)
        written = found.drafter.written(draft)
        assert found.target.written(tree.tokens) == written
        assert tree.is_chain
        at = 0
        for token, joint in zip(tree.tokens, tree.joint, strict=True):
            at += len(found.target.piece(token))
            reach = next(
                n for n in range(len(draft)) if len(found.drafter.written(draft[: n + 1])) >= at
            )
            assert joint == pytest.approx(math.exp(logs[reach])), "the tokens that reach over it"

    def test_special_tokens_in_a_draft(self) -> None:
        found = pair(byte_bpe(), unigram())
        fox, end, unknown = found.drafter.encode(b"fox"), 1, 2
        logs = [-1.0] * 9
        ended = translated(found, b"the", [*fox, end, *fox], logs[: 2 * len(fox) + 1])
        assert ended.tokens[-1] == byte_bpe().eos_token_id
        assert found.target.written(ended.tokens[:-1]) == b" fox"
        cut = translated(found, b"the", [*fox, unknown, *fox], logs[: 2 * len(fox) + 1])
        assert found.target.written(cut.tokens) == b" fox"
        assert len(translated(found, b"the", [unknown], [-1.0])) == 0
        assert list(translated(found, b"the", [end], [-1.0]).tokens) == [0]

    def test_half_a_character_is_drafted(self) -> None:
        found = pair(byte_bpe(), bytes_only())
        data = "a 😀".encode()
        draft = found.drafter.encode(data[2:4])
        tree = translated(found, data[:2], draft, [-1.0, -2.0])
        assert found.target.written(tree.tokens) == data[2:4]
        rest = translated(found, data[:4], found.drafter.encode(data[4:]), [-1.0, -2.0])
        assert found.target.written(rest.tokens) == data[4:]


def test_names_say_what_they_are() -> None:
    assert LmTli.emits == LmSlrs.emits == "sampled"
    assert OmniDraft.emits == "point"


class TestOtherIds:
    """The demo drafter under shuffled ids: all of the text goes through both tokenizers, and as
    much is accepted as of `lm`, whose vocabulary is the target's."""

    @pytest.fixture(scope="class")
    def demo(self) -> Any:
        return load(str(demo_model()), dtype="float32")

    @pytest.fixture(scope="class")
    def shuffled(self) -> tuple[Any, Any]:
        """(model, tokenizer)"""
        tokenizer = load_tokenizer(demo_model())
        model = tiny.tf.AutoModelForCausalLM.from_pretrained(
            demo_model() / "drafter", dtype=torch.float32, attn_implementation="eager"
        )
        new = list(range(model.config.vocab_size))  # old id -> new id
        random.Random(1).shuffle(new)
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        spec["model"]["vocab"] = {name: new[i] for name, i in spec["model"]["vocab"].items()}
        for token in spec["added_tokens"]:
            token["id"] = new[token["id"]]
        spec["added_tokens"].sort(key=lambda token: token["id"])
        old = torch.empty(len(new), dtype=torch.long)
        old[torch.tensor(new)] = torch.arange(len(new))
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
        with torch.no_grad():
            for weight in {id(layer.weight): layer.weight for layer in layers}.values():
                weight.copy_(weight[old].clone())
        model.generation_config.eos_token_id = new[tokenizer.eos_token_id]
        other = tiny.tf.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(spec)), eos_token=tokenizer.eos_token
        )
        return model.eval(), other

    @pytest.mark.parametrize("name", ["lm-tli", "lm-slem", "omnidraft"])
    def test_as_much_is_accepted(self, demo: Any, shuffled: Any, name: str) -> None:
        engine = Engine(
            demo.target, demo.tokenizer, method="plain", policy="fixed", assets=demo.folder
        )
        texts = "def fibonacci(n):\n    ", "Tom has 12 apples. He eats 3 of them, so he has "
        requests = [
            Request(demo.tokenizer.encode(t), limits=Limits(max_new_tokens=24)) for t in texts
        ]
        values = {"model": shuffled[0], "tokenizer": shuffled[1]}
        other = engine.use(name, "fixed", None, values, {"nodes": 4})
        assert not other.drafter.pair.same
        assert other.drafter.pair.shared == demo.target.vocab
        own = engine.use("lm", "fixed", None, {}, {"nodes": 4})
        plain, one, two = (engine.run(requests, m) for m in (engine.method, own, other))
        assert [c.tokens for c in plain] == [c.tokens for c in one] == [c.tokens for c in two]
        assert [c.stats.steps for c in one] == [c.stats.steps for c in two]
        assert [c.stats.accepted for c in one] == [c.stats.accepted for c in two]
        assert sum(c.stats.accepted for c in two) > 20
