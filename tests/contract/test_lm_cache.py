"""The law of `lm` drafters: the small model's cache is right after every kind of rollback.

Whatever stood, was cut or was never asked for, the next draft is that of a fresh drafter given the
same tokens; in company as alone; and one forward makes one level, whatever the width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar

import pytest
import torch

from foretoken import registry
from foretoken.draft.lm import LmDrafter
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.policy.base import Policy
from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree
from foretoken.types import Budget, Options, Request, Sampling, Session, Verdict
from foretoken.verify.base import Verifier
from tests import tiny

VOCAB, DEPTH, NODES = 32, 4, 16
NAMES = [
    n
    for n in registry.names("drafter")
    if issubclass(registry.find("drafter", n), LmDrafter) and n.startswith("lm")
]  # fmt: skip; `rasd` adds what it retrieved to the levels of its model
SAMPLING = {
    "greedy": {},
    "drawn": {"temperature": 1.0},
    "processed": {"temperature": 0.8, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.2},
}


class Scripted(Verifier):
    """Accepts by turns nothing, all, half of a branch; the bonus is now and then a drafted token."""

    name, summary, source = "scripted", "-", "-"
    exact: ClassVar[frozenset[str]] = frozenset()
    accepts = frozenset(KINDS)

    def __init__(self) -> None:
        self.turn = count()
        self.seen: set[str] = set()

    def judge(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        turn = next(self.turn)
        leaves = [n for n in range(len(tree)) if not tree.children[n + 1]]
        path = tree.path(leaves[turn % len(leaves)]) if leaves else []
        path = path[: (0, len(path), len(path) // 2)[turn % 3]]
        drafted = {tree.tokens[c] for c in tree.children[(path[-1] if path else -1) + 1]}
        others = [t for t in range(VOCAB) if (t in drafted) == (turn % 4 == 3 and bool(drafted))]
        kind = "none" if not path else "all" if not tree.children[path[-1] + 1] else "part"
        self.seen |= {kind if tree else "no draft", "old bonus" if drafted & set(others) else "new"}
        return Verdict(tuple(path), others[turn * 7 % len(others)])

    decide = judge


class NowAndThen(Policy):
    """Drafts in some steps only: one forward less to follow the text with."""

    name, summary, source = "now-and-then", "-", "-"

    def __init__(self) -> None:
        super().__init__(Options(), None)
        self.turn = count()

    def budget(self, session: Session) -> Budget:
        return Budget((NODES, NODES, 0, 5, 0, 0, 0, 0, 0, NODES)[next(self.turn) % 10])


def make(name: str, **options: Any) -> LmDrafter:
    cls = registry.find("drafter", name)
    values = {"model": tiny.small_model(VOCAB), "depth": DEPTH, **options}
    made: LmDrafter = cls(cls.Options(**values), tiny.context(VOCAB))
    return made


def method(name: str, verifier: Any = None, policy: Any = "fixed", **options: Any) -> Method:
    made = make(name, **options)
    nodes = {"nodes": NODES} if policy == "fixed" else None
    return build(tiny.target("small"), made.context, made, policy, verifier, None, nodes)


def request(seed: int, length: int, setting: str, new: int = 60) -> Request:
    sampling = Sampling(**SAMPLING[setting], seed=seed)
    return tiny.request(tiny.prompt(seed, length, VOCAB), new, sampling)


def fresh(drafter: LmDrafter, session: Session, budget: Budget) -> DraftTree:
    """What a drafter that knows nothing but the tokens proposes."""
    other = replace(session, memo={})
    other.drafter = type(drafter)(drafter.options, drafter.context)
    tree = other.drafter.propose(other, budget)
    other.drafter.end(other)
    return tree


def same(one: DraftTree, other: DraftTree) -> None:
    assert list(one.tokens) == list(other.tokens)
    assert list(one.parents) == list(other.parents)
    assert list(one.draw_nodes) == list(other.draw_nodes)
    assert list(one.q) == pytest.approx(list(other.q), abs=1e-5)
    assert (one.dist is None) == (other.dist is None)
    if one.dist is not None:
        torch.testing.assert_close(one.dist, other.dist, atol=1e-5, rtol=1e-4)


Asked = Sequence[tuple[Session, Budget]]


def watch(drafter: LmDrafter, spy: Callable[[Asked, list[DraftTree]], None]) -> None:
    """Call `spy` after every proposal."""
    original = drafter.propose_batch

    def propose_batch(asked: Asked) -> list[DraftTree]:
        trees = original(asked)
        spy(asked, trees)
        return trees

    drafter.propose_batch = propose_batch  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> None:
    yield
    assert not tiny.small_model(VOCAB).pool.handles


@pytest.mark.parametrize("setting", ["greedy", "processed"])
@pytest.mark.parametrize("name", NAMES)
def test_every_draft_is_that_of_a_fresh_drafter(name: str, setting: str) -> None:
    """All, part or nothing of a draft stood; plain steps; three sessions that end apart."""
    verifier = Scripted()
    chosen = method(name, verifier, NowAndThen())
    compared = []

    def spy(asked: Asked, trees: list[DraftTree]) -> None:
        for (session, budget), tree in zip(asked, trees, strict=True):
            same(tree, fresh(chosen.drafter, session, budget))
            compared.append(len(tree))

    watch(chosen.drafter, spy)
    engine = Engine(tiny.target("small"), method="plain")
    engine.run([request(i, n, setting, 20 + 6 * i) for i, n in enumerate((1, 14, 5))], chosen)
    assert verifier.seen >= {"none", "all", "part", "no draft", "old bonus", "new"}
    assert len(compared) > 10
    assert all(compared)


@pytest.mark.parametrize("setting", ["greedy", "processed"])
@pytest.mark.parametrize("name", NAMES)
def test_eight_sessions_draft_as_each_alone(name: str, setting: str) -> None:
    chosen, engine = method(name), Engine(tiny.target("small"), method="plain")
    lengths = (1, 3, 30, 2, 17, 8, 1, 5)
    sessions = [engine.add(request(i, n, setting), chosen) for i, n in enumerate(lengths)]
    for _ in range(3):
        engine.step()
    budgets = [Budget((NODES, 1, 7)[i % 3], (DEPTH, 1, 2)[i // 3 % 3]) for i in range(8)]
    asked = list(zip(sessions, budgets, strict=True))
    for session, budget, tree in zip(
        sessions, budgets, chosen.drafter.propose_batch(asked), strict=True
    ):
        same(tree, fresh(chosen.drafter, session, budget))
        assert 0 < len(tree) <= budget.nodes
    for session in sessions:
        engine.cancel(session)


@pytest.mark.parametrize("setting", ["greedy", "drawn"])
@pytest.mark.parametrize("name", NAMES)
def test_one_forward_makes_one_level(name: str, setting: str) -> None:
    """Eight sessions or one, narrow or wide; the last level is not scored."""
    chosen, engine = method(name), Engine(tiny.target("small"), method="plain")
    model, forwards, seen = tiny.small_model(VOCAB).model, [], []

    def spy(_: Asked, trees: list[DraftTree]) -> None:
        seen.append((len(forwards), trees))
        forwards.clear()

    sessions = [engine.add(request(i, 4, setting), chosen) for i in range(8)]
    engine.step()  # from here on no prompt is read
    hook = model.get_input_embeddings().register_forward_hook(lambda *_: forwards.append(1))
    watch(chosen.drafter, spy)
    for session in sessions[1:]:
        engine.step()
        engine.step()
        engine.cancel(session)
    engine.step()
    hook.remove()
    engine.cancel(sessions[0])
    for n, trees in seen:
        depth = max(tree.depth for tree in trees)
        assert depth <= n <= min(depth + 1, DEPTH), "one more where a level gave no better node"
    assert max(n for n, _ in seen) >= DEPTH - 1, "drafts of several levels"
    if not all(tree.is_chain for _, trees in seen for tree in trees):
        assert max(len(tree) - tree.depth for _, trees in seen for tree in trees) >= DEPTH


@pytest.mark.parametrize("name", NAMES)
def test_proposals_that_nobody_scores(name: str) -> None:
    """Asked twice, or on the side between steps, a drafter answers as before."""
    chosen, engine = method(name), Engine(tiny.target("small"), method="plain")
    session = engine.add(request(1, 9, "drawn"), chosen)
    wide, narrow = Budget(NODES), Budget(3, 2)
    for _ in range(6):
        engine.step()
        trees = [chosen.drafter.propose(session, budget) for budget in (wide, narrow, wide)]
        same(trees[0], trees[2])
        same(trees[0], fresh(chosen.drafter, session, wide))
        assert chosen.drafter.propose(session, Budget(0)).depth == 0
    engine.cancel(session)


@pytest.mark.parametrize("how", ["cancel", "score", "drafter", "observe", "stop"])
@pytest.mark.parametrize("name", NAMES)
def test_memory_comes_back(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel, an exception anywhere, a stop inside an accepted run (the fixture looks)."""
    target, small = tiny.fresh_target("small"), tiny.small_model(VOCAB)
    made = make(name)
    chosen = build(target, made.context, made, "fixed", Scripted(), None, {"nodes": NODES})
    engine = Engine(target, method="plain")
    stop = {"eos_token_ids": tuple(range(0, VOCAB, 2))} if how == "stop" else {}
    sampling = Sampling(temperature=1.0)
    sessions = [
        engine.add(tiny.request([3, 1, 4][:n], 30, sampling, **stop), chosen) for n in (1, 2, 3)
    ]
    engine.step()
    broken = {"score": (target, "_call"), "drafter": (small, "_call"), "observe": (made, "observe")}

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("on purpose")

    if how in broken:
        assert len(small.pool.handles) == 3
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="on purpose"):
            patch.setattr(*broken[how], fail)
            engine.step()
    elif how == "cancel":
        engine.cancel(sessions[1])
        engine.step()
    else:
        while engine.step():
            pass
    for session in sessions:
        engine.cancel(session)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_session_drafts_as_a_new_one(name: str) -> None:
    chosen, engine = method(name), Engine(tiny.target("small"), method="plain")
    first = engine.add(replace(request(1, 9, "drawn", 8), keep_cache=True), chosen)
    while engine.step():
        pass
    longer = replace(request(2, 1, "drawn"), prompt=[*first.tokens, 5, 6])
    session = engine.add(longer, chosen, resume=first)
    budget = Budget(NODES)
    for _ in range(3):
        engine.step()
        tree = chosen.drafter.propose(session, budget)
        same(tree, fresh(chosen.drafter, session, budget))
    engine.cancel(session)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_beyond_the_small_models_context(name: str) -> None:
    """Drafts get shallower and end; the text goes on as plain decoding would write it."""
    made = make(name, model=tiny.fresh_target("tight"))
    target, limit = tiny.target("small"), made.model.target.max_context
    chosen = build(target, made.context, made, "fixed", "walk", None, {"nodes": NODES})
    deepest: dict[int, int] = {}

    def spy(asked: Asked, trees: list[DraftTree]) -> None:
        for (session, _), tree in zip(asked, trees, strict=True):
            deepest[len(session.tokens)] = tree.depth

    watch(made, spy)
    prompts = [tiny.prompt(1, 18, VOCAB), tiny.prompt(2, 40, VOCAB)]
    done = Engine(target, method="plain").run([tiny.request(p, 20) for p in prompts], chosen)
    assert [c.tokens for c in done] == tiny.generate("small", prompts, 20)
    assert {n: d for n, d in deepest.items() if n > limit} == {n: 0 for n in deepest if n > limit}
    assert all(d <= limit - n + 1 for n, d in deepest.items() if n <= limit)
    assert all(d for n, d in deepest.items() if n <= limit)
