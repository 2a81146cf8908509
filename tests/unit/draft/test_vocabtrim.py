"""`vocabtrim`: exact whatever is dropped, as likely to be accepted as the rows say, and it follows
the target."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.exact.enumeration import SHAPES, distance, drafts, law
from tests.exact.enumeration import model as table

from foretoken import registry
from foretoken.draft.lm_sampled import LmSampled
from foretoken.draft.trim import Trim
from foretoken.draft.vocabtrim import VocabTrim
from foretoken.engine.build import Method, build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.tree import DraftTree
from foretoken.types import Budget, Sampling, Step

V = 32
ALL = tuple(range(V))
CONTEXT = tiny.context(V)
DRAWN = Sampling(temperature=1.0, seed=4)


def make(keep: Any, **values: Any) -> VocabTrim:
    given = {"model": tiny.small_model(V), "keep": keep, **values}
    return VocabTrim(options(VocabTrim.Options, given, "vocabtrim"), CONTEXT)


def method(drafter: Any) -> Method:
    return build(tiny.target("small"), CONTEXT, drafter, "fixed", None, None, {"nodes": 6})


def texts(drafter: Any, sampling: Sampling = DRAWN, new: int = 30) -> tuple[list[list[int]], Any]:
    """(what is written, the drafts) for three prompts together."""
    seen: list[tuple[list[int], list[float]]] = []
    engine = Engine(tiny.target("small"), method="plain")
    requests = [
        tiny.request(tiny.prompt(i, 9, V), new, replace_seed(sampling, i)) for i in range(3)
    ]
    done = engine.run(
        requests, method(drafter), lambda _, s: seen.append((list(s.tree.tokens), list(s.tree.q)))
    )
    return [c.tokens for c in done], seen


def replace_seed(sampling: Sampling, seed: int) -> Sampling:
    return sampling.model_copy(update={"seed": seed})


def test_all_tokens_kept_drafts_as_the_untrimmed_model() -> None:
    """q bit for bit, and the same texts for the same seeds."""
    whole = LmSampled(LmSampled.Options(model=tiny.small_model(V)), CONTEXT)
    for sampling in (DRAWN, Sampling()):
        assert texts(make(ALL), sampling) == texts(whole, sampling)


@pytest.mark.parametrize("k", [1, 2, 9, 31])
def test_greedy_text_is_the_targets_for_every_size(k: int) -> None:
    prompts = [tiny.prompt(i, 9, V) for i in range(3)]
    written, seen = texts(make(ALL[:k]), Sampling())
    assert written == tiny.generate("small", prompts, 30)
    assert {token for tokens, _ in seen for token in tokens} <= set(ALL[:k])


def test_nothing_else_is_proposed_and_q_sums_to_one_over_the_kept() -> None:
    keep = (1, 2, 5, 8, 30)
    drafter = make(keep)
    engine = Engine(tiny.target("small"), method="plain")
    session = engine.add(tiny.request(tiny.prompt(1, 9, V), 30, DRAWN), method(drafter))
    for _ in range(5):
        engine.step()
        tree = drafter.propose(session, Budget(6))
        assert set(tree.tokens) <= set(keep)
        assert tree.dist is not None
        torch.testing.assert_close(tree.dist[:, list(keep)].sum(-1), torch.ones(len(tree)))
    engine.cancel(session)


@pytest.mark.parametrize("rule", ["token", "block"])
def test_exact_where_the_target_often_writes_what_is_dropped(rule: str) -> None:
    """By enumeration: q is zero on a token of much mass, and the text keeps its law; a rule that is
    told the untrimmed q in place of the one that was drawn from biases it."""
    dropped = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    p = {path: 0.7 * row + 0.3 * dropped for path, row in table(3, 2, 5).items()}
    q = {path: row * (1 - dropped) for path, row in table(3, 2, 6).items()}
    q = {path: row / row.sum() for path, row in q.items()}
    made = list(drafts(q, "sampled", SHAPES["chain2"]))
    found, _ = law(registry.find("verifier", rule)(), p, made, 2)
    assert distance(p, found, 3) < 1e-9
    wrong = [(replace(tree, dist=_untrimmed(tree)), weight) for tree, weight in made]
    found, _ = law(registry.find("verifier", rule)(), p, wrong, 2)
    assert distance(p, found, 3) > 0.01


def _untrimmed(tree: DraftTree) -> torch.Tensor:
    assert tree.dist is not None
    return tree.dist * 0.6 + 0.4 * torch.tensor([0.0, 0.0, 1.0], dtype=tree.dist.dtype)


class TestWhatIsKept:
    def test_the_file_of_the_models_folder(self, tmp_path: Path) -> None:
        tiny.model("small").save_pretrained(tmp_path)
        given = {"model": str(tmp_path)}
        with pytest.raises(ConfigError, match=r"^vocabtrim.keep: None .*vocab-trim"):
            VocabTrim(VocabTrim.Options(**given), CONTEXT)
        counts = np.arange(V)
        Trim.of(counts, 8, [0]).write(tmp_path)
        made = VocabTrim(VocabTrim.Options(**given), CONTEXT)
        assert made.trim.keep == (0, *range(25, 32))
        fewer = VocabTrim(VocabTrim.Options(**given, k=3), CONTEXT)
        assert fewer.trim.keep == (0, 30, 31)
        with pytest.raises(ConfigError, match="k: 9"):
            VocabTrim(VocabTrim.Options(**given, k=9), CONTEXT)

    def test_every_form_takes_the_file_of_its_models_folder(self, tmp_path: Path) -> None:
        tiny.model("small").save_pretrained(tmp_path)
        given = {"model": str(tmp_path)}
        whole = LmSampled(LmSampled.Options(**given), CONTEXT)
        Trim.of(np.arange(V), 5).write(tmp_path)
        some = LmSampled(LmSampled.Options(**given), CONTEXT)
        assert some.model is not whole.model, "a model that was loaded before stays what it was"
        drafted = {token for tokens, _ in texts(some)[1] for token in tokens}
        assert drafted <= set(range(27, 32))
        for name in ("lm", "lm-top-k", "lm-rsd-s"):
            cls = registry.find("drafter", name)
            written, seen = texts(cls(cls.Options(**given), CONTEXT), Sampling())
            assert written == tiny.generate("small", [tiny.prompt(i, 9, V) for i in range(3)], 30)
            assert {token for tokens, _ in seen for token in tokens} <= set(range(27, 32))

    def test_a_file_of_another_model_is_refused(self, tmp_path: Path) -> None:
        tiny.model("small").save_pretrained(tmp_path)
        Trim.of(np.arange(V + 1), 5).write(tmp_path)
        for cls in (LmSampled, VocabTrim):
            with pytest.raises(ArtifactError, match="vocabulary of 33, not 32"):
                cls(cls.Options(model=str(tmp_path)), CONTEXT)
        Trim.of(np.arange(V), 5, (), "theirs").write(tmp_path)
        for cls in (LmSampled, VocabTrim):
            with pytest.raises(ArtifactError, match="another tokenizer"):
                cls(cls.Options(model=str(tmp_path)), replace(CONTEXT, tokenizer_hash="ours"))

    @pytest.mark.parametrize("keep", [(), (1, 32), (-1,), 3, ("a",), "/not/there", 1.5])
    def test_what_is_no_selection(self, keep: Any) -> None:
        with pytest.raises(ConfigError, match=r"^vocabtrim.keep: "):
            make(keep)


class TestRecalibration:
    """The target writes other tokens than were kept."""

    KEEP = (0, 1, 2, 3, 4)

    def written(self, drafter: VocabTrim, tokens: list[int], session: Any = None) -> Any:
        """Let the target write these."""
        session = session or Engine(tiny.target("small"), method="plain").add(
            tiny.request([1, 2, 3], 30), method(drafter)
        )
        if session.index not in drafter._stores._users:
            drafter.begin(session)
        for token in tokens:
            step = Step(
                len(session.tokens), Budget(0), DraftTree(), None, None,
                type("C", (), {"tokens": [token]}), {}, 1, 1,
            )  # fmt: skip
            drafter.observe(session, step)
        return session

    def kept(self, drafter: VocabTrim, session: Any) -> list[int]:
        store = drafter._stores.get(drafter._stores.key(session))
        return store.kept.ids.tolist()

    def make(self, **values: Any) -> VocabTrim:
        given = {"recalibrate": 0.5, "recent": 10, "scope": "request", **values}
        return make(self.KEEP, **given)

    def test_enough_coverage_changes_nothing(self) -> None:
        drafter = self.make()
        session = self.written(drafter, [0, 1, 2, 3, 4, 20, 21, 22, 23, 24] * 4)
        assert self.kept(drafter, session) == list(self.KEEP)

    def test_too_little_coverage_keeps_what_was_written(self) -> None:
        drafter = self.make()
        session = self.written(drafter, [20, 20, 21, 22, 22, 20, 1, 20, 22])
        assert self.kept(drafter, session) == list(self.KEEP), "not before enough was seen"
        self.written(drafter, [20], session)
        # 5 of 20, 3 of 22, 1 of 21 and of 1; the file's tokens as if 10 more were seen, 2 of each
        assert self.kept(drafter, session) == [0, 1, 2, 20, 22]

    def test_off_by_default(self) -> None:
        drafter = make(self.KEEP, recent=10)
        session = self.written(drafter, [20] * 40)
        assert self.kept(drafter, session) == list(self.KEEP)

    def test_the_end_of_text_stays(self) -> None:
        drafter = make(self.KEEP, recent=10, recalibrate=0.9)
        drafter.trim = Trim.of(np.eye(V, dtype=np.int64)[4] + 1, 5, [3])
        session = self.written(drafter, [20, 21, 22, 23, 24] * 8)
        assert 3 in self.kept(drafter, session)

    def test_what_it_drafts_follows_the_target_in_real_decoding(self) -> None:
        """The first drafts are of the old tokens; later ones of what the target writes."""
        prompt, new = tiny.prompt(1, 9, V), 60
        text = tiny.generate("small", [prompt], new)[0]
        rare = tuple(sorted(set(ALL) - set(text))[:6]) or ALL[:6]
        drafter = make(rare, recalibrate=0.9, recent=8)
        seen: list[set[int]] = []
        engine = Engine(tiny.target("small"), method="plain")
        done = engine.run(
            [tiny.request(prompt, new)], method(drafter),
            lambda _, step: seen.append(set(step.tree.tokens)),
        )  # fmt: skip
        assert done[0].tokens == text
        assert set.union(*seen[:3]) <= set(rare)
        assert set.union(*seen[-10:]) & set(text)

    def test_sessions_with_different_slices_draft_as_each_alone(self) -> None:
        drafter = self.make()
        engine = Engine(tiny.target("small"), method="plain")
        chosen = method(drafter)
        sessions = [
            engine.add(tiny.request(tiny.prompt(i, 9, V), 30, DRAWN), chosen) for i in range(3)
        ]
        engine.step()
        self.written(drafter, [20] * 7 + [21] * 7, sessions[1])
        assert self.kept(drafter, sessions[1]) != list(self.KEEP)
        asked = [(session, Budget(5)) for session in sessions]
        together = drafter.propose_batch(asked)
        for one, tree in zip(asked, together, strict=True):
            alone = drafter.propose(*one)
            assert alone.tokens == tree.tokens
            assert set(tree.tokens) <= set(self.kept(drafter, one[0]))
        for session in sessions:
            engine.cancel(session)

    def test_few_slices_are_held(self) -> None:
        from foretoken.draft.vocabtrim import SLICES

        drafter = self.make(scope="tenant")
        engine = Engine(tiny.target("small"), method="plain", max_sessions=9)
        chosen, sessions = method(drafter), []
        for i in range(SLICES + 2):
            asked = replace(tiny.request([1, 2, 3], 30), tenant=f"tenant {i}")
            sessions.append(engine.add(asked, chosen))
        engine.step()
        for i, session in enumerate(sessions):
            self.written(drafter, [20 + i] * 10, session)
        drafter.propose_batch([(session, Budget(3)) for session in sessions])
        assert len(drafter._slices) == SLICES
        for session in sessions:
            engine.cancel(session)

    def test_state_goes_through_json(self) -> None:
        one, two = self.make(scope="tenant"), self.make(scope="tenant")
        session = self.written(one, [20, 21] * 7)
        two.load(json.loads(json.dumps(one.state())))
        assert self.kept(two, session) == self.kept(one, session) != list(self.KEEP)
        assert two.state() == one.state()
