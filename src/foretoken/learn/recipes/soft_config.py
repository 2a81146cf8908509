"""Options of `foretoken train draft s2d`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from foretoken.learn.recipes.align_config import TEXT
from foretoken.learn.recipes.config import TrainConfig
from foretoken.learn.recipes.losses import LOSSES


class SoftConfig(TrainConfig):
    """Which exits, and what they learn."""

    free: ClassVar[frozenset[str]] = TrainConfig.free | {"eval_rows"}

    loss: str = Field(TEXT, description=f"{TEXT}, or against a target: {', '.join(LOSSES)}")
    temperature: float = Field(1.0, gt=0, description="of target and drafter: what will be served")
    text_share: float = Field(
        0.1, ge=0, lt=1, description="share of rows of plain text, where there is any (--text)"
    )
    held_out: float = Field(0.05, ge=0, lt=1, description="share of prompts never trained on")
    eval_rows: int = Field(64, ge=1, description="held-out rows of an evaluation")

    def rules(self) -> list[tuple[str, bool, str]]:
        """See the base class."""
        known = (TEXT, *LOSSES)
        return [*super().rules(), ("loss", self.loss in known, f"one of {', '.join(known)}")]
