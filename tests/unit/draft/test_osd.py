"""`osd` in real decoding: text stays, drafts follow the weights, tenants stay apart."""

import copy
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests import tiny

from foretoken import registry
from foretoken.draft.osd import Osd
from foretoken.engine.build import Method, build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, CapabilityError, ConfigError
from foretoken.learn.online.learner import LOG
from foretoken.learn.online.update import Trainee
from foretoken.policy.base import Policy
from foretoken.target.compiled import CompiledTarget
from foretoken.tree import DraftTree
from foretoken.types import Budget, Level, Options, Request, Sampling, Session

VOCAB, NEW = 32, 20
# learns a lot, soon, and is never told to stop
EAGER = {"interval": 2, "steps": 2, "lr": 0.02, "tolerance": 1.0, "batch": 4}


def make(**values: Any) -> Osd:
    values = {"model": tiny.small_model(VOCAB), "scope": "process", **EAGER, **values}
    return Osd(options(Osd.Options, values, "osd"), tiny.context(VOCAB))


def method(drafter: Osd, policy: Any = "fixed", nodes: int = 6) -> Method:
    given = {"nodes": nodes} if policy == "fixed" else None
    return build(tiny.target("small"), drafter.context, drafter, policy, None, None, given)


def engine(**values: Any) -> Engine:
    return Engine(tiny.target("small"), method="plain", **values)


def request(seed: int, tenant: str = "", new: int = NEW, **sampling: Any) -> Request:
    asked = tiny.request(tiny.prompt(seed, 8, VOCAB), new, Sampling(seed=seed, **sampling))
    return replace(asked, tenant=tenant, id=f"{tenant} {seed}")


def requests(count: int, start: int = 0, **how: Any) -> list[Request]:
    return [request(seed, **how) for seed in range(start, start + count)]


def facts(drafter: Osd, tenant: str = "") -> dict[str, Any]:
    return drafter.learned[tenant][""]


def drafts(drafter: Osd) -> list[DraftTree]:
    """All that is proposed from now on."""
    seen: list[DraftTree] = []
    original = drafter.propose_batch
    drafter.propose_batch = lambda asked: seen.extend(trees := original(asked)) or trees
    return seen


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> None:
    yield
    assert not tiny.small_model(VOCAB).pool.handles


class TestTextStays:
    """Check 3 of our notes: with updates on, whatever they do to the drafts."""

    @pytest.mark.parametrize(
        "how",
        [
            {}, {"riders": 1}, {"lr": 1.0}, {"background": True}, {"form": "lm"}, {"form": "lm-top-k"},
            {"select": True}, {"rows": "all"}, {"rows": "wrong"}, {"loss": "amft"},
            {"domains": 2, "route": lambda prompt: "ab"[sum(prompt) % 2]}, {"top": 2},
            {"window": 6}, {"scope": "request", "patience": 4},
        ],
    )  # fmt: skip
    def test_greedy_text_is_the_targets(self, how: dict[str, Any]) -> None:
        riders = how.get("riders", 3)
        drafter = make(**{name: value for name, value in how.items() if name != "riders"})
        asked = requests(6)
        done = engine(max_sessions=riders).run(asked, method(drafter))
        drafter.wait()
        assert [c.tokens for c in done] == tiny.generate("small", [r.prompt for r in asked], NEW)
        assert sum(c.stats.drafted for c in done) > 80
        if how.get("scope") != "request":
            counts = list(drafter.learned[""].values())
            assert sum(report["kept"] for report in counts) >= 1
            assert not any(report["failed"] for report in counts)

    def test_a_misroute_changes_no_text(self) -> None:
        """Nonsense for a router: another domain every time it is asked."""
        names = iter(range(10**6))
        drafter = make(domains=3, route=lambda _: "abc"[next(names) * 7 % 3])
        asked = requests(12)
        done = engine().run(asked, method(drafter))
        assert [c.tokens for c in done] == tiny.generate("small", [r.prompt for r in asked], NEW)
        assert {*drafter.learned[""]} == {"a", "b", "c"}

    @pytest.mark.parametrize("where", ["note", "learn", "publish"])
    def test_a_learner_that_fails_is_detached(
        self, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from foretoken.learn.online.record import Recorder

        def boom(*_: Any, **__: Any) -> Any:
            raise RuntimeError("on purpose")

        drafter = make()
        first = engine().run(requests(4), method(drafter))
        assert facts(drafter)["kept"] == 2
        owner = {"note": Recorder, "learn": Trainee, "publish": Osd}[where]
        if where == "publish":
            for _, store in drafter._stores:
                monkeypatch.setattr(store.of([1]), "_publish", boom)
        else:
            monkeypatch.setattr(owner, where, boom)
        with caplog.at_level(logging.WARNING, LOG.name):
            later = engine().run(requests(8, 4), method(drafter))
        assert len(caplog.records) == 1
        assert facts(drafter)["failed"] == "RuntimeError: on purpose"
        assert drafter.state()["stores"][""]["domains"][""]["failed"]
        texts = [c.tokens for c in [*first, *later]]
        assert texts == tiny.generate("small", [r.prompt for r in requests(12)], NEW)
        assert sum(c.stats.drafted for c in later) > 100, "the last good weights draft on"


class TestWeights:
    def test_the_shared_model_is_never_written_to(self) -> None:
        model = tiny.small_model(VOCAB).model
        before = [weight.clone() for weight in model.parameters()]
        drafter = make()
        engine().run(requests(8), method(drafter))
        assert facts(drafter)["kept"] > 1
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert not any(weight.grad is not None for weight in model.parameters())

    def test_never_learning_is_the_form_itself(self) -> None:
        """Interval 0: its drafts are those of `lm-sampled`."""
        seen = []
        for name in ("osd", "lm-sampled"):
            made = make(interval=0) if name == "osd" else tiny.drafter(name, vocab=VOCAB)
            trees = drafts(made)
            engine().run(requests(6, temperature=0.9), method(made))
            seen.append([(list(tree.tokens), list(tree.q)) for tree in trees])
        assert seen[0] == seen[1]

    def test_drafts_are_the_targets_when_it_has_learned_enough(self) -> None:
        drafter = make(lr=0.01, steps=4, batch=6, interval=4)
        one = engine()
        rates = []
        for start in range(0, 72, 24):
            done = one.run(requests(24, start, temperature=1.0), method(drafter))
            rates.append(sum(c.stats.accepted for c in done) / sum(c.stats.steps for c in done))
        assert rates[-1] > rates[0] * 1.3
        log = facts(drafter)["log"]
        assert log[-1]["after"] > log[0]["before"] + 0.1

    def test_every_draft_is_that_of_the_newest_weights(self) -> None:
        """Also of a request that was open when they changed: it is read anew with them."""
        drafter = make(interval=1)
        compared = []
        original = drafter.propose_batch

        def checked(asked: list[tuple[Session, Budget]]) -> list[DraftTree]:
            trees = original(asked)
            for (session, budget), tree in zip(asked, trees, strict=True):
                memory = session.memo["osd"]
                now = memory.learner.drafter
                assert memory.drafter is (now or drafter._given)
                other = replace(session, memo={})
                fresh = type(memory.drafter)(memory.drafter.options, drafter.context)
                fresh.model = memory.drafter.model
                again = fresh.propose(other, budget)
                fresh.end(other)
                assert list(again.tokens) == list(tree.tokens)
                assert list(again.q) == pytest.approx(list(tree.q), abs=1e-5)
                compared.append(now)
            return trees

        drafter.propose_batch = checked
        asked = [request(seed, new=6 + 7 * seed, temperature=1.0) for seed in range(5)]
        engine().run(asked, method(drafter))
        assert len({id(now) for now in compared}) >= 3
        assert any(now is None for now in compared)

    def test_q_is_what_the_tokens_were_drawn_from(self) -> None:
        """A session judged after the weights changed is judged by the rows of its own draft."""
        drafter = make(interval=1, lr=0.3)
        trees = drafts(drafter)
        engine().run(requests(8, temperature=1.0), method(drafter))
        for tree in trees:
            for token, row, q in zip(tree.tokens, tree.dist_row, tree.q, strict=True):
                assert float(tree.dist[row, token]) == pytest.approx(q)
        assert facts(drafter)["kept"] > 3

    def test_learning_counts_as_drafting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An update of 1000 seconds, by a clock that a gradient step moves."""
        import time

        from foretoken.learn.online import learner as module

        skipped = [0.0]
        original = Trainee.learn
        target = tiny.fresh_target("small")
        monkeypatch.setattr(target, "now", lambda: time.perf_counter() + skipped[0])
        monkeypatch.setattr(module, "perf_counter", lambda: time.perf_counter() + skipped[0])

        def slow(self: Trainee, *args: Any) -> Any:
            skipped[0] += 1000.0
            return original(self, *args)

        monkeypatch.setattr(Trainee, "learn", slow)
        drafter = make()
        chosen = build(target, drafter.context, drafter, "fixed", None, None, {"nodes": 4})
        done = Engine(target, method="plain").run(requests(2), chosen)
        spent = sum(c.stats.seconds["draft"] for c in done)
        assert 1000.0 < spent < 1900.0
        assert 1000.0 < facts(drafter)["seconds"] < 1900.0


class TestWhoLearnsFromWhom:
    def test_another_tenants_texts_change_nothing(self) -> None:
        """With an update after every request: the drafts are those of a fresh engine."""
        seen = []
        for others in (0, 6):
            drafter = make(scope="tenant", interval=1)
            run = engine()
            run.run(requests(others, 50, tenant="you"), method(drafter))
            trees = drafts(drafter)
            run.run(requests(4, tenant="me"), method(drafter))
            seen.append([list(tree.tokens) for tree in trees])
            assert facts(drafter, "me")["kept"] >= 2
        assert seen[0] == seen[1]

    def test_a_request_alone_learns_within_itself(self) -> None:
        """Scope "request" and a little patience; nothing of it is left afterwards."""
        drafter = make(scope="request", patience=3)
        counts: list[int] = []

        def look(session: Session, _: Any) -> None:
            if "osd" in session.memo:
                counts.append(session.memo["osd"].learner.facts.kept)

        engine().run([request(1, new=60, temperature=1.0)], method(drafter), look)
        assert max(counts) >= 2
        assert not list(drafter._stores)
        trees = drafts(drafter)
        engine().run([request(1, new=60, temperature=1.0)], method(drafter))
        again = drafts(fresh := make(scope="request", patience=3))
        engine().run([request(1, new=60, temperature=1.0)], method(fresh))
        assert [list(t.tokens) for t in trees] == [list(t.tokens) for t in again]

    def test_what_was_cut_off_is_learned_from_as_well(self) -> None:
        drafter = make(interval=1)
        run = engine()
        for seed in range(3):
            session = run.add(request(seed), method(drafter))
            for _ in range(3):
                run.step()
            run.cancel(session)
        assert facts(drafter)["requests"] == 3
        assert len(drafter._stores.get("")) > 3
        run.run(requests(1, 9), method(drafter))
        assert facts(drafter)["updates"] >= 1

    def test_the_weights_of_few_tenants_are_held(self) -> None:
        drafter = make(scope="tenant", models=2)
        for tenant in "abcd":
            engine().run(requests(2, tenant=tenant), method(drafter))
        held = [key for key, store in drafter._stores if store.adapted]
        assert held == ["c", "d"]
        done = engine().run(requests(4, tenant="a"), method(drafter))
        assert [c.tokens for c in done] == tiny.generate(
            "small", [r.prompt for r in requests(4)], NEW
        )


class TestState:
    def test_a_fresh_drafter_goes_on_from_it(self) -> None:
        """Weights that were learned, by tenant; its drafts are those of the one that learned, up
        to the rounding of what is saved."""
        learned, twin = make(scope="tenant"), make(scope="tenant", interval=0)
        for tenant in ("a", "b"):
            engine().run(requests(4, tenant=tenant), method(learned))
        state = json.loads(json.dumps(learned.state()))
        twin.load(state)
        learned.options = learned.options.model_copy(update={"interval": 0})
        for _, store in learned._stores:
            for _, one in store:
                one.options = learned.options
        for tenant in ("a", "b", "c"):
            seen = []
            for drafter in (learned, twin):
                trees = drafts(drafter)
                engine().run(requests(2, 70, tenant=tenant, temperature=1.0), method(drafter))
                seen.append([list(tree.tokens) for tree in trees])
                del drafter.propose_batch
            assert seen[0] == seen[1]
        assert twin.learned["a"][""]["kept"] == learned.learned["a"][""]["kept"] > 0

    def test_of_another_drafter_model(self) -> None:
        learned = make()
        engine().run(requests(6), method(learned))
        other = make(model=tiny.fresh_target("small"))
        with pytest.raises(ArtifactError, match="another drafter model") as error:
            other.load(json.loads(json.dumps(learned.state())))
        assert "\n" not in str(error.value)


class TestBuilding:
    def test_what_it_is_told(self) -> None:
        for form in ("lm-sampled", "lm", "lm-top-k"):
            made, like = make(form=form), registry.find("drafter", form)
            assert (made.emits, made.verifier, made.nodes) == (
                like.emits,
                like.verifier,
                like.nodes,
            )
            assert made.gives == like.gives
            assert make(form=form, depth=6).nodes == like.nodes // 2

    @pytest.mark.parametrize(
        ("name", "value"), [("form", "lm-rsd-s"), ("loss", "kl"), ("interval", -1), ("foo", 1)]
    )
    def test_options_are_closed(self, name: str, value: Any) -> None:
        with pytest.raises(ConfigError, match=rf"^osd.{name}: {value!r}"):
            make(**{name: value})

    def test_a_model_that_cannot_be_trained(self) -> None:
        compiled = CompiledTarget(copy.deepcopy(tiny.model("small")))
        with pytest.raises(CapabilityError, match="'osd' trains a copy"):
            make(model=compiled)
        with pytest.raises(ConfigError, match=r"^osd.model: None"):
            make(model=None)

    def test_policies_may_ask_it(self) -> None:
        """Before and after an update: what a policy needs is asked of the new drafter, too."""

        class Asks(Policy):
            name, summary, source = "asks", "-", "-"
            stops = True
            needs = frozenset({"levels", "entropy", "hidden"})
            seen: list[Level] = []

            def budget(self, session: Session) -> Budget:
                return Budget(6)

            def go_on(self, session: Session, level: Level) -> bool:
                self.seen.append(level)
                return level.depth < 2

        policy = Asks(Options(), None)
        drafter = make(model=tiny.fresh_target("small"))
        trees = drafts(drafter)
        engine().run(requests(6), method(drafter, policy))
        assert facts(drafter)["kept"] > 1
        assert {tree.depth for tree in trees} <= {0, 1, 2}
        assert all(level.entropy and level.hidden is not None for level in policy.seen)


def test_it_shares_a_models_lock_with_others() -> None:
    from foretoken.draft.lm import Lm

    model = tiny.make(copy.deepcopy(tiny.model("small").config))
    one = make(model=model)
    other = Lm(options(Lm.Options, {"model": model}, "lm"), tiny.context(VOCAB))
    assert one._given.model is other.model
