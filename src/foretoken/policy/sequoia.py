"""sequoia: the tree of fixed shape that pays best, planned from acceptance by rank (Sequoia).

How often the child of each rank is the one that stands is counted online, or given; a dynamic
programme finds the best tree of every size and depth (`rank_trees`); the measured cost of a forward
of so many rows, and of a level of drafting, choose among them: most expected tokens per second,
no draft at all being a choice. The tree stands until the next plan, so that drawing it looks at
nothing that was drawn: every kind of draft may branch so, with every rule for its kind.

Plans are made anew after 4, 8, 16 ... steps and then every `replan` ones; the paper measures once,
offline. Counts are kept apart by drafter and by temperature and forget slowly; ranks that were not
drafted yet are believed to catch a fixed share of what earlier ones leave. Where plain decoding is
best, a single node is tried now and then, so seldom that trials cost a hundredth of the time.
Learns: counts by rank and seconds, nothing of anyone's text. Cost: a plan takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from foretoken.learn.latency import Latency
from foretoken.policy.base import Policy
from foretoken.policy.fixed import OWN
from foretoken.policy.guard import Bounded
from foretoken.policy.rank_trees import RankTree, RankTrees
from foretoken.target.cost import CostCurve
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session, Step

FIRST, NEXT = 0.6, 0.25  # believed share of what earlier ranks leave, before anything was seen
PRIOR = 4.0  # nodes that the belief weighs
FORGET = 0.995  # of the counts, at each node that was reached
LEVEL = 0.1  # plain steps that a level of drafting takes, before any was seen
BLEND = 0.1  # weight of the newest step in the time of a level
TRIALS = 0.01  # share of the time that trials may cost where plain decoding is best
SOON = 4  # steps to the first new plan
CHAIN = RankTree({(0,): 1.0})


class Sequoia(Policy):
    """See the module. What is learned is shared by the sessions of an engine."""

    name = "sequoia"
    summary = "the fixed tree that pays best, from acceptance by rank and measured time"
    source = "Sequoia 2402.12374, sec. 3.1 and 4.3; replanned online: ours"
    needs = frozenset({"shapes"})
    needs_curve = True

    class Options(Bounded):
        """How large a tree may be planned, and from what."""

        nodes: int | None = Field(
            None, ge=0, le=256, description="most nodes of a tree; None: the drafter's own"
        )
        depth: int = Field(8, ge=1, le=32, description="most levels")
        ranks: int = Field(8, ge=1, le=32, description="most children of a node")
        acceptance: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] | None = Field(
            None, min_length=1, description="chance of each rank to stand; None: counted online"
        )
        replan: int = Field(64, ge=1, description="steps between plans")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self.options: Sequoia.Options = options
        self._nodes = OWN if options.nodes is None else options.nodes
        self.latency = None if curve is None else Latency(curve)
        self._batch = 1
        self._levels: dict[str, float] = {}  # drafter -> seconds of a level
        self._worlds: dict[tuple[str, float], World] = {}

    def budget(self, session: Session) -> Budget:
        """The planned tree, or a plain step."""
        world = self._world(session)
        if world.tree is None or world.steps >= world.due:
            world.tree = self._plan(session, world)
            world.due = world.steps + min(max(world.steps, SOON), self.options.replan)
        tree = world.tree
        if not len(tree) and self._nodes and self._due(session, world):
            tree = CHAIN
        world.idle = 0 if len(tree) else world.idle + 1
        return Budget(len(tree), tree.depth, shape=tree)

    def _plan(self, session: Session, world: World) -> RankTree:
        given = self.options.acceptance
        chances = world.counts.acceptance(self.options.ranks) if given is None else given
        # a plan for more levels than the drafter grants would be cut, and be no plan
        own = getattr(getattr(session.drafter, "options", None), "depth", None)
        deepest = min(self.options.depth, own or self.options.depth)
        trees = RankTrees(chances, self._nodes, deepest)
        value = trees.tokens
        if self.latency is not None:
            batch, context = self._batch, len(session.tokens)
            line = self.latency.line(context, batch * (self._nodes + 1))
            forward = np.array(line[batch::batch]) / batch
            levels = np.arange(deepest + 1) * self._level(session)
            value = value / (forward[None, :] + levels[:, None])
        # the first of equals: the least levels, then the least nodes
        depth, nodes = np.unravel_index(int(value.argmax()), value.shape)
        return trees.tree(int(nodes), int(depth))

    def _due(self, session: Session, world: World) -> bool:
        """Whether one node may be tried although plain decoding is best."""
        plain = self._seconds(session, 0)
        extra = self._seconds(session, 1) + self._level(session) - plain
        return world.idle * TRIALS * plain >= extra

    def _seconds(self, session: Session, nodes: int) -> float:
        """Of a forward with so many drafted nodes in each session: this one's share."""
        if self.latency is None:
            return 1.0
        rows = self._batch * (nodes + 1)
        return self.latency(rows, len(session.tokens)) / self._batch

    def _level(self, session: Session) -> float:
        """Seconds of drafting a level."""
        known = self._levels.get(session.drafter.name)
        return LEVEL * self._seconds(session, 0) if known is None else known

    def observe(self, session: Session, step: Step) -> None:
        """Count who stood; the time of drafting and of the forward."""
        world, tree, name = self._world(session), step.tree, session.drafter.name
        world.steps += 1
        self._batch = step.batch
        spelled = [*(tree.tokens[node] for node in step.verdict.path), step.verdict.bonus]
        world.counts.learn(tree, spelled)
        if self.latency is None or step.fresh > 1 or step.prompts:
            return  # reading a prompt says nothing of steps to come
        self.latency.observe(step.rows, step.context, step.seconds["target"] * step.batch)
        if len(tree):
            level = step.seconds["draft"] / tree.depth
            known = self._levels.get(name, level)
            self._levels[name] = known + BLEND * (level - known)

    def _world(self, session: Session) -> World:
        key = session.drafter.name, round(session.request.sampling.temperature, 1)
        return self._worlds.setdefault(key, World())

    def state(self) -> dict[str, Any]:
        """Counts by drafter and temperature."""
        return {"ranks": [[*key, *world.counts.state()] for key, world in self._worlds.items()]}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for name, temperature, tried, stood in state.get("ranks", []):
            counts = Counts(list(tried), list(stood))
            self._worlds[name, temperature] = World(counts)


@dataclass
class Counts:
    """Nodes reached that had a child of rank b, and how often it was this child that stood."""

    tried: list[float] = field(default_factory=list)
    stood: list[float] = field(default_factory=list)

    def learn(self, tree: DraftTree, spelled: Sequence[int]) -> None:
        """Follow the text down the draft. spelled: accepted tokens, then the target's own."""
        draws = tree.draws
        alive = draws.children[0]
        for token in spelled:
            tokens = [tree.tokens[draws.nodes[draw]] for draw in alive]
            self._count(len(tokens), tokens.index(token) if token in tokens else None)
            below = [draw for draw, t in zip(alive, tokens, strict=True) if t == token]
            alive = [child for draw in below for child in draws.children[draw + 1]]

    def _count(self, siblings: int, stood: int | None) -> None:
        while len(self.tried) < siblings:
            self.tried.append(0.0)
            self.stood.append(0.0)
        for rank in range(siblings):
            self.tried[rank] = FORGET * self.tried[rank] + 1.0
            self.stood[rank] = FORGET * self.stood[rank] + (rank == stood)

    def acceptance(self, ranks: int) -> list[float]:
        """[ranks] the chance of each to stand, > 0 and together no more than 1."""
        out: list[float] = []
        left = 1.0
        for rank in range(ranks):
            tried, stood = (c[rank] if rank < len(c) else 0.0 for c in (self.tried, self.stood))
            believed = PRIOR * left * (NEXT if rank else FIRST)
            out.append(min((stood + believed) / (tried + PRIOR), left))
            left -= (1.0 - 1e-6) * out[-1]
        return out

    def state(self) -> tuple[list[float], list[float]]:
        """JSON-ready."""
        return self.tried, self.stood


@dataclass
class World:
    """One drafter at one temperature."""

    counts: Counts = field(default_factory=Counts)
    tree: RankTree | None = None  # the plan
    steps: int = 0
    due: int = 0  # step of the next plan
    idle: int = 0  # plain steps since the last draft
