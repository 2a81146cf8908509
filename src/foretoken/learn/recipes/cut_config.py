"""Options of `cut`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from foretoken.learn.recipes.config import TrainConfig
from foretoken.learn.recipes.losses import LOSSES

DELTA = 0.02  # mean rise of S per step
STRENGTH = 0.02  # A: how much a layer's importance moves its share; 0: all layers alike
Depth = Literal["importance", "spaced"]


class CutConfig(TrainConfig):
    """What is left of the target, in how many stages, and how it is trained between cuts."""

    free: ClassVar[frozenset[str]] = frozenset({"eval_every", "checkpoint_every", "compile"})

    params: int | None = Field(
        None,
        ge=1,
        description="parameters read per drafted token: layers and output layer, without the "
        "embedding table; without it layers are dropped and not narrowed",
    )
    layers: int = Field(2, ge=1, description="layers left")
    stages: int = Field(5, ge=1, description="cuts with a training after each")
    widths: Literal["even", "adaptive"] = Field(
        "even", description="even: all layers alike; adaptive: layers that do little lose more"
    )
    depth: Depth = Field("importance", description="which layers stay: importance, or spaced")
    delta: float = Field(DELTA, gt=0, le=1, description="share of the widths cut per inner step")
    strength: float = Field(STRENGTH, ge=0, le=1, description="of importance in adaptive widths")
    calibration: int = Field(32768, ge=1, description="tokens whose gradients an inner step reads")
    vocab: int | None = Field(
        None, ge=1, description="tokens that the drafter scores (see `vocab-trim`), all without it"
    )
    freeze: bool = Field(False, description="leave embedding and output layer as the target's")
    loss: str = Field("forward-kl", description="what training makes small, see `align`")
    temperature: float = Field(1.0, gt=0, description="at which the drafter will serve")
    length: int = Field(4, ge=1, description="tokens per draft, for the choice of the stage")

    held_out: float = Field(0.05, gt=0, lt=1, description="share of prompts never trained on")

    steps: int = Field(1000, ge=1, description="optimiser steps, over all stages")
    warmup: int = Field(50, ge=0, description="steps of rising rate in a stage, a tenth at most")
    lr: float = Field(5e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay of the matrices")
    optimiser: Literal["muon", "adamw"] = Field("adamw", description="muon or adamw")

    def rules(self) -> list[tuple[str, bool, str]]:
        """See the base class."""
        return [
            *super().rules(),
            ("loss", self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            ("stages", self.steps >= self.stages, f"at most {self.steps}, the steps"),
        ]

    def stage(self, steps: int) -> TrainConfig:
        """The training of one stage."""
        shared = {name: getattr(self, name) for name in TrainConfig.model_fields}
        return TrainConfig(**{**shared, "steps": steps, "warmup": min(self.warmup, steps // 10)})
