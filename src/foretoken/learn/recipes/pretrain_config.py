"""Options of `foretoken train draft pretrain`."""

from __future__ import annotations

from pydantic import Field

from foretoken.learn.recipes.config import TrainConfig


class PretrainConfig(TrainConfig):
    """The loop's options, and how much is held out. `steps` follows from the stages."""

    free = TrainConfig.free | {"eval_rows"}

    lr: float = Field(4e-3, gt=0, description="peak learning rate")
    held_out: float = Field(0.01, ge=0, lt=1, description="share of documents never trained on")
    eval_rows: int = Field(64, ge=1, description="held-out rows of each source in an evaluation")
