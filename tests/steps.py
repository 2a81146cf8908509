"""Sessions and steps that never ran, for policies, which look at a few of their fields."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from foretoken.tree import DraftTree
from foretoken.types import Budget, Level, Sampling

CONTEXT = 50  # tokens of every session


def session(name: str = "stub", seed: int = 0, temperature: float = 0.0, **drafter: Any) -> Any:
    """A session of a drafter called `name`."""
    told = {
        "name": name, "ways": ("",), "first_way": "", "runs_model": True, "emits": "point",
        "gives": frozenset(), "trains": False, "calibrated": False, **drafter,
    }  # fmt: skip
    sampling = Sampling(temperature=temperature, seed=seed)
    return SimpleNamespace(
        tokens=[0] * CONTEXT, memo={}, begun=True, drafter=SimpleNamespace(**told),
        request=SimpleNamespace(sampling=sampling), finish_reason=None, room=50,
    )  # fmt: skip


def chain(*q: float) -> DraftTree:
    """A chain of these draft probabilities."""
    return DraftTree.chain(list(range(len(q))), list(q))


def levels(n: int) -> DraftTree:
    """A chain of n tokens."""
    return chain(*[0.9] * n)


def step(
    tree: DraftTree,
    accepted: int,
    seconds: float = 1.0,
    draft: float = 0.0,
    *,
    batch: int = 1,
    fresh: int = 1,
    budget: Budget | None = None,
) -> Any:
    """A finished step; the path is the first `accepted` nodes. seconds, draft: of one session."""
    given = Budget(len(tree), max(tree.depth, 1)) if budget is None else budget
    return SimpleNamespace(
        tree=tree, batch=batch, fresh=fresh, prompts=0, context=CONTEXT,
        rows=batch * fresh + len(tree),
        budget=given, verdict=SimpleNamespace(path=tuple(range(accepted)), bonus=-1),
        committed=SimpleNamespace(tokens=[0] * (accepted + 1)),
        seconds={"draft": draft, "target": seconds, "verify": 0.0},
    )  # fmt: skip


def level(*q: float, depth: int = 1, nats: Sequence[float] = ()) -> Level:
    """A level of nodes below one row, whose entropy is `nats`."""
    return Level(depth, list(q), list(q), [0] * len(q), nats)
