"""s2d: one nested small model drafts for many targets; a token takes as many layers as it needs.

The drafter is trained so that its first layers are models of their own ("sorted" training,
`foretoken train draft s2d`). Each token of the chain comes from the shallowest exit that is sure
enough; what it skipped is caught up later, in one batch (`target.nested`). Confidence picks the
depth and stops nothing: how far to draft is a policy's affair.
Source: Kavehzadeh et al. 2407.01955 (S2D), "Sorted Draft Speculative Decoding". Exact: which exit
answers depends on the text and on probabilities that are no chance; drawn tokens are drawn from the
answering exit's own distribution and judged by it (the public code drafts the likeliest token and
judges it as if it had been drawn, which over-produces it). Thresholds may be set for each target: a
larger one pays for deeper exits. Cost: per token the layers up to the exit that answers, and an
output layer for each exit that was asked.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from foretoken.draft.base import Context
from foretoken.draft.lm import LmDrafter
from foretoken.draft.lm_sampled import Chain
from foretoken.errors import ArtifactError, ConfigError
from foretoken.tree import Kind
from foretoken.types import Budget, Session

if TYPE_CHECKING:
    from foretoken.draft.lm_model import SmallModel
    from foretoken.target.nested import NestedTarget

SIDE_FILE = "exits.json"
SURE = 0.5  # the paper's threshold of all exits but the last


class S2d(LmDrafter):
    """A drawn chain (the likeliest one for greedy text) from a model with exits."""

    name = "s2d"
    summary = "one nested small model for many targets, each token as deep as it needs"
    source = "Kavehzadeh et al. 2024, S2D, arXiv 2407.01955"
    emits: Kind = "sampled"
    grows = Chain
    verifier = "block"
    nodes = 12

    class Options(LmDrafter.Options):
        """Which exits, and how sure they must be."""

        exits: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
            None,
            description="depths in layers, the last one all; None: those of the drafter's "
            f"{SIDE_FILE}, or three from its middle on",
        )
        thresholds: tuple[Annotated[float, Field(ge=0.0)], ...] | None = Field(
            None,
            description="least probability of an exit's likeliest token, the last one 0; None: "
            f"{SURE} for each exit but the last",
        )

    def load_model(self, context: Context) -> SmallModel:
        """The shared model, behind exits of this drafter's own."""
        from foretoken.target.hf import HFTarget
        from foretoken.target.nested import NestedTarget, even_exits

        shared = super().load_model(context)
        self._shared = shared  # others find the loaded model only while somebody holds it
        options = self.options
        assert isinstance(options, S2d.Options)
        whole = shared.target
        assert isinstance(whole, HFTarget)
        layers = int(whole.model.config.num_hidden_layers)
        exits = options.exits or read_exits(Path(shared.name)) or even_exits(layers)
        thresholds = options.thresholds
        if thresholds is None:
            thresholds = (*[SURE] * (len(exits) - 1), 0.0)
        try:
            nested = NestedTarget(whole, exits, thresholds)
        except ConfigError as error:
            raise ConfigError(f"{self.name}.{error.field}", error.value, error.accepted) from None
        return replace(shared, target=nested)

    def growth(
        self, session: Session, budget: Budget, generator: torch.Generator, greedy: bool
    ) -> Chain:
        """See the base class; exits are the model's affair."""
        return Chain(budget, generator, greedy, session.warper.eos)

    @cached_property
    def nested(self) -> NestedTarget:
        """The model with its counts of answers by depth."""
        from foretoken.target.nested import NestedTarget

        assert isinstance(self.model.target, NestedTarget)
        return self.model.target


def read_exits(folder: Path) -> tuple[int, ...] | None:
    """What `exits.json` of a drafter's folder says; None without one. Raises ArtifactError."""
    path = folder / SIDE_FILE
    if not path.is_file():
        return None
    try:
        return tuple(int(depth) for depth in json.loads(path.read_text("utf-8"))["exits"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a list of exits; train the drafter anew") from error
