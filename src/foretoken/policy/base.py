"""What a policy is: how much to propose in the next step. 0 nodes, a plain step, is allowed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from foretoken import types
from foretoken.policy.guard import Bounded, Guard
from foretoken.target.cost import CostCurve
from foretoken.tree import DraftTree
from foretoken.types import Budget, Level, Session, Step

if TYPE_CHECKING:
    from foretoken.draft.base import Drafter


class Policy(ABC):
    """Laws (tests/contract): never negative; with 0 nodes the output is unchanged."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    needs_curve: ClassVar[bool] = False  # whether it looks at the measured cost curve
    stops: ClassVar[bool] = False  # whether `go_on` is to be asked between a draft's levels
    # what the drafter must give (`Drafter.gives`): "entropy", "hidden", "shapes" ...
    needs: frozenset[str] = frozenset()

    guard: Guard | None = None  # bounds what is lost, where the options ask for it

    class Options(types.Options):
        """No options."""

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        self.options, self.curve = options, curve
        if isinstance(options, Bounded) and options.slack is not None and curve is not None:
            self.guard = Guard(options, curve)

    @classmethod
    def wants_curve(cls, options: Any) -> bool:
        """Whether `build` must hand over the measured cost curve for these options."""
        bounded = isinstance(options, Bounded) and options.slack is not None
        return cls.needs_curve or bounded

    def meet(self, drafter: Drafter) -> None:
        """This drafter will be asked. Called when a method is built, before any work, so that what
        a policy needs of a drafter's folder and does not find is refused at once (ConfigError,
        ArtifactError)."""

    def leaves(self, drafter: Drafter, riding: int) -> bool:  # noqa: ARG002
        """Whether the drafter is left alone now (`Budget.unseen`): a session that comes, while
        `riding` others are there, is shown to it when it is next asked or shown anything."""
        return False

    @abstractmethod
    def budget(self, session: Session) -> Budget:
        """How much the drafter may propose now."""

    def budgets(self, sessions: Sequence[Session]) -> list[Budget]:
        """`budget` for the sessions of one step."""
        return [self.budget(session) for session in sessions]

    def go_on(self, session: Session, level: Level) -> bool:  # noqa: ARG002
        """Whether to draft another level below the one that was just drafted.

        Asked where `halts` says so. A level that was drafted is submitted, whatever is answered: to
        drop a drawn token for what it is would bias the text (our notes on length-policies, U0),
        and the engine leaves no way to do it.
        """
        return True

    def halts(self, drafter: Drafter) -> bool:  # noqa: ARG002
        """Whether `go_on` is to be asked in this drafter's drafts."""
        return self.stops

    def cut(self, session: Session, tree: DraftTree) -> DraftTree:  # noqa: ARG002
        """What to have scored of a draft: a part of it, the empty tree for a plain step.

        Asked for kind "point" only: which drawn nodes are dropped must not depend on what was
        drawn (our notes on length-policies, U0), so the loop does not let a policy choose there.
        """
        return tree

    def cut_batch(self, asked: Sequence[tuple[Session, DraftTree]]) -> list[DraftTree]:
        """`cut` for the sessions of one step, whose rows share one forward."""
        return [self.cut(session, tree) for session, tree in asked]

    def observe(self, session: Session, step: Step) -> None:
        """The outcome of a step, with its seconds."""

    def state(self) -> dict[str, Any]:
        """What was learned and may outlive the process, JSON-ready; {} if nothing."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""


def budgets_of(sessions: Sequence[Session]) -> list[Budget]:
    """The budget of every session of a step; each policy is asked once for all of its own."""
    return grouped(sessions, lambda s: s.policy, lambda policy, own: policy.budgets(own))


def grouped(
    sessions: Sequence[Session],
    owner: Callable[[Session], Any],
    ask: Callable[[Any, Sequence[Session]], list[Budget]],
) -> list[Budget]:
    """`ask` of each owner with its own sessions; the answers in the order of all sessions."""
    owners = {id(one): one for one in map(owner, sessions)}
    if len(owners) == 1:
        return ask(owner(sessions[0]), sessions)
    found: dict[int, Budget] = {}
    for one in owners.values():
        own = [session for session in sessions if owner(session) is one]
        found.update(zip(map(id, own), ask(one, own), strict=True))
    return [found[id(session)] for session in sessions]


def stopped(session: Session, budget: Budget, tree: DraftTree) -> DraftTree:
    """A finished fixed draft without the levels that would not have been drafted if the drafter had
    asked `Budget.go_on` on the way; as it is from drafters that did."""
    if budget.go_on is None or not tree.q or "levels" in session.drafter.gives:
        return tree
    depths = tree.depths
    for depth in range(1, tree.depth):
        nodes = [i for i, d in enumerate(depths) if d == depth]
        level = Level(depth, [tree.q[i] for i in nodes], [tree.joint[i] for i in nodes])
        if not budget.go_on(level):
            return tree.prune(i for i, d in enumerate(depths) if d <= depth)
    return tree
