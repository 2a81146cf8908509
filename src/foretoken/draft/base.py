"""What a drafter is. A method is one file in this folder (or in your package) and one table row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foretoken import types
from foretoken.errors import CapabilityError
from foretoken.tree import DraftTree, Kind
from foretoken.types import Budget, Session, Step


@dataclass(frozen=True)
class Context:
    """What a drafter may know of the target it drafts for. Filled by build."""

    vocab: int  # rows of the target's output
    eos: tuple[int, ...]
    tokenizer_hash: str  # "" if there is no tokenizer; stores are keyed by it
    assets: Path | None = None  # folder of the model, where its own tables may lie
    # the target's, for drafters that must read its text; None where only ids are known
    tokenizer: Any = field(default=None, compare=False, repr=False)


class Drafter(ABC):
    """Proposes a draft below the root and learns from every check.

    Laws (tests/contract): within budget; the empty tree is legal; same seed and history, same
    tree; sessions do not leak into each other unless the scope says so; after `end` nothing of a
    session remains unless the scope says so; `propose` never changes `session.tokens`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]  # one line for `foretoken methods`
    source: ClassVar[str]  # paper, section
    # the next six are the class's, or an instance's where its options decide them
    needs: frozenset[str] = frozenset({"tokens"})  # tokens logits hidden:* prediction
    emits: Kind = "point"
    settles: bool = True  # whether a node's children are counted before the first of them is drawn
    verifier: str = "walk"  # the rule when the user names none; must accept `emits`
    # why drawn text has another law than the target's under a rule that is exact for honest drafts:
    # its q is not quite what it drew from. "": it is
    lossy: str = ""
    lossy_with: ClassVar[str] = ""  # options that make it so, for `foretoken methods`
    nodes: int = 16  # budget when the user gives none
    runs_model: ClassVar[bool] = False  # whether a proposal takes forwards of a model of its own
    light: ClassVar[bool] = False  # whether a proposal takes some tens of microseconds: a copy
    trains: ClassVar[bool] = False  # whether it trains a model meanwhile: long steps are its own
    calibrated: ClassVar[bool] = False  # whether q is an acceptance probability, learned online
    # ways of drafting that a policy may choose among (`Budget.way`), cheapest first, fullest last
    ways: Sequence[str] = ("",)
    # the one to begin with, "" is the cheapest; what is asked in a cheaper one is a part of it
    first_way: str = ""
    # what policies may ask for. "levels": `Budget.go_on` is asked between levels; "source levels":
    # `Budget.source_on` is, between those of the one source that runs a model; "entropy" and
    # "hidden": of these; "shapes": `Budget.shape` is obeyed if it is settled, with "turns" any is
    gives: frozenset[str] = frozenset()
    testing: ClassVar[bool] = False  # for tests and cost studies, hidden from users' tables

    class Options(types.Options):
        """No options."""

    def __init__(self, options: Any, context: Context) -> None:
        self.options = options
        self.context = context

    def provide(self, needs: frozenset[str]) -> None:
        """A policy will ask for these (`Policy.needs`). Called once, when the method is built.

        Raises CapabilityError for what the drafter does not give.
        """
        if missing := needs - self.gives:
            raise CapabilityError(
                f"drafter {self.name!r} does not give {', '.join(sorted(missing))}, which the "
                f"policy asks for (it gives {', '.join(sorted(self.gives)) or 'nothing'})"
            )

    def begin(self, session: Session) -> None:
        """A session starts; its prompt is known. One that starts and ends while the drafter is left
        alone is not shown to it at all."""

    @abstractmethod
    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """A draft below `session.tokens[-1]`."""

    def propose_batch(self, asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        """Drafts for several sessions of one step; a drafter that runs a model batches here."""
        return [self.propose(session, budget) for session, budget in asked]

    def observe(self, session: Session, step: Step) -> None:
        """The outcome of a step; rejected nodes carry news too. `step.tree` is what was scored:
        the proposal, a part of it, nothing, or a tree that other drafters had a share in. Steps
        may be missed (`Budget.unseen`): their text comes afterwards, as one step whose rows are not
        known."""

    def end(self, session: Session) -> None:
        """A session ended, for whatever reason. Called once for every `begin`."""

    def state(self) -> dict[str, Any]:
        """What was learned and may outlive the process, JSON-ready; {} if nothing."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
