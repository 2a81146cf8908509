"""What the drafts of a method promised, and what came of it: counted while a comparison runs.

A promise is `tree.joint`: the drafter's own estimate that a node will stand. It is counted for
fixed nodes only; q of a drawn node is the law it was drawn from and promises nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from foretoken.bench.contest import Run, Task, Watch
from foretoken.types import Options, Session, Step

CLASSES = 10  # of promised probability: [0, 0.1), ..., [0.9, 1]


class Kept(Options):
    """Nodes of one class of promised probability."""

    nodes: int = 0
    promised: float = 0.0  # sum of their probabilities: so many should stand
    accepted: int = 0  # so many stood

    def __add__(self, other: Kept) -> Kept:
        return Kept(
            nodes=self.nodes + other.nodes,
            promised=self.promised + other.promised,
            accepted=self.accepted + other.accepted,
        )


class Share(Options):
    """What one source of a merged draft gave; a node of two sources counts for both."""

    drafted: int = 0
    accepted: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(drafted=self.drafted + other.drafted, accepted=self.accepted + other.accepted)


@dataclass
class Counted:
    """One method. `promised` is None from the first draft on whose nodes promise nothing."""

    promised: float | None = 0.0
    accepted: int = 0  # nodes that the verdicts let stand
    # nodes, their promise, accepted; a row for each class
    table: list[list[float]] = field(default_factory=lambda: [[0, 0.0, 0] for _ in range(CLASSES)])
    shares: dict[str, list[int]] = field(default_factory=dict)  # source -> [drafted, accepted]

    def add(self, step: Step) -> None:
        """Count one step."""
        tree, stood = step.tree, set(step.verdict.path)
        self.accepted += len(stood)
        for i, names in enumerate(tree.sources):
            for name in names.split("+"):
                share = self.shares.setdefault(name, [0, 0])
                share[0] += 1
                share[1] += i in stood
        if not len(tree) or self.promised is None:
            return
        if tree.kind != "point" or not tree.q:
            self.promised = None
            return
        for i, chance in enumerate(tree.joint):
            row = self.table[min(int(chance * CLASSES), CLASSES - 1)]
            row[0] += 1
            row[1] += chance
            row[2] += i in stood
            self.promised += chance

    @property
    def by_class(self) -> list[Kept]:
        """[CLASSES]; [] if drafts promised nothing."""
        if self.promised is None:
            return []
        return [Kept(nodes=int(n), promised=p, accepted=int(a)) for n, p, a in self.table]

    @property
    def sources(self) -> dict[str, Share]:
        """By name."""
        return {name: Share(drafted=d, accepted=a) for name, (d, a) in self.shares.items()}


class Tally(Watch):
    """Counts every step by method, and hands on to another watcher. title: before each phase."""

    def __init__(self, inner: Watch, title: str = "") -> None:
        self.inner, self.title = inner, title
        self.methods: defaultdict[str, Counted] = defaultdict(Counted)

    def phase(self, name: str, total: int) -> None:
        """See `Watch`."""
        self.inner.phase(self.title + name, total)

    def start(self, method: str, tasks: Sequence[Task]) -> None:
        """See `Watch`."""
        self.inner.start(method, tasks)

    def step(self, method: str, task: Task, session: Session, step: Step) -> None:
        """See `Watch`."""
        self.methods[method].add(step)
        self.inner.step(method, task, session, step)

    def done(self, run: Run) -> None:
        """See `Watch`."""
        self.inner.done(run)
