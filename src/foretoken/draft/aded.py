"""aded: a tri-gram table stands in for the target, the likeliest tree of it is the draft, and every
check is written back into the table, so that drafts improve while they are used.

Source: Liu et al., AAAI 2025, arXiv 2407.12021; methods/aded.md. mode "reference" is section 3B, the
authors' Monte-Carlo search and +0.04 updates, with the reward fault of their code repaired (see
`aded_mcts`). mode "best_first" (section 3C, the default) takes the nodes of largest joint
probability, which is the optimal tree if the table is right, and blends the target's own
probabilities into the rows, those of rejected nodes too. Exact in both: the draft is fixed.

What is learned is shared by `scope`. "tenant", the default, is the narrowest in which one answer
helps the next: statistics never cross tenants, and requests that name no tenant are one tenant, so
a server must name them. "request" and "session" are the same here, one request being decoded;
"process" shares everything.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heappushpop
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from foretoken import types
from foretoken.draft import aded_mcts
from foretoken.draft.base import Context, Drafter
from foretoken.draft.ngram_index import NgramIndex, continuation
from foretoken.draft.trigram_table import NO_ROW, Overlay, Row, TrigramTable, normalise, rank
from foretoken.errors import ArtifactError, ConfigError
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session, Step

ASSET = "aded.table"  # beside the model, taken up if no table is named
Pair = tuple[int, int]


@dataclass
class Store:
    """What one scope has learned."""

    overlay: Overlay
    users: int = 0
    tries: OrderedDict[Hashable, int] = field(default_factory=OrderedDict)  # judged, for the bonus


class Aded(Drafter):
    """Tri-gram trees that learn; rows back off to the last token alone, then to a copy."""

    name = "aded"
    summary = "tri-gram table, likeliest tree, learns from every check"
    source = "Liu et al. 2025, arXiv 2407.12021"
    needs = frozenset({"tokens", "logits"})
    nodes = 16

    class Options(types.Options):
        """See the module; `reference_*` are the constants of mode "reference"."""

        mode: Literal["best_first", "reference"] = "best_first"
        table: Path | None = Field(None, description="None: the model's own, else start empty")
        scope: Literal["request", "session", "tenant", "process"] = "tenant"
        update: Literal["distribution", "count", "both", "off"] = "distribution"
        eta: float = Field(0.3, ge=0.0, le=1.0, description="share of the target's row in a blend")
        top_m: int = Field(8, ge=1, le=64, description="entries of the target's row")
        all_nodes: bool = Field(True, description="learn from rejected nodes too")
        prompt: bool = Field(True, description="count the prompt's tri-grams")
        bonus: float = Field(0.0, ge=0.0, description="beta of the optimism for untried tri-grams")
        decay: float = Field(1.0, gt=0.0, le=1.0, description="of a row's weights, at each write")
        trust: float = Field(1.0, ge=0.0, description="pseudo-count of the back-off in a row")
        max_rows: int = Field(200_000, ge=1, description="learned rows, the longest unwritten goes")
        max_successors: int = Field(16, ge=1, le=64)
        reference_c1: float = Field(32.0, ge=0.0)
        reference_c2: float = Field(8.0, gt=0.0)
        reference_iterations: int = Field(150, ge=1)
        reference_length: int = Field(4, ge=2, description="states of a path, root included")
        reference_keep: int = Field(24, ge=1, description="paths")
        reference_gain: float = Field(0.04, ge=0.0, description="per step in the window")
        reference_cap: float = Field(3.0, gt=0.0)
        reference_window: int = Field(16, ge=3, description="tokens of context updated per step")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Aded.Options = options
