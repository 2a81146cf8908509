"""Options of the training loop, shared by all recipes; a recipe adds its own to them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from foretoken.errors import ConfigError


class TrainConfig(BaseModel):
    """How long, how fast and in which pieces a model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A resumed run may change these: none of them alters the steps that were already made.
    free: ClassVar[frozenset[str]] = frozenset(
        {"steps", "decay", "checkpoint_every", "eval_every", "compile"}
    )

    steps: int = Field(1000, ge=1, description="optimiser steps in all, decay included")
    batch: int = Field(8, ge=1, description="rows per step, over all processes")
    micro: int = Field(8, ge=1, description="rows per forward pass (gradients are summed)")
    seq: int = Field(512, ge=2, description="tokens per row")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup: int = Field(50, ge=0, description="steps of rising learning rate")
    decay: float = Field(0.25, gt=0, le=1, description="fraction of steps of falling rate")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay of the matrices")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    optimiser: Literal["muon", "adamw"] = Field("muon", description="muon or adamw")
    seed: int = Field(0, ge=0, description="seed of weights, data order and draws")
    eval_every: int = Field(100, ge=1, description="steps between evaluations")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    compile: bool = Field(False, description="compile the loss with torch.compile")

    @classmethod
    def checked(cls, **values: object) -> Self:
        """Build a config; raises ConfigError that names the first field that is wrong."""
        from foretoken.engine.build import options  # imports torch, which listing options need not

        config = options(cls, values)
        for name, holds, accepted in config.rules():
            if not holds:
                raise ConfigError(name, getattr(config, name), accepted)
        return config

    def rules(self) -> list[tuple[str, bool, str]]:
        """What no field can say alone: (field, whether it holds, what is accepted)."""
        return [("micro", self.batch % self.micro == 0, "a divisor of batch")]

    def fixed(self) -> dict[str, Any]:
        """Fields that a checkpoint and its continuation must share."""
        return self.model_dump(exclude=set(self.free))
