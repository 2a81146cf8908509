"""What a target is: the model whose text must be reproduced, as the loop sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from foretoken.tree import DraftTree
from foretoken.types import Scores

CATCH_UP = 4  # a session with more fresh rows than this reads alone: padding would cost the others


@runtime_checkable
class KVCache(Protocol):
    """The target's memory of one session.

    Law (tests/contract): after `keep`, going on equals a fresh prefill of the same tokens.
    """

    @property
    def length(self) -> int:
        """Committed tokens whose keys and values are held."""

    @property
    def capacity(self) -> int:
        """Rows that can be held, the draft's included."""

    def keep(self, path: Sequence[int]) -> None:
        """After a score: commit the fresh tokens and these draft nodes (root's child first)."""

    def truncate(self, n: int) -> None:
        """Forget all but the first n tokens."""

    def reserve(self, capacity: int) -> None:
        """Make room for so many rows at least; what is held stays."""

    def release(self) -> None:
        """Give the memory back; the cache is dead afterwards. Calling it twice is harmless."""


class NoCache:
    """The null object: what a session that still waits for its turn holds."""

    length = 0

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def keep(self, path: Sequence[int]) -> None:
        """Never called: a waiting session is not scored."""
        raise RuntimeError(f"a waiting session cannot keep {len(path)} rows")

    def truncate(self, n: int) -> None:
        """Nothing is held."""

    def reserve(self, capacity: int) -> None:
        """What the cache that takes this one's place must hold."""
        self.capacity = max(self.capacity, capacity)

    def release(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Job:
    """One session's part of a forward."""

    cache: KVCache
    # Committed tokens that the cache lacks; the last one is the root. Empty where the calls before
    # have scored them: a draft may be grown level by level, and `keep` ends it. Then only the rows
    # of new nodes come back.
    fresh: Sequence[int]
    tree: DraftTree
    scored: int = 0  # leading nodes that the calls before have scored; the others are new

    @property
    def rows(self) -> int:
        """New rows."""
        return len(self.fresh) + len(self.tree) - self.scored


def reads_alone(job: Job, jobs: Sequence[Job]) -> bool:
    """Whether a job is not to share the forward of those that it comes with."""
    return len(job.fresh) > CATCH_UP and len(jobs) > 1


def rows_together(jobs: Sequence[Job]) -> tuple[int, int]:
    """(rows of the forward in which sessions ride together, padded to the longest of them; rows of
    prompts that are read alone) when one `Target.score` has these jobs."""
    alone = [job.rows for job in jobs if reads_alone(job, jobs)]
    riding = [job.rows for job in jobs if not reads_alone(job, jobs)]
    return len(riding) * max(riding, default=0), sum(alone)


@runtime_checkable
class Target(Protocol):
    """Laws (tests/contract): each node's logits equal a plain forward of its path, whoever else
    rides along; `score` changes no cache length (only `keep` does)."""

    vocab: int  # rows of the output
    eos: tuple[int, ...]
    features: frozenset[str]  # what drafters may need: "logits", "hidden:final", ...
    max_context: int  # positions that the model knows
    max_draft: int  # most nodes that one score takes

    def new_cache(self, capacity: int) -> KVCache:
        """Memory for one session of at most `capacity` rows, draft included."""

    def score(self, jobs: Sequence[Job]) -> list[Scores]:
        """One forward over every job's fresh tokens and draft (its new nodes, if it grows), of
        `rows_together` rows."""

    def wait(self) -> None:
        """Return when all work that was started is done (for clocks; a CPU has nothing to do)."""

    def now(self) -> float:
        """Seconds of the clock that steps are timed by: the wall's, but for a replayed model."""
