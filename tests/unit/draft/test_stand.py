"""`stand` and `stand-drawn`: methods/stand.md, section 9, checks 2, 3 and 5, and their own laws.

Check 4, the law of sampled text with the table warm and cold, is tests/exact/test_distribution.
"""

import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests import tiny
from tests.exact.enumeration import distance, law, model

from foretoken import registry
from foretoken.draft import stand_template
from foretoken.draft.base import Context
from foretoken.draft.stand import Stand, StandDrawn
from foretoken.draft.stand_sprout import CLASSES, DrawnSprout, Sprout, drawn
from foretoken.draft.stand_table import StandTable
from foretoken.engine.build import build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.prompt.samples import demo_model, demo_prompts
from foretoken.prompt.tokens import encode_prompt
from foretoken.target.load import load
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Committed, Sampling, Scores, Step, Verdict

WARM = Sampling(temperature=1.0)
WIDE = Budget(40, 10)


def drafter(cls=Stand, context: Context | None = None, **values):
    return cls(options(cls.Options, values, cls.name), context or tiny.context(32))


def table(rows: dict[tuple[int, ...], dict[int, float]], lengths=(1,)) -> StandTable:
    made = StandTable(lengths, trust=0.0)
    for key, row in rows.items():
        made.learn(key, list(row), list(row.values()))
    return made


def session(drafter, tokens: list[int], sampling: Sampling = WARM) -> SimpleNamespace:
    made = SimpleNamespace(
        tokens=tokens, memo={}, index=0, request=SimpleNamespace(tenant="", sampling=sampling)
    )
    drafter.begin(made)
    return made


def step(context: int, tree: DraftTree, logits, rows: list[int], known=()) -> Step:
    committed = Committed([0] * len(rows), rows, len(rows) - 1, None)
    scores = Scores(torch.as_tensor(logits), known=known)
    return Step(context, WIDE, tree, scores, Verdict((), 0), committed, {}, 1, 1)


# --- drawing --------------------------------------------------------------------------------------


def test_draws_are_without_replacement() -> None:
    """Check 2: ordered pairs come with q_i q_j / (1 - q_i), within 4 sigma (12 cells)."""
    q, n, dice = [0.5, 0.3, 0.15, 0.05], 20_000, random.Random(1)
    found = Counter(tuple(drawn(q, [dice.random() for _ in q])[:2]) for _ in range(n))
    for i, j in itertools.permutations(range(4), 2):
        p = q[i] * q[j] / (1 - q[i])
        assert abs(found[i, j] - n * p) < 4 * math.sqrt(n * p * (1 - p)), (i, j)


def test_the_order_is_that_of_gumbel_noise() -> None:
    dice = random.Random(2)
    for _ in range(50):
        q = sorted((dice.random() for _ in range(6)), reverse=True)
        u = [dice.random() for _ in q]
        noisy = [math.log(p) - math.log(-math.log1p(-x)) for p, x in zip(q, u, strict=True)]
        assert drawn(q, u) == sorted(range(6), key=lambda j: -noisy[j])


def forced(q: list[float], order: tuple[int, ...]) -> tuple[list[float], float]:
    """Noise that gives this order, and the order's probability."""
    noise, chance, left = [0.0] * len(q), 1.0, 1.0
    for place, token in enumerate(order, start=1):
        noise[token] = -math.expm1(-place * q[token])
        chance *= q[token] / left
        left -= q[token]
    return noise, chance


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_has_the_targets_law(seed: int) -> None:
    """Check 3: V = 5, depth 2, two children of the root with one child each: every order of every
    row, every coin of the rule. Rows of `dist` are float32."""
    vocab, width, dice = 5, 3, random.Random(seed)
    p = model(vocab, 2, seed)
    rows = {}
    for key in [(9,), *((t,) for t in range(vocab))]:
        weights = sorted((dice.random() + 0.05 for _ in range(width)), reverse=True)
        tokens = dice.sample(range(vocab), width)
        rows[key] = {t: w / sum(weights) for t, w in zip(tokens, weights, strict=True)}
    made, template = table(rows), stand_template.shape([(0,), (0, 0), (1,), (1, 0)], drawn=True)
    drafts = []
    for orders in itertools.product(itertools.permutations(range(width)), repeat=3):
        # rows of noise: what follows the root, node 0 (the first child) and node 2 (the second)
        noise, chance, at = torch.zeros(5, width).double().numpy(), 1.0, 9
        for place, order in zip((0, 1, 3), orders, strict=True):
            sprout = DrawnSprout(made, (9,), WARM, Budget(4, 2), (), noise)
            if place:
                sprout.fill(template)
                at = sprout.tokens[place - 1]
            q = Sprout(made, (at,), WARM, Budget(4, 2)).law(-1).q
            noise[place], share = forced([x / sum(q) for x in q], order)
            chance *= share
        sprout = DrawnSprout(made, (9,), WARM, Budget(4, 2), (), noise)
        sprout.fill(template)
        tree = sprout.drawn_tree(vocab)
        assert list(tree.parents) == [-1, 0, -1, 2]
        drafts.append((tree, chance))
    assert sum(chance for _, chance in drafts) == pytest.approx(1.0)
    rule = registry.find("verifier", StandDrawn.verifier)()
    assert distance(p, law(rule, p, drafts, 2)[0], 3) < 1e-6


def test_drawn_trees_say_what_they_were_drawn_from() -> None:
    one = drafter(StandDrawn)
    asked = session(one, [1, 2, 3, 1, 2, 4, 1, 2, 5, 1])
    seen = set()
    for seed in range(30):
        asked.request.sampling = Sampling(temperature=0.9, seed=seed)
        tree = one.propose(asked, WIDE)
        assert tree.kind == "without_replacement"
        assert tree.dist.sum(-1).tolist() == pytest.approx([1.0] * len(tree.dist))
        for node, siblings in enumerate(tree.children):
            assert len({tree.dist_row[child] for child in siblings}) <= 1, node
            for child in siblings:
                row = tree.dist[tree.dist_row[child]]
                assert float(row[tree.tokens[child]]) == pytest.approx(tree.q[child])
        seen.add(tuple(tree.tokens))
        assert one.propose(asked, WIDE).tokens == tree.tokens, "the same seed, the same tree"
    assert len(seen) > 5
    assert one.propose(asked, Budget(0)).kind == "without_replacement"


def test_below_an_unlikely_draw_nothing_grows() -> None:
    made = table({(t,): {1: 0.6, 2: 0.3, 3: 0.1} for t in range(5)})
    noise = torch.rand(41, 3, generator=torch.Generator().manual_seed(1)).double().numpy()
    template = stand_template.read(stand_template.BUNDLED / "drawn.json", drawn=True)
    sprout = DrawnSprout(made, (1,), WARM, Budget(40, 10, 0.15), (), noise)
    sprout.fill(template)
    tree = sprout.drawn_tree(5)
    inner = [node for node in range(len(tree)) if tree.children[node + 1]]
    assert inner
    assert min(tree.joint[node] for node in inner) >= 0.15 > min(tree.joint)
    assert len(tree.children[0]) == 3, "nobody goes for its own probability"


def test_greedy_text_is_drafted_without_chance() -> None:
    both = [drafter(Stand), drafter(StandDrawn)]
    fixed, of_drawn = (
        one.propose(session(one, [1, 2, 3, 1, 2, 4, 1], Sampling()), WIDE) for one in both
    )
    assert of_drawn.kind == "without_replacement"
    assert len(fixed) > 3
    assert (fixed.tokens, fixed.parents) == (of_drawn.tokens, of_drawn.parents)


# --- fixed children -------------------------------------------------------------------------------


def test_best_first_takes_the_largest_joint_probabilities() -> None:
    dice = random.Random(4)
    rows = {}
    for key in range(4):
        weights = sorted((dice.random() for _ in range(3)), reverse=True)
        rows[key,] = {t: w / 2.5 for t, w in zip(dice.sample(range(4), 3), weights, strict=True)}
    every = []
    for depth in range(1, 5):
        for path in itertools.product(range(4), repeat=depth):
            steps = list(zip((0, *path), path, strict=False))
            if all(b in rows[a,] for a, b in steps):
                every.append(math.prod(rows[a,][b] for a, b in steps))
    for nodes in (1, 5, 17):
        sprout = Sprout(table(rows), (0,), WARM, Budget(nodes, 4))
        sprout.best_first()
        joint = sprout.tree().joint
        assert joint == sorted(joint, reverse=True)
        assert joint == pytest.approx(sorted(every, reverse=True)[:nodes], abs=1e-6)


@pytest.mark.parametrize("shape", ["best_first", "template"])
def test_budget_and_eos(shape: str) -> None:
    context = Context(32, (3,), "")
    one = drafter(context=context, shape=shape)
    asked = session(one, [1, 2, 1, 3, 1, 2, 1, 3, 1])
    for nodes, depth, least in [(0, 3, 0.0), (9, 0, 0.0), (9, 1, 0.0), (6, 5, 0.0), (40, 9, 0.02)]:
        tree = one.propose(asked, Budget(nodes, depth, least))
        assert len(tree) <= nodes
        assert tree.depth <= depth
        assert all(joint >= least for joint in tree.joint)
        assert all(not tree.children[i + 1] for i, t in enumerate(tree.tokens) if t == 3)
    assert one.propose(asked, WIDE).depth > 2


def test_a_template_gives_ranks_and_skips_what_has_no_token(tmp_path: Path) -> None:
    stand_template.save(tmp_path / "t.json", [(0,), (5,), (5, 0), (1,), (0, 1)], {})
    one = drafter(shape="template", template=tmp_path / "t.json", shortest=1, longest=1)
    asked = session(one, [0])
    store = asked.memo["stand"]
    store.learn((0,), [1, 2], [0.6, 0.3])
    store.learn((1,), [4, 3], [0.5, 0.4])
    tree = one.propose(asked, WIDE)
    assert (list(tree.tokens), list(tree.parents)) == ([1, 2, 3], [-1, -1, 0])


def test_evidence_tells_key_lengths_and_sightings_apart() -> None:
    made = StandTable((1, 2, 3, 4), trust=0.0)
    found = set()
    for n in range(1, 5):
        for times in (1, 2):
            key = tuple(100 * n + 10 * times + i for i in range(n))
            for _ in range(times):
                made.learn(key, [1], [0.9])
            sprout = Sprout(made, (0, 0, 0, *key)[-4:], WARM, Budget(1, 1))
            sprout.best_first()
            found.add(sprout.tree().evidence[0])
    assert found == set(range(CLASSES))


# --- learning -------------------------------------------------------------------------------------


def test_rows_are_learned_under_the_text_that_they_follow() -> None:
    """A chain of three, of which one stood; a tree that is not what was proposed will do."""
    one = drafter(prompt=0.0)
    asked = session(one, [1, 2, 3, 4])
    tree = DraftTree.chain([5, 6, 7])
    logits = torch.full((4, 32), -9.0)
    for row, token in enumerate((5, 8, 9, 10)):
        logits[row, token] = 9.0
    asked.tokens += [5, 8]
    one.observe(asked, step(4, tree, logits, [0, 1]))
    store = asked.memo["stand"]

    def best(*tail: int):
        hit = store.find(tail)
        return hit and (hit[0], hit[1].tokens[0])

    assert best(1, 2, 3, 4) == (4, 5)
    assert best(2, 3, 4, 5) == (4, 8)
    assert best(3, 4, 5, 6) == (4, 9), "a rejected node's row is the target's, too"
    assert best(4, 5, 6, 7) == (4, 10)
    committed = drafter(prompt=0.0, all_nodes=False)
    asked = session(committed, [1, 2, 3, 4])
    asked.tokens += [5, 8]
    committed.observe(asked, step(4, tree, logits, [0, 1]))
    assert asked.memo["stand"].find((6,)) is None
    assert asked.memo["stand"].find((5,)) is not None


def test_rows_that_nobody_knows_teach_nothing() -> None:
    one = drafter(prompt=0.0)
    asked = session(one, [1, 2])
    asked.tokens += [3]
    one.observe(asked, step(2, DraftTree([3, 4], [-1, -1]), torch.zeros(3, 32), [0],
                            known=[True, False, False]))  # fmt: skip
    assert asked.memo["stand"].find((2,)) is not None
    assert asked.memo["stand"].find((3,)) is None
    one.observe(asked, step(2, EMPTY, torch.zeros(1, 32), [0], known=[False]))


def test_one_temperature_does_not_poison_another() -> None:
    """What a cold request taught serves a hot one as if a hot one had taught it."""
    logits = torch.randn(1, 32, generator=torch.Generator().manual_seed(5))
    trees = []
    for taught in (Sampling(temperature=0.2), Sampling(temperature=1.3)):
        one = drafter(prompt=0.0)
        asked = session(one, [1, 2], taught)
        asked.tokens += [3]
        one.observe(asked, step(2, EMPTY, logits, [0]))
        asked.tokens += [1, 2]
        asked.request.sampling = WARM
        trees.append(one.propose(asked, WIDE))
    assert trees[0] == trees[1]
    asked.request.sampling = Sampling(temperature=0.2)
    assert one.propose(asked, WIDE).q[0] > trees[0].q[0]


def test_the_second_answer_to_a_prompt_takes_fewer_steps() -> None:
    """Check 5: under `walk` a seed's text is the same, so that only the table differs."""
    loaded = load(str(demo_model()), dtype="float32")  # rows of bfloat16 hang on their number
    engine = Engine(loaded.target, loaded.tokenizer, method="plain", policy="fixed")
    ways = {"cold": [1], "warm": [2, 1]}  # seeds of the answers, the last one counts
    steps = dict.fromkeys(ways, 0)
    for text in demo_prompts("maths", 3):
        prompt, written = encode_prompt(engine.tokenizer, text), []
        for way, seeds in ways.items():
            one = drafter(context=engine.context)
            method = build(engine.target, engine.context, one, "fixed", None, None, {"nodes": 16})
            for seed in seeds:
                asked = tiny.request(prompt, 48, Sampling(temperature=0.6, seed=seed))
                done = engine.run([asked], method)[0]
            steps[way] += done.stats.steps
            written.append(done.tokens)
        assert written[0] == written[1]
    assert steps["warm"] < 0.95 * steps["cold"]


# --- artifacts ------------------------------------------------------------------------------------


def test_state_is_keyed_by_the_tokenizer() -> None:
    one = drafter(context=Context(32, (), "mine"))
    session(one, [1, 2, 3])
    state = json.loads(json.dumps(one.state()))
    twin = drafter(context=Context(32, (), "mine"))
    twin.load(state)
    twin.load({})
    assert twin.state() == one.state()
    with pytest.raises(ArtifactError, match="stand: .*tokenizer mine"):
        drafter(context=Context(32, (), "other")).load(state)
    assert drafter(scope="request").state() == {}
    for broken in (
        {**state, "stores": 3},
        {**state, "stores": {"": 3}},
        {"tokenizer_hash": "mine"},
        {"stores": {}},
    ):
        with pytest.raises(ArtifactError, match="stand: "):
            drafter(context=Context(32, (), "mine")).load(broken)


def test_memory_is_bounded() -> None:
    one = drafter(max_rows=50)
    for seed in range(5):
        asked = session(one, tiny.prompt(seed, 100, 32))
        assert len(asked.memo["stand"]) <= 50
        one.end(asked)
        assert not asked.memo


@pytest.mark.parametrize(
    ("values", "said"),
    [({"shortest": 5}, "shortest must not exceed longest"), ({"width": 0}, "stand.width"),
     ({"shape": "round"}, "stand.shape"), ({"keys": 3}, "stand.keys")],
)  # fmt: skip
def test_bad_options_are_named(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        drafter(**values)


def test_bundled_templates_are_whole() -> None:
    for name, is_drawn in (("fixed", False), ("drawn", True)):
        assert len(stand_template.read(stand_template.BUNDLED / f"{name}.json", is_drawn)) == 80


def test_a_bad_template_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    stand_template.save(path, [(0,), (1,), (0, 0)], {"model": "x"})
    assert stand_template.read(path, drawn=True)[2] == (0, 0)
    document = json.loads(path.read_text())
    whole = {
        "damaged": {**document, "paths": [[0], [2]]},
        "version 9": {**document, "version": 9},
        "not a tree": {"paths": [[0]]},
    }
    for said, broken in whole.items():
        path.write_text(json.dumps(broken))
        with pytest.raises(ArtifactError, match=said):
            stand_template.read(path, drawn=False)
    path.write_text("{")
    with pytest.raises(ArtifactError, match="not a tree"):
        stand_template.read(path, drawn=False)
    with pytest.raises(ArtifactError, match="No such file"):
        drafter(template=tmp_path / "none.json")
    stand_template.save(path, [(1,)], {})
    drafter(template=path)
    with pytest.raises(ArtifactError, match="elder sibling"):
        drafter(StandDrawn, template=path)
    stand_template.save(path, [(0, 0)], {})
    with pytest.raises(ArtifactError, match="before its parent"):
        drafter(template=path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"], "nothing temporary stays"
