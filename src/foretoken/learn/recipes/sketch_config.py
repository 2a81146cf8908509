"""Options of `sketch`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from foretoken.learn.recipes.config import TrainConfig
from foretoken.learn.recipes.losses import LOSSES

BITS = (2, 3, 4)
EXPONENT = 2.0  # see `sketch_codes`


class SketchConfig(TrainConfig):
    """How fine the sketch is, and how its tables are trained."""

    free: ClassVar[frozenset[str]] = frozenset({"eval_every", "checkpoint_every", "compile"})

    bits: int = Field(4, description=f"per weight: {', '.join(map(str, BITS))}")
    groups: int = Field(4, ge=1, description="tables per row; more are finer, and larger")
    exponent: float = Field(
        EXPONENT, ge=0, description="how much centres follow what shows in the output"
    )
    calibration: int = Field(128, ge=1, description="rows of text that codes are found with")
    loss: str = Field("forward-kl", description="what training makes small, see `align`")
    temperature: float = Field(1.0, gt=0, description="at which the drafter will serve")
    length: int = Field(4, ge=1, description="tokens per draft, for the figures")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of prompts never trained on")

    steps: int = Field(500, ge=1, description="optimiser steps")
    warmup: int = Field(100, ge=0, description="steps of rising learning rate, a tenth at most")
    decay: float = Field(1.0, gt=0, le=1, description="fraction of steps of falling rate")
    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay of the tables")
    optimiser: Literal["muon", "adamw"] = Field("adamw", description="adamw")

    def rules(self) -> list[tuple[str, bool, str]]:
        """See the base class."""
        return [
            *super().rules(),
            ("bits", self.bits in BITS, f"one of {', '.join(map(str, BITS))}"),
            ("loss", self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            ("optimiser", self.optimiser == "adamw", "adamw: tables are no matrices"),
        ]

    def training(self) -> TrainConfig:
        """What the loop needs."""
        shared = {name: getattr(self, name) for name in TrainConfig.model_fields}
        return TrainConfig(**{**shared, "warmup": min(self.warmup, self.steps // 10)})
