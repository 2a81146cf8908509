"""--explain: for every step, which source proposed what, what was predicted, and what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from foretoken.types import Session, Step

Watcher = Callable[[Session, Step], None]

ALONE = "draft"  # what a drafter that is no mixture is called
WIDEST = 36  # characters of text shown in a row


def together(*watchers: Watcher | None) -> Watcher:
    """All that are there, in turn."""

    def watch(session: Session, step: Step) -> None:
        for watcher in watchers:
            if watcher is not None:
                watcher(session, step)

    return watch


@dataclass(frozen=True)
class Explained:
    """One step. Lists of names are "+"-joined where several sources proposed the same node."""

    position: int  # tokens of output before the step
    drafted: dict[str, int]  # source -> nodes scored
    predicted: float | None  # tokens expected to stand; None if the drafter says nothing
    accepted: int
    by: list[str]  # per token given out: who proposed it; "" is the target's own
    tokens: list[int]
    seconds: dict[str, float]  # draft, target, verify


@dataclass
class Explainer:
    """Collects the steps of a session: give `watch` to whoever makes them."""

    steps: list[Explained] = field(default_factory=list)

    def watch(self, session: Session, step: Step) -> None:
        """A step is done."""
        tree, path = step.tree, step.verdict.path
        names = list(tree.sources) or [ALONE] * len(tree)
        by = [names[node] for node in path] + [""]
        before = len(session.output) - len(step.committed.tokens)
        self.steps.append(
            Explained(
                before, dict(Counter(names)), sum(tree.joint) if tree.q or not len(tree) else None,
                len(path), by[: len(step.committed.tokens)], list(step.committed.tokens),
                dict(step.seconds),
            )
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """JSON: every step, and what each source came to."""
        return {"steps": [asdict(step) for step in self.steps], "sources": self.sources()}

    def sources(self) -> dict[str, dict[str, int]]:
        """source -> nodes scored, tokens that stood; a shared node counts for each of its names."""
        out: dict[str, dict[str, int]] = {}
        for step in self.steps:
            counted = [(n, k, "scored") for n, k in step.drafted.items()]
            counted += [(name, 1, "stood") for name in step.by if name]
            for names, count, what in counted:
                for name in names.split("+"):
                    out.setdefault(name, {"scored": 0, "stood": 0})[what] += count
        return out

    def show(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Two tables on stderr: the steps, and the sources."""
        console = Console(stderr=True)
        table = Table("at", "scored", "expected", "stood", "text", "ms draft", "ms target",
                      title="What was drafted, what was expected, what stood")  # fmt: skip
        for step in self.steps:
            drafted = ", ".join(f"{name} {n}" for name, n in step.drafted.items()) or "-"
            predicted = "?" if step.predicted is None else f"{step.predicted:.2f}"
            table.add_row(
                str(step.position), drafted, predicted, str(step.accepted),
                decode(step.tokens)[:WIDEST].replace("\n", "\\n"),
                f"{1e3 * step.seconds['draft']:.2f}", f"{1e3 * step.seconds['target']:.1f}",
            )  # fmt: skip
        console.print(table)
        totals = Table("source", "nodes scored", "tokens that stood", title="Sources")
        for name, counts in self.sources().items():
            totals.add_row(name, str(counts["scored"]), str(counts["stood"]))
        if self.steps:
            foreseen = [s for s in self.steps if s.predicted is not None]
            promised = sum(s.predicted or 0.0 for s in foreseen)
            stood = sum(s.accepted for s in foreseen)
            totals.caption = f"{promised:.1f} tokens were expected to stand, {stood} did"
        console.print(totals)
