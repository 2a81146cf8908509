"""Drafters and policies on a stage: recorded, timed, priced or silenced without their knowing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import median
from time import thread_time
from typing import Any, NamedTuple

from foretoken.draft.base import Context, Drafter
from foretoken.engine.build import options as checked
from foretoken.errors import ConfigError
from foretoken.policy.base import Policy
from foretoken.registry import find, names
from foretoken.target.replay import ReplayTarget
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Options, Session, Step

_PASSED_ON = (
    "name", "needs", "emits", "verifier", "nodes", "runs_model", "calibrated", "ways",
    "first_way",
)  # fmt: skip


class Price(NamedTuple):
    """Seconds that a drafter takes in a step."""

    propose: float = 0.0  # where it is asked
    learn: float = 0.0


def candidates() -> list[str]:
    """Drafters that a recorded text can judge: they draft fixed nodes and run no model."""
    known = {name: find("drafter", name) for name in names("drafter")}
    return [name for name, cls in known.items() if _fits(cls) and not cls.testing]


def check_method(name: str) -> None:
    """Raises ConfigError for a drafter that is none of these (one for tests may be named)."""
    if not _fits(find("drafter", name)):
        raise ConfigError("methods", name, f"one of {', '.join(candidates())}")


def policies() -> list[str]:
    """Policies that such drafters can serve: they ask for nothing that only a model of one's own
    gives."""
    return [name for name in names("policy") if not find("policy", name).needs]


def check_policy(name: str) -> None:
    """Raises ConfigError for a policy that is none of these."""
    if find("policy", name).needs:
        raise ConfigError("policies", name, f"one of {', '.join(policies())}")


def _fits(cls: type[Drafter]) -> bool:
    return bool(cls.nodes) and cls.emits == "point" and not cls.runs_model


def make(name: str, context: Context) -> Drafter:
    """A fresh drafter of a name; of a mixture, the sources that run no model. Raises ConfigError
    for one that cannot be made without options, or as `check_method`."""
    check_method(name)
    cls: type[Drafter] = find("drafter", name)
    sources = _light_sources(name, context)
    given = {} if sources is None else {"sources": sources}
    made: Drafter = cls(checked(cls.Options, given, name), context)
    return made


@cache
def _light_sources(name: str, context: Context) -> tuple[str, ...] | None:
    """Sources of a mixture that run no model, if others do. Kept: to know, models are loaded."""
    cls: type[Drafter] = find("drafter", name)
    parts: Sequence[Drafter] = getattr(cls(checked(cls.Options, {}, name), context), "parts", ())
    if not any(part.runs_model for part in parts):
        return None
    return tuple(part.name for part in parts if not part.runs_model)


class Staged(Drafter):
    """Passes everything on to a drafter. It can be silenced (`out`); what it takes is measured, and
    charged to the clock of the target at a given price. Measured is the thread's processor time,
    which other programs on the machine do not stretch."""

    def __init__(self, inner: Drafter, price: Price = Price()) -> None:  # noqa: B008  immutable
        super().__init__(inner.options, inner.context)
        self.__dict__.update({field: getattr(inner, field) for field in _PASSED_ON})
        self.inner, self.price = inner, price
        self.out = False
        self.target: ReplayTarget | None = None  # whose clock is charged
        self._proposing: list[float] = []
        self._learning: list[float] = []

    @property
    def measured(self) -> Price:
        """Medians of the processor time that it took so far."""
        return Price(
            median(self._proposing) if self._proposing else 0.0,
            median(self._learning) if self._learning else 0.0,
        )

    def begin(self, session: Session) -> None:
        """Passed on."""
        self.inner.begin(session)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """`propose_batch` of one."""
        return self.propose_batch([(session, budget)])[0]

    def propose_batch(self, asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        """What the drafter says; nothing while it is out."""
        if self.out:
            return [EMPTY for _ in asked]
        start = thread_time()
        trees = self.inner.propose_batch(asked)
        self._proposing.append(thread_time() - start)
        self._charge(self.price.propose)
        return trees

    def observe(self, session: Session, step: Step) -> None:
        """Passed on: a drafter that is out goes on learning."""
        start = thread_time()
        self.inner.observe(session, step)
        self._learning.append(thread_time() - start)
        self._charge(self.price.learn)

    def _charge(self, seconds: float) -> None:
        if self.target is not None:
            self.target.spend(seconds)

    def end(self, session: Session) -> None:
        """Passed on."""
        self.inner.end(session)

    def state(self) -> dict[str, Any]:
        """Passed on."""
        return self.inner.state()

    def load(self, state: dict[str, Any]) -> None:
        """Passed on."""
        self.inner.load(state)


class Shadow(Policy):
    """Asks for a draft in every step and has nothing of it scored: every step is plain, and what
    would have been proposed at every position is known. For one session at a time."""

    name = "shadow"
    summary = "ask at every position, score nothing (recordings)"
    source = "own"

    def __init__(self, nodes: int, depth: int) -> None:
        super().__init__(Options())
        self._budget = Budget(nodes, depth)
        self.proposed: list[DraftTree] = []  # one a step

    def budget(self, session: Session) -> Budget:  # noqa: ARG002
        """As much as was said at the start."""
        self.proposed.append(EMPTY)
        return self._budget

    def cut(self, session: Session, tree: DraftTree) -> DraftTree:  # noqa: ARG002
        """Keep the tree; score nothing."""
        self.proposed[-1] = tree
        return EMPTY
