"""Options of `foretoken train draft specdec-head`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from foretoken.learn.recipes.config import TrainConfig
from foretoken.types import Sampling


class SpecdecConfig(TrainConfig):
    """What head, trained on what."""

    free: ClassVar[frozenset[str]] = TrainConfig.free | {"eval_rows"}

    optimiser: Literal["muon", "adamw"] = Field("adamw", description="muon or adamw")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay of the matrices")
    depth: int = Field(3, ge=0, le=16, description="residual blocks of the head")
    tied: bool = Field(False, description="one block, used so many times, as in published heads")
    weight: float = Field(6.0, gt=0, description="how much a rejection counts against acceptance")
    mix: float = Field(0.15, ge=0, lt=1, description="share of the target's tokens in what is read")
    temperature: float = Field(1.0, ge=0, description="of both models, as served; 0 is greedy")
    top_k: int = Field(0, ge=0, description="of both models, as served; 0 is off")
    top_p: float = Field(1.0, gt=0, le=1, description="of both models, as served; 1 is off")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of prompts never trained on")
    eval_rows: int = Field(64, ge=1, description="held-out rows of an evaluation")

    def sampling(self) -> Sampling:
        """What is served."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
