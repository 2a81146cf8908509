"""Options of `foretoken train draft align`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from foretoken.learn.recipes.config import TrainConfig

# `losses.LOSSES`, without importing torch for them
LOSSES = (
    "forward-kl", "reverse-kl", "jsd", "tv", "tvd++", "tvd++-each", "lk", "lk-hybrid", "ce",
)  # fmt: skip
TEXT = "ce-text"  # needs no target: what it wrote is enough
AMFT = "amft"
LENGTH = "length"


class AlignConfig(TrainConfig):
    """What the drafter is trained to make small, on which answers."""

    free: ClassVar[frozenset[str]] = TrainConfig.free | {"eval_rows"}

    loss: str = Field(
        "forward-kl",
        description=f"{', '.join(LOSSES)}; {LENGTH} (expected accepted tokens); {AMFT} (a learned "
        f"mix of forward-kl and --reward); {TEXT} (plain text, no target)",
    )
    temperature: float = Field(1.0, gt=0, description="of target and drafter: what will be served")
    reward: Literal["tv", "lk", "length"] = Field("tv", description=f"the other side of {AMFT}")
    gamma: int = Field(4, ge=1, description=f"tokens of a draft, for {LENGTH}")
    on_policy: float = Field(
        0.0, ge=0, le=1, description="share of rows whose answers the drafter wrote"
    )
    on_policy_every: int = Field(50, ge=1, description="steps between new answers of the drafter")
    on_policy_tokens: int = Field(128, ge=1, description="most tokens of such an answer")
    text_share: float = Field(
        0.1, ge=0, lt=1, description="share of rows of plain text, where there is any (--text)"
    )
    mu_min: float = Field(0.0, ge=0, le=1, description=f"least weight of imitation, for {AMFT}")
    mu_max: float = Field(1.0, ge=0, le=1, description=f"most weight of imitation, for {AMFT}")
    mu_every: int = Field(20, ge=1, description=f"steps between moves of the weight, for {AMFT}")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of prompts never trained on")
    eval_rows: int = Field(64, ge=1, description="held-out rows of an evaluation")

    def rules(self) -> list[tuple[str, bool, str]]:
        """See the base class."""
        known = (*LOSSES, LENGTH, AMFT, TEXT)
        return [
            *super().rules(),
            ("loss", self.loss in known, f"one of {', '.join(known)}"),
            ("mu_min", self.mu_min <= self.mu_max, "at most mu_max"),
            ("held_out", self.loss != AMFT or self.held_out > 0, f"more than 0 for {AMFT}"),
            ("on_policy", self.loss != TEXT or self.on_policy == 0, f"0 for {TEXT}: nobody scores"),
        ]
