"""specdec++: which tokens' predictions count, bounds and thresholds, and whose head it is."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import steps, tiny
from torch import Tensor

from foretoken import registry
from foretoken.draft.lm_sampled import LmSampled
from foretoken.engine.build import build
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.recipes.specdec_head import (
    HeadFacts,
    SpecdecHead,
    folder_hash,
    save_head,
)
from foretoken.policy.specdecpp import FIRST, SpecdecPlusPlus
from foretoken.target.hf import HFTarget
from foretoken.types import Budget, Level, Sampling

V = 32
DRAWN = Sampling(temperature=1.0, seed=3)


class Told(SpecdecHead):
    """What it predicts stands in the states."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(1, 0, weight=weight)

    def forward(self, states: Tensor) -> Tensor:
        f = states[..., 0].double().clamp(1e-9, 1 - 1e-9)
        return torch.stack([(1 - f).log(), f.log()], dim=-1)


def policy(head: Any = None, **values: Any) -> SpecdecPlusPlus:
    head = Told() if head is None else head
    return SpecdecPlusPlus(SpecdecPlusPlus.Options(**{"head": head, "nodes": 40, **values}))


def level(depth: int, states: list[float], joint: Any = (0.5,), parents: Any = (0,), rows: Any = None) -> Level:  # fmt: skip
    places = list(range(len(states))) if rows is None and depth > 1 else list(rows or ())
    hidden = torch.tensor(states)[:, None]
    return Level(depth, [0.5] * len(joint), joint, parents, (), hidden, places)


def answers(rule: SpecdecPlusPlus, states: list[float]) -> list[bool]:
    """Whether drafting goes on after each token of a chain; states[d] is read at depth d + 1."""
    session = steps.session()
    rule.budget(session)
    return [rule.go_on(session, level(d + 1, [state])) for d, state in enumerate(states)]


class TestTheRule:
    def test_a_token_is_judged_when_its_own_state_is_known(self) -> None:
        """The state at depth j is that of token j - 1. The root's is no drafted token's; the newest
        token's prediction comes with the next level."""
        assert answers(policy(h=0.5), [0.0, 0.9, 0.9, 0.4, 0.9]) == [True, True, True, False, False]
        assert answers(policy(h=0.5), [0.0, 0.4]) == [True, False]
        assert answers(policy(h=0.5, least=4), [0.0, 0.4, 0.4, 0.4]) == [True] * 3 + [False]

    def test_the_threshold_itself_is_not_passed(self) -> None:
        """Strictly above: 1 - 0.5 * 0.5 = 0.75."""
        assert answers(policy(h=0.75), [0.0, 0.5, 0.5])[-1]
        assert not answers(policy(h=0.7499), [0.0, 0.5, 0.5])[-1]

    def test_predictions_keep_a_doubt(self) -> None:
        """A sure rejection counts as 0.01, a sure acceptance as 0.999."""
        assert answers(policy(h=0.985), [0.0, 0.0])[-1] is False
        assert answers(policy(h=0.995), [0.0, 0.0])[-1] is True
        assert answers(policy(h=0.0), [0.0, 1.0])[-1] is False

    def test_the_threshold_takes_predictions_as_the_head_says_them(self) -> None:
        """h is one with the weight that the head was trained with."""
        assert answers(policy(Told(6.0), h=0.6), [0.0, 0.5])[-1] is True
        assert answers(policy(Told(6.0), h=0.4), [0.0, 0.5])[-1] is False

    def test_a_new_draft_begins_anew(self) -> None:
        rule, session = policy(h=0.5), steps.session()
        for _ in range(2):
            rule.budget(session)
            assert rule.go_on(session, level(1, [0.0]))
            assert rule.go_on(session, level(2, [0.8]))
            assert not rule.go_on(session, level(3, [0.6]))

    @pytest.mark.parametrize("seed", range(20))
    def test_a_tree_is_judged_by_its_likeliest_path(self, seed: int) -> None:
        """Against every node's ancestors, multiplied one by one."""
        dice = torch.Generator().manual_seed(seed)

        def rand(n: int) -> list[float]:
            return (0.2 + 0.7 * torch.rand(n, generator=dice)).tolist()

        def pick(n: int, k: int) -> list[int]:
            return torch.randint(0, n, (k,), generator=dice).tolist()

        rule, session = policy(h=0.6, least=1), steps.session()
        rule.budget(session)
        chances: list[list[float]] = []  # by level: predicted chance of each node, by itself
        ups: list[list[int]] = []  # by level: each node's parent in the level above
        size = 4
        for depth in range(1, 6):
            read = [] if depth == 1 else sorted(set(pick(size, 3)))
            parents, joint = pick(max(len(read), 1), 4), rand(4)
            states = rand(max(len(read), 1))
            if read:
                own = dict(zip(read, states, strict=True))
                chances.append([own.get(i, math.nan) for i in range(size)])
                ups.append([read[p] for p in parents])
            else:
                ups.append([-1] * 4)
            told = level(depth, states, joint, parents, read)
            product, node = 1.0, max(range(4), key=joint.__getitem__)
            for up, above in zip(reversed(ups[1:]), reversed(chances), strict=True):
                node = up[node]
                product *= above[node]
            assert rule.go_on(session, told) == (1 - product <= 0.6)


class TestWithoutAThreshold:
    """Goes on while what the next token brings is worth its time."""

    def measured(self, draft: float, target: float, tokens: int) -> SpecdecPlusPlus:
        rule, session = policy(h=None), steps.session()
        rule.budget(session)
        for _ in range(40):
            tree = steps.levels(tokens)
            rule.observe(session, steps.step(tree, tokens - 1, target, draft * tokens))
        return rule

    def test_the_rule(self) -> None:
        """4 tokens in 1.4 seconds, 0.1 a level: goes on while P a^2 > 0.2857."""
        rule = self.measured(0.1, 1.0, 4)
        assert rule.rate("stub") == pytest.approx(4 / 1.4)
        rule._mean = 0.8
        session = steps.session()
        for stands, more in ((0.46, True), (0.43, False)):
            rule.budget(session)
            rule.go_on(session, level(1, [0.0]))
            mean, rule._mean = rule._mean, 0.8
            assert rule.go_on(session, level(2, [stands])) == more
            rule._mean = mean

    def test_cheap_levels_are_drafted_longer(self) -> None:
        lengths = []
        for draft in (0.01, 0.1, 0.3, 0.9):
            rule = self.measured(draft, 1.0, 4)
            said = answers(rule, [0.8] * 20)
            lengths.append(said.index(False) if False in said else 20)
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] > lengths[-1]

    def test_a_bad_rate_is_taken_for_plain_decodings(self) -> None:
        """A drafter of which nothing stands makes time no cheaper."""
        rule, session = policy(h=None), steps.session()
        for _ in range(40):
            rule.observe(session, steps.step(steps.levels(4), 0, 1.0, 4.0))
        assert rule.rate("stub") == pytest.approx(1.0)

    def test_weights_are_undone(self) -> None:
        rule = policy(Told(6.0), h=None)
        answers(rule, [0.0, 0.5])
        assert rule._mean > FIRST, "0.5 at weight 6 is 6 / 7"

    def test_before_anything_is_measured_there_is_a_threshold(self) -> None:
        rule = policy(h=None)
        assert answers(rule, [0.0, 0.4, 0.9])[1:] == [True, True]
        assert answers(rule, [0.0, 0.2])[-1] is False


class TestInTheEngine:
    def drafts(self, rule: SpecdecPlusPlus, sampling: Sampling = DRAWN) -> list[int]:
        made = LmSampled(LmSampled.Options(model=tiny.small_model(V), depth=20), tiny.context(V))
        method = build(tiny.target("small"), made.context, made, rule)
        engine, lengths = Engine(tiny.target("small"), method="plain"), []
        engine.run(
            [tiny.request(tiny.prompt(1, 9, V), 60, sampling)], method,
            lambda session, step: lengths.append((len(step.tree), session.room)),
        )  # fmt: skip
        return [length for length, room in lengths if room > 40]

    def test_a_head_that_expects_acceptance_drafts_to_the_end(self) -> None:
        assert set(self.drafts(policy(constant(1.0)))) == {20}

    def test_a_head_that_expects_rejection_drafts_the_least(self) -> None:
        assert set(self.drafts(policy(constant(0.0)))) == {2}
        assert set(self.drafts(policy(constant(0.0), least=5))) == {5}

    def test_a_higher_threshold_never_shortens_a_draft(self) -> None:
        """The same text, seed and root, every threshold."""
        target = tiny.target("small")
        engine = Engine(target, method="plain")
        for seed in range(6):
            lengths = []
            for h in (0.0, 0.3, 0.6, 0.8, 0.9, 0.99, 1.0):
                made = LmSampled(
                    LmSampled.Options(model=tiny.small_model(V), depth=20), tiny.context(V)
                )
                rule = policy(tiny.specdec_head(), h=h)
                method = build(target, made.context, made, rule)
                session = engine.add(
                    tiny.request(tiny.prompt(seed, 9, V), 60, replace_seed(seed)), method
                )
                allowed = rule.budget(session)
                ask = replace(allowed, go_on=lambda said, s=session, r=rule: r.go_on(s, said))
                lengths.append(len(made.propose(session, ask)))
                made.end(session)
                engine.cancel(session)
            assert lengths == sorted(lengths)
            assert (lengths[0], lengths[-1]) == (2, 20)

    @pytest.mark.parametrize("drafter", ["lm-top-k", "lm-rsd-s", "lm-rsd-c", "lm-iid-k"])
    def test_trees_stop_as_well(self, drafter: str) -> None:
        cls = registry.find("drafter", drafter)
        depths = {}
        for f in (0.0, 1.0):
            made = cls(cls.Options(model=tiny.small_model(V), depth=5), tiny.context(V))
            method = build(tiny.target("small"), made.context, made, policy(constant(f)))
            seen: list[int] = []
            Engine(tiny.target("small"), method="plain").run(
                [tiny.request(tiny.prompt(1, 9, V), 12, DRAWN)], method,
                lambda _, step, seen=seen: seen.append(step.tree.depth),
            )  # fmt: skip
            depths[f] = seen
        assert max(depths[0.0]) == 2
        assert max(depths[1.0]) > 2


def replace_seed(seed: int) -> Sampling:
    return DRAWN.model_copy(update={"seed": seed})


def constant(f: float) -> SpecdecHead:
    """Predicts f, as nearly as logits can."""
    head = tiny.AnyWidth(2, 0)
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.copy_(torch.tensor([0.0, 60.0 * (f - 0.5)]))
    return head


class TestWhoseHead:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        tiny.model("small").save_pretrained(tmp_path)
        return tmp_path

    def build(self, folder: Path, **values: Any) -> Any:
        options = {"model": str(folder)}
        return build(
            tiny.target("small"), tiny.context(V), "lm-sampled", "specdec++", None, options, values
        )

    def test_it_lies_beside_the_small_model(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"^specdec\+\+.head: None .*specdec-head"):
            self.build(folder)
        facts = HeadFacts(hidden=16, depth=1, drafter=folder_hash(folder))
        save_head(folder, SpecdecHead(16, 1), facts)
        method = self.build(folder)
        prompt = tiny.prompt(1, 9, V)
        done = Engine(tiny.target("small"), method="plain").run([tiny.request(prompt, 9)], method)
        assert done[0].tokens == tiny.generate("small", [prompt], 9)[0]

    def test_it_is_named(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        place = tmp_path_factory.mktemp("head")
        path = save_head(place, SpecdecHead(16), HeadFacts(hidden=16))
        for given in (place, str(path)):
            self.build(folder, head=given)
        for wrong in ("/not/there", 3):
            with pytest.raises(ConfigError, match=r"^specdec\+\+.head: ") as error:
                self.build(folder, head=wrong)
            assert "\n" not in str(error.value)

    def test_another_models_head_is_refused(self, folder: Path) -> None:
        save_head(folder, SpecdecHead(8), HeadFacts(hidden=8))
        with pytest.raises(ArtifactError, match="hidden states of 8, the drafter's have 16"):
            self.build(folder)
        save_head(folder, SpecdecHead(16), HeadFacts(hidden=16, drafter="another"))
        with pytest.raises(ArtifactError, match="head of another drafter"):
            self.build(folder)

    def test_a_small_model_without_a_folder_has_none(self) -> None:
        model = HFTarget(copy.deepcopy(tiny.small_model(V).model))
        made = LmSampled(LmSampled.Options(model=model), tiny.context(V))
        with pytest.raises(ConfigError, match=r"^specdec\+\+.head: None"):
            build(tiny.target("small"), made.context, made, "specdec++")


def test_nothing_is_drafted_without_nodes() -> None:
    assert policy(nodes=0).budget(steps.session()) == Budget(0, 1)
