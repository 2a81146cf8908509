"""mix: one tree, every node once, calibrated; sources that are drawn stay drawn."""

import json
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny

from foretoken.draft.base import Drafter
from foretoken.draft.candidates import Candidates, Judge
from foretoken.draft.labels import labels
from foretoken.draft.mix import Mix
from foretoken.draft.mixed_tree import fused
from foretoken.engine.build import build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.tree import DraftTree
from foretoken.types import Budget, Request, Sampling

NAMES = ("one", "two", "three")


@st.composite
def drafts(draw):
    """Up to three trees over few tokens, so that they share paths."""
    out = []
    for _ in range(draw(st.integers(1, 3))):
        paths = draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=5))
        tree = DraftTree.from_paths(paths)
        q = [draw(st.floats(0.05, 0.9)) for _ in range(len(tree))]
        out.append(DraftTree(tree.tokens, tree.parents, q))
    return out


def merged(trees):
    candidates = Candidates(0)
    for i, tree in enumerate(trees):
        candidates.add(i, tree)
    candidates.weigh(Judge(NAMES))
    return candidates


def spelled(tree):
    return [tuple(tree.tokens[i] for i in tree.path(n)) for n in range(len(tree))]


@settings(max_examples=80)
@given(trees=drafts(), nodes=st.integers(0, 12), depth=st.integers(1, 4))
def test_every_path_once_and_the_best_ones_kept(trees, nodes, depth):
    candidates = merged(trees)
    union = {path for tree in trees for path in spelled(tree)}
    whole = DraftTree(candidates.tokens, candidates.parents, candidates.p)
    assert sorted(spelled(whole)) == sorted(union)
    kept = candidates.best(Budget(nodes, depth))
    assert len(kept) == min(nodes, sum(d <= depth for d in candidates.depths))
    assert all(candidates.parents[n] in (-1, *kept) for n in kept)
    allowed = [n for n in range(len(candidates)) if candidates.depths[n] <= depth]
    best = sorted((candidates.joint[n] for n in allowed), reverse=True)[: len(kept)]
    assert sorted((candidates.joint[n] for n in kept), reverse=True) == pytest.approx(best)


@settings(max_examples=60)
@given(trees=drafts())
def test_children_sum_to_at_most_one(trees):
    candidates = merged(trees)
    for siblings in candidates.children:
        assert sum(candidates.p[n] for n in siblings) <= 1.0 + 1e-6


def test_agreement_ranks_higher():
    a = DraftTree([1, 2], [-1, -1], [0.4, 0.4])
    candidates = merged([a, DraftTree([2], [-1], [0.4])])
    first = candidates.best(Budget(1))[0]
    assert candidates.tokens[first] == 2
    assert candidates.sources(first, NAMES) == "one+two"


def mix(target, sources, **more):
    values = {"sources": sources, **more}
    context = tiny.context(target.vocab)
    return Mix(options(Mix.Options, values, "mix"), context)


def run(method, seeds=(0, 1, 2), new=24, temperature=0.0):
    target = tiny.target("small")
    engine = Engine(target, method="plain")
    requests = [
        tiny.request(tiny.prompt(s, 16, target.vocab), new, Sampling(temperature=temperature))
        for s in seeds
    ]
    seen = []
    done = engine.run(requests, method, lambda s, step: seen.append(step))
    return [c.tokens for c in done], seen


def test_sources_are_named_and_learn_what_they_are_worth():
    target = tiny.target("small")
    made = mix(target, ("prompt-lookup", "random"))
    method = build(target, made.context, made, "fixed", None, None, {"nodes": 12})
    texts, steps = run(method, new=60)
    assert texts == run(build(target, made.context, "plain", "fixed"), new=60)[0]
    assert {name for step in steps for n in step.tree.sources for name in n.split("+")} == {
        "prompt-lookup", "random",
    }  # fmt: skip
    judge = made.judges.get("")
    worth = dict(zip(judge.names, judge.reliability, strict=True))
    assert worth["random"].estimate(0.5, 0, 1, 0) < 0.2  # uniform over 32 tokens
    promised = sum(sum(step.tree.joint) for step in steps[40:])
    stood = sum(len(step.verdict.path) for step in steps[40:])
    assert promised == pytest.approx(stood, rel=0.5, abs=8)


def test_a_source_that_draws_stays_drawn():
    target = tiny.target("small")
    small = {"lm-greedy-k": {"model": tiny.small_model(target.vocab)}}
    made = mix(target, ("prompt-lookup", "lm-greedy-k"), source_options=small)
    assert (made.emits, made.verifier, made.ways) == ("mixed", "mixed", ("free", "all"))
    method = build(target, made.context, made, "fixed", None, None, {"nodes": 12})
    _, steps = run(method, temperature=1.0)
    rows = [list(step.tree.dist_row) for step in steps]
    assert any(r >= 0 for row in rows for r in row)
    assert any("prompt-lookup" in name for step in steps for name in step.tree.sources)
    for step in steps:
        for siblings in step.tree.children:
            drawn = [step.tree.dist_row[n] >= 0 for n in siblings] if step.tree.dist_row else []
            assert drawn == sorted(drawn, reverse=True)  # drawn ones first


def test_fusing_keeps_every_drawn_node_and_drops_doubles():
    row = torch.tensor([[0.5, 0.5, 0.0]])
    drawn = DraftTree([0, 1], [-1, 0], [0.5, 0.5], "without_replacement", row, [0, 0])
    fixed = DraftTree([0, 2, 1, 2], [-1, -1, 0, 2], [0.6, 0.3, 0.5, 0.5], sources=["f"] * 4)
    tree = fused(drawn, fixed, "d")
    assert spelled(tree) == [(0,), (0, 1), (2,), (0, 1, 2)]
    assert list(tree.dist_row) == [0, 0, -1, -1]
    assert tree.sources == ["d+f", "d+f", "f", "f"]


def test_ways_leave_the_model_out():
    target = tiny.target("small")
    small = {"lm-top-k": {"model": tiny.small_model(target.vocab)}}
    made = mix(target, ("prompt-lookup", "lm-top-k"), source_options=small)
    engine = Engine(target, method="plain")
    session = engine.add(
        tiny.request(tiny.prompt(0, 16, target.vocab), 8),
        build(target, made.context, made, "fixed"),
    )
    engine.step()
    assert any("lm-top-k" in s for s in made.propose(session, Budget(12, way="all")).sources)
    assert not any("lm-top-k" in s for s in made.propose(session, Budget(12, way="free")).sources)
    engine.cancel(session)


@pytest.mark.parametrize(
    ("sources", "ways"),
    [
        (("prompt-lookup", "suffix"), ("",)),
        (("aded", "token-recycling"), ("",)),
        (("prompt-lookup", "aded"), ("light", "free")),
        (("prompt-lookup", "aded", "lm-top-k"), ("light", "free", "all")),
    ],
)
def test_each_way_asks_who_is_cheap_enough(sources, ways):
    target = tiny.target("small")
    small = {"lm-top-k": {"model": tiny.small_model(target.vocab)}} if "lm-top-k" in sources else {}
    made = mix(target, sources, source_options=small)
    assert made.ways == ways
    engine = Engine(target, method="plain")
    text = tiny.prompt(0, 16, target.vocab) * 2  # something to copy
    session = engine.add(tiny.request(text, 8), build(target, made.context, made, "fixed"))
    engine.step()
    for number, way in enumerate(ways):
        asked: set[str] = set()

        def propose(who, name, asked=asked):
            asked.add(name)
            return [DraftTree()] * len(who)

        for part in made.parts:
            part.propose_batch = partial(propose, name=part.name)
        made.propose(session, Budget(12, way=way))
        assert asked == set(sources if way == "" else sources[: number + 1])
    engine.cancel(session)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.5])
def test_labels_of_greedy_and_drawn_text(temperature):
    target = tiny.target("small")
    made = mix(target, ("prompt-lookup",))
    method = build(target, made.context, made, "fixed", None, None, {"nodes": 4})
    engine = Engine(target, method="plain")
    seen = []
    engine.run(
        [tiny.request(tiny.prompt(0, 16, 32), 4, Sampling(temperature=temperature))],
        method, lambda s, step: seen.append((labels(s, step), step)),
    )  # fmt: skip
    found, step = seen[0]
    row = step.scores.logits[0]
    if temperature == 0.0:
        assert found[0] == {int(row.argmax()): 1.0}
    elif temperature >= 1.0:
        truth = torch.softmax(row / temperature, -1)
        assert found[0] == pytest.approx({t: float(truth[t]) for t in found[0]}, abs=1e-5)
    else:
        assert sum(found[0].values()) == pytest.approx(1.0)


def test_state_survives_and_is_used():
    target = tiny.target("small")
    made = mix(target, ("prompt-lookup", "random"))
    run(build(target, made.context, made, "fixed", None, None, {"nodes": 8}))
    again = mix(target, ("prompt-lookup", "random"))
    again.load(json.loads(json.dumps(made.state())))
    assert again.judges.get("").state() == made.judges.get("").state()
    known = made.judges.get("")
    other = mix(target, ("random", "aded"))  # other sources: what is known of `random` is kept
    other.load(json.loads(json.dumps(made.state())))
    assert other.judges.get("").reliability[0].state() == known.reliability[1].state()


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"sources": ("mix",)}, "no mixture"),
        ({"sources": ("plain",)}, "propose"),
        ({"sources": ("aded", "aded")}, "once"),
        ({"sources": ("lm-iid-k",)}, "kinds"),
        ({"sources": ("lm-rsd-s", "lm-rsd-c")}, "one source that draws"),
        ({"sources": ("aded",), "source_options": {"lm": {}}}, "one of aded"),
        ({"sources": ("aded",), "source_options": {"aded": {"eta": 7}}}, "aded.eta"),
    ],
)
def test_sets_that_cannot_be_are_refused(values, part):
    with pytest.raises(ConfigError, match=part):
        mix(tiny.target("small"), **values)


def test_sources_and_their_options_from_a_shell():
    chosen = options(
        Mix.Options, {"sources": "aded+random", "source_options": '{"aded": {"eta": 0.5}}'}, "mix"
    )
    assert chosen.sources == ("aded", "random")
    assert chosen.source_options == {"aded": {"eta": 0.5}}


def test_a_source_that_fails_to_begin_leaves_nothing_open():
    target = tiny.target("small")
    made = mix(target, ("prompt-lookup", "random"))

    class Broken(Drafter):
        name = "broken"

        def begin(self, session):
            raise RuntimeError("no")

        def propose(self, session, budget):
            return DraftTree()

    made.parts.append(Broken(Broken.Options(), made.context))
    engine = Engine(target, method="plain")
    session = engine.add(Request([1, 2, 3]), build(target, made.context, made, "fixed"))
    with pytest.raises(RuntimeError):
        engine.step()
    assert "prompt-lookup" not in session.memo


def test_a_model_among_cheap_sources_asks_between_its_levels():
    """With what its claims are worth here."""
    target = tiny.target("small")
    small = {"lm-top-k": {"model": tiny.small_model(target.vocab), "depth": 6}}
    made = mix(target, ("prompt-lookup", "lm-top-k"), source_options=small)
    assert made.gives == frozenset({"source levels"})
    assert mix(target, ("prompt-lookup", "aded")).gives == frozenset()
    engine = Engine(target, method="plain")
    session = engine.add(Request(tiny.prompt(1, 6, target.vocab) * 3))
    made.begin(session)
    learned, asked, said = session.memo["mix"].judge.reliability[1], [], []

    def go_on(level):
        asked.append(level)
        return level.depth < 2

    def note(level):
        said.append(level)
        return level.depth < 2

    made.parts[1].propose(session, Budget(24, min_prob=made.options.least, go_on=note))
    for _ in range(300):  # whatever the model says, it is always right
        for level in said:
            for q in level.q:
                learned.learn(q, 0, level.depth, 0, 1.0)
    tree = made.propose(session, Budget(24, way="all", source_on=go_on))
    assert [level.depth for level in asked] == [level.depth for level in said] == [1, 2]
    above = [1.0]
    for level, raw in zip(asked, said, strict=True):
        worth = [learned.estimate(q, 0, level.depth, 0) for q in raw.q]
        assert level.q == pytest.approx(worth, abs=1e-3)
        assert min(level.q) > max(raw.q)
        assert level.joint == level.paths(level.q, above)
        above = level.joint
    drafted = [tree.depths[n] for n, names in enumerate(tree.sources) if "lm-top-k" in names]
    assert max(drafted) == 2
    made.end(session)
    engine.cancel(session)
