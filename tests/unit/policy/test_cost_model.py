"""cost-model: the best number of nodes, no drafting that does not pay, and calibrated promises."""

import random
from itertools import count, product
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken.policy.cost_model import CostModel
from foretoken.target.cost import CostCurve
from foretoken.tree import DraftTree
from foretoken.types import Level


def curve(*points):
    """Seconds of 1, 2, 3 ... rows."""
    return CostCurve(rows=tuple(range(1, len(points) + 1)), contexts=(1,), seconds=(points,))


INDICES = count()
FREE = curve(1.0, 1.0)
DEAR = curve(1.0, 3.0, 5.0)


def policy(shape, **options):
    """Rich in allowance where that is not the point: what is worth it is also affordable."""
    given = {"nodes": 32, "slack": 0.02, "allowance": 100.0, **options}
    return CostModel(CostModel.Options(**given), shape)


class Stub(SimpleNamespace):
    """A drafter: known by what it is, not by what it holds."""

    __hash__ = object.__hash__


def session(calibrated=True, **drafter):
    told = {"name": "stub", "ways": ("",), "first_way": "", "runs_model": False, "emits": "point",
            "gives": frozenset(), "trains": False, **drafter}  # fmt: skip
    return SimpleNamespace(
        index=next(INDICES),
        begun=True,
        tokens=[0] * 50,
        memo={},
        drafter=Stub(calibrated=calibrated, **told),
        finish_reason=None,
        room=50,
    )


def outcome(tree, accepted, seconds=1.0, draft=0.0, batch=1, bonus=-1):
    return SimpleNamespace(
        tree=tree, batch=batch, fresh=1, prompts=0, context=50, rows=batch * (1 + len(tree)),
        budget=SimpleNamespace(unseen=False),
        verdict=SimpleNamespace(path=tuple(range(accepted)), bonus=bonus),
        committed=SimpleNamespace(tokens=[0] * (accepted + 1)),
        seconds={"draft": draft, "target": seconds, "verify": 0.0},
    )  # fmt: skip


def chain(*q):
    return DraftTree.chain(list(range(len(q))), list(q))


@st.composite
def trees(draw):
    n = draw(st.integers(1, 9))
    parents = [draw(st.integers(-1, i - 1)) for i in range(n)]
    q = [draw(st.floats(0.05, 0.95)) for _ in range(n)]
    return DraftTree(list(range(n)), parents, q)


@settings(max_examples=60)
@given(tree=trees(), steps=st.lists(st.floats(0.0, 0.6), min_size=10, max_size=10))
def test_the_choice_is_the_best_of_all_subtrees(tree, steps):
    """Brute force over every subtree, with any rising cost (brief, check 1)."""
    seconds = [1.0]
    for step in steps:
        seconds.append(seconds[-1] + step)
    kept = policy(curve(*seconds)).cut(session(), tree)

    def value(nodes):
        return sum(tree.joint[i] for i in nodes) - (seconds[len(nodes)] - 1.0)

    best = 0.0
    for mask in range(1 << len(tree)):
        nodes = [i for i in range(len(tree)) if mask >> i & 1]
        if all(tree.parents[i] < 0 or mask >> tree.parents[i] & 1 for i in nodes):
            best = max(best, value(nodes))
    inside = {tuple(tree.tokens[i] for i in tree.path(n)): n for n in range(len(tree))}
    chosen = [inside[tuple(kept.tokens[i] for i in kept.path(n))] for n in range(len(kept))]
    assert value(chosen) == pytest.approx(best, abs=1e-9)


def test_a_step_in_the_cost_is_crossed_when_it_pays():
    """The first node costs a bucket of eight and does not pay for it; eight nodes do."""
    stepped = curve(1.0, *[2.2] * 8, *[3.4] * 8)
    kept = policy(stepped).cut(session(), chain(*[0.85] * 12))
    assert len(kept) == 8


@settings(max_examples=40)
@given(
    drafts=st.lists(st.lists(st.floats(0.05, 0.95), min_size=1, max_size=4), min_size=2, max_size=3),
    steps=st.lists(st.floats(0.0, 0.4), min_size=12, max_size=12),
)  # fmt: skip
def test_sessions_are_chosen_for_together(drafts, steps):
    """Brute force over all lengths of all sessions; all are as wide as the widest."""
    batch, seconds = len(drafts), [1.0]
    for step in [*[0.0] * (batch - 1), *steps]:
        seconds.append(seconds[-1] + step)
    shape = curve(*seconds)
    offered = [chain(*q) for q in drafts]

    def value(lengths):
        joints = [sum(t.joint[:n]) for t, n in zip(offered, lengths, strict=True)]
        rows = batch * (1 + max(lengths))
        return sum(joints) - (shape(rows) - shape(batch)) * batch / shape(batch)

    kept = policy(shape).cut_batch([(session(), tree) for tree in offered])
    best = max(map(value, product(*(range(len(t) + 1) for t in offered))))
    assert value([len(tree) for tree in kept]) == pytest.approx(best, abs=1e-9)


def test_promises_that_are_not_kept_count_less():
    learned, s = policy(curve(1.0, 1.4)), session(calibrated=False)
    assert len(learned.cut(s, chain(0.6))) == 1
    for _ in range(40):
        learned.budget(s)
        tree = learned.cut(s, chain(0.6))
        learned.observe(s, outcome(tree, 0, 1.4 if len(tree) else 1.0))
    kept = learned.cut(session(calibrated=False), chain(0.6))
    assert len(kept) == 0


def test_the_cut_carries_the_probabilities_it_was_made_by():
    learned, s = policy(FREE), session(calibrated=False)
    for _ in range(60):
        learned.budget(s)
        learned.observe(s, outcome(learned.cut(s, chain(0.9)), 0))
    kept = learned.cut(s, chain(0.9))
    assert not kept.q or kept.q[0] < 0.3


def test_a_dear_drafter_that_never_hits_is_asked_seldom():
    p, s, asked = policy(FREE), session(), 0
    for _ in range(400):
        budget = p.budget(s)
        asked += budget.nodes > 0
        spent = 0.5 if budget.nodes else 0.0
        p.observe(s, outcome(DraftTree(), 0, 1.0, spent))
    assert asked < 30


def test_later_texts_are_tried_as_well():
    """A drafter that does not pay in the first texts is tried again in others, seldom."""
    p, asked = policy(FREE, slack=0.02), []
    for text in range(40):
        s = session()
        for _ in range(60):
            budget = p.budget(s)
            if budget.nodes:
                asked.append(text)
            p.observe(s, outcome(DraftTree(), 0, 1.0, 0.5 if budget.nodes else 0.0))
    assert len([text for text in asked if text >= 10]) > 5
    assert len(asked) < 0.04 * 40 * 60


def test_a_batch_asks_together_or_tries_with_a_few():
    p = policy(curve(*[1.0] * 8, 1.001), slack=0.02)
    riders = [session() for _ in range(8)]

    def step(stands):
        budgets = p.budgets(riders)
        asking = [s for s, b in zip(riders, budgets, strict=True) if b.nodes]
        trees = p.cut_batch([(s, chain(0.9)) for s in asking]) if asking else []
        offered = dict(zip([s.index for s in asking], trees, strict=True))
        for s, b in zip(riders, budgets, strict=True):
            tree = offered.get(s.index, DraftTree())
            took = 0.05 if b.nodes else 0.04  # watching is dear, too
            done = outcome(tree, len(tree) if stands else 0, 1.0 / 8, took, batch=8)
            done.budget = b
            p.observe(s, done)
        return len(asking), sum(b.unseen for b in budgets)

    first = [step(stands=True) for _ in range(30)]
    assert first[-1] == (8, 0)
    bad = [step(stands=False) for _ in range(600)]
    late = bad[200:]
    assert max(asking for asking, _ in late) <= 4
    assert sum(asking for asking, _ in late) < 0.1 * 8 * len(late)
    assert sum(left for _, left in late) > 0.8 * 8 * len(late)


def test_who_asks_bears_what_it_adds_and_others_pay_for_a_plain_step():
    p = policy(curve(1.0, 1.0, 1.0, 1.0, 1.8, 1.8, 1.8, 1.8), slack=0.02)
    one, *others = riders = [session() for _ in range(4)]
    for s in riders:
        p._ledger(s).askers, p._ledger(s).way = 0, None
    p._ledger(one).askers, p._ledger(one).way = 1, ""
    for s in riders:
        p.observe(s, outcome(chain(0.5) if s is one else DraftTree(), 0, 1.0 / 4, 0.0, batch=4)
                  if s is one else with_rows(8))  # fmt: skip
    assert [p._ledger(s).debt.owed for s in others] == pytest.approx([-0.02 / 4] * 3)
    assert p._ledger(one).debt.owed == pytest.approx(0.8 - 0.02 / 4)


def with_rows(rows):
    done = outcome(DraftTree(), 0, 1.0 / 4, 0.0, batch=4)
    done.rows = rows
    return done


def test_a_cheap_drafter_is_always_asked():
    p, s = policy(DEAR), session()
    for _ in range(100):
        assert p.budget(s).nodes == 32
        p.observe(s, outcome(DraftTree(), 0, 1.0, 0.001))


def test_drafting_comes_back_when_the_text_turns_easy():
    p, s = policy(curve(1.0, 1.5)), session(calibrated=False)

    def run(steps, stands):
        tokens = 0
        for _ in range(steps):
            tree = p.cut(s, chain(0.8)) if p.budget(s).nodes else DraftTree()
            accepted = int(stands and len(tree) > 0)
            bonus = 0 if stands and not accepted else -1  # the text goes where the draft would have
            seconds = 1.5 if len(tree) else 1.0
            p.observe(s, outcome(tree, accepted, seconds, 0.002, bonus=bonus))
            tokens += accepted
        return tokens

    assert run(300, stands=False) == 0
    run(200, stands=True)
    assert run(100, stands=True) > 90


@pytest.mark.parametrize("drafts", ["point", "without_replacement"])
def test_every_window_keeps_its_bound_whatever_is_drafted(drafts):
    """Nothing ever stands: time stays within (1 + slack) plain + allowance + credit."""
    p, s = policy(curve(1.0, 1.3, 1.6), allowance=1.0), session(emits=drafts)
    spent = 0.0
    n = 600
    for _ in range(n):
        budget = p.budget(s)
        tree = DraftTree()
        if budget.nodes:
            offered = chain(0.9, 0.9)
            tree = p.cut(s, offered) if drafts == "point" else chain(*[0.9] * min(2, budget.depth))
        draft = 0.05 if budget.nodes else 0.0
        seconds = 1.0 + 0.3 * len(tree)
        spent += seconds + draft
        p.observe(s, outcome(tree, 0, seconds, draft))
    assert spent <= 1.02 * n + 5.0 + 0.1
    assert spent > n  # it did try


def test_the_better_way_is_found():
    p, s = policy(FREE), session(ways=("free", "all"))
    asked = {"free": 0, "all": 0}
    for step in range(400):
        budget = p.budget(s)
        if budget.nodes and step > 100:
            asked[budget.way] += 1
        draft = 0.5 if budget.way == "all" else 0.001
        accepted = (3 if budget.way == "all" else 1) if budget.nodes else 0
        tree = chain(*[0.9] * accepted)
        p.observe(s, outcome(tree, accepted, 1.0, draft if budget.nodes else 0.0))
    assert asked["all"] > 4 * asked["free"]


def test_a_model_that_drafts_is_given_the_depth_that_pays():
    p, s, depth = policy(FREE), session(runs_model=True), 0
    for _ in range(300):
        budget = p.budget(s)
        depth = min(budget.depth, 8) if budget.nodes else 0
        accepted = min(depth, 2)
        p.observe(s, outcome(chain(*[0.9] * depth), accepted, 1.0, 0.1 * depth))
    assert depth in (2, 3)


@pytest.mark.parametrize(("dear", "best"), [(0.02, "free"), (0.9, "light")])
def test_a_part_of_a_way_is_asked_alone_only_where_that_saves_time(dear, best):
    """The fuller way brings half a token more, for little of a plain step or for nearly one."""
    p, s = policy(FREE), session(ways=("light", "free"), first_way="free")
    asked = {"light": 0, "free": 0}
    for _ in range(300):
        budget = p.budget(s)
        if budget.nodes:
            asked[budget.way] += 1
        draft = dear if budget.way == "free" else 0.001
        accepted = (asked["free"] % 2 + 1 if budget.way == "free" else 1) if budget.nodes else 0
        step = outcome(chain(0.9, 0.9), accepted, 1.0, draft)
        p.observe(s, step)
    other = "light" if best == "free" else "free"
    assert asked[best] > 4 * asked[other]
    assert best != "free" or asked[other] == 0


def test_nodes_that_cannot_pay_are_not_asked_for():
    """Each node takes a tenth of a plain step: those of less joint probability are left out, as far
    as the drafter's word can be taken."""
    shape = curve(*[1.0 + 0.1 * n for n in range(32)])
    honest, boaster = (policy(shape, allowance=100.0) for _ in range(2))
    for p, said in ((honest, 0.5), (boaster, 0.9)):
        s = session(calibrated=False)
        assert p.budget(s).min_prob == 0.0  # nobody knows yet
        dice = random.Random(1)
        for _ in range(200):
            p.budget(s)
            tree = p.cut(s, chain(said))
            p.observe(s, outcome(tree, int(dice.random() < 0.5) * len(tree), 1.0, 0.001))
    assert honest.budget(s).min_prob == pytest.approx(0.13, rel=0.3)
    told = boaster.budget(s).min_prob / honest.budget(s).min_prob
    assert told == pytest.approx(0.9 / 0.5, rel=0.2)


@pytest.mark.parametrize(("takes", "hoped"), [(0.05, True), (1.5, False)])
def test_what_a_dear_source_may_bring_is_hoped_by_the_time_of_its_levels(takes, hoped):
    """Its first draft tells, though it read the prompt as well: levels of a twentieth of a plain
    step may be worth it, levels that take longer than one can not."""
    p = policy(FREE)
    s = session(ways=("free", "all"), first_way="free", gives={"source levels"})
    for _ in range(60):
        budget = p.budget(s)
        dear = budget.way == "all"
        depth = 1
        while dear and p.go_on(s, level(0.8, depth, 0.8**depth, takes if depth > 1 else 0.0)):
            depth += 1
        draft = 5.0 + depth * takes if dear else 0.001
        p.observe(s, outcome(chain(0.8, 0.8), 1, 1.0, draft))
        if dear:
            break
    assert dear
    arm = p._ways_of(s.drafter).arms["all"]
    assert arm.depths.seconds == pytest.approx(takes)
    assert arm.seconds == pytest.approx(depth * takes, abs=0.01)
    assert arm.reading == pytest.approx(5.0 / 50, rel=0.1)
    assert (arm.gain > 0.8) if hoped else (arm.gain < 0.2)


def test_reading_a_prompt_teaches_nothing_about_time():
    p, s = policy(FREE), session()
    p.budget(s)
    step = outcome(DraftTree(), 0, 50.0)
    step.fresh = 400
    p.observe(s, step)
    assert p.worth is not None
    assert p.worth.share(s) == 1.0
    assert p._ledger(s).debt.owed <= 0.0


def test_what_cannot_be_afforded_whole_is_scored_in_part():
    """Thirty nodes would cost more than the allowance: the likeliest ones that it covers."""
    shape = curve(*[1.0 + 0.1 * n for n in range(32)])
    kept = policy(shape, allowance=1.0).cut(session(), chain(*[0.99] * 30))
    assert 8 <= len(kept) <= 11


def test_without_a_curve_everything_is_drafted():
    p = policy(None)
    assert p.budget(session()).nodes == 32
    assert len(p.cut(session(), chain(0.1, 0.1))) == 2


def level(q, depth, joint, seconds=0.0):
    return Level(depth, [q], [joint], [0], rows=[0] if depth > 1 else [], seconds=seconds)


def drafted(p, s, q, most=8):
    """Levels of a chain of nodes of probability q that is drafted while the policy says so."""
    budget, depth = p.budget(s), 0
    while depth < min(budget.depth, most):
        depth += 1
        if not p.go_on(s, level(q, depth, q**depth)):
            break
    return depth


def test_a_draft_ends_where_it_gets_improbable():
    """Levels at 0.1 plain steps each: a sure draft goes on, a doubtful one does not."""
    p = policy(FREE)
    s = session(calibrated=False, runs_model=True, gives={"levels"})
    for i in range(400):
        q = (0.95, 0.3)[i % 2]
        depth = drafted(p, s, q)
        accepted = depth if q > 0.5 else 0
        p.observe(s, outcome(chain(*[q] * depth), accepted, 1.0, 0.1 * depth))
    assert drafted(p, s, 0.95) >= 6
    assert drafted(p, s, 0.3) == 1


def test_levels_that_were_not_scored_cost_their_time():
    """Four levels are drafted and two are scored: a level takes a quarter of the time."""
    p, s = policy(FREE), session(runs_model=True)
    for _ in range(3):
        p.budget(s)
        p.cut(s, chain(*[0.9] * 4))
        p.observe(s, outcome(chain(0.9, 0.9), 0, 1.0, 0.4))
    assert p._arm_of(s).depths.seconds == pytest.approx(0.1)


def test_reading_the_prompt_for_the_first_draft_says_nothing_of_a_level():
    p, s = policy(FREE), session(runs_model=True)
    for draft in (30.0, 0.2, 0.2):
        p.budget(s)
        p.observe(s, outcome(chain(0.9, 0.9), 2, 1.0, draft))
    assert p._arm_of(s).depths.seconds == pytest.approx(0.1)


@pytest.mark.parametrize(("room", "asks"), [(4, False), (400, True)])
def test_a_text_that_is_too_short_is_not_read_by_the_drafter(room, asks):
    """Reading costs 20 plain steps; a draft brings two tokens for 0.2 of a step."""
    p = policy(FREE)
    for draft in (0.2, 20.0):  # two texts: the second is known to be read
        s = session(runs_model=True)
        for n in range(20):
            budget = p.budget(s)
            tree = chain(0.9, 0.9) if budget.nodes else DraftTree()
            p.observe(s, outcome(tree, len(tree), 1.0, 0.2 if n else draft))
    s = session(runs_model=True)
    s.room = room
    assert bool(p.budget(s).nodes) == asks
