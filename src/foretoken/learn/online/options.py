"""What online learning can be told; the drafter's own options add the model and its form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field, field_validator

from foretoken import types
from foretoken.draft.scopes import Scope
from foretoken.learn.online.loss import names

Route = Callable[[Sequence[int]], str]  # a prompt's token ids -> the name of its domain


class OnlineOptions(types.Options):
    """When an update comes, what it learns from, and when it is kept."""

    scope: Scope = Field("tenant", description="who shares what is learned")
    interval: int = Field(8, ge=0, description="finished requests per update; 0: it never learns")
    patience: int = Field(
        512, ge=0, description="an update is due after so many steps, too; 0: requests alone count"
    )
    steps: int = Field(2, ge=1, le=64, description="gradient steps per update")
    batch: int = Field(8, ge=1, le=256, description="texts per gradient step")
    lr: float = Field(2e-4, gt=0.0, description="AdamW's learning rate")
    clip: float = Field(1.0, gt=0.0, description="largest gradient norm")
    loss: str = Field("forward-kl", description=f"one of {', '.join(names())}")
    rows: Literal["wrong", "text", "all"] = Field(
        "text",
        description="wrong: where the draft was refused (the paper); text: every row of the text; "
        "all: rows below refused tokens, too",
    )
    replay: float = Field(0.25, ge=0.0, lt=1.0, description="share of older texts in a batch")
    select: bool = Field(False, description="choose the texts by cluster and score (Adapt-inf)")
    tolerance: float = Field(
        0.0, ge=0.0, description="acceptance on held-out rows that an update may lose"
    )
    trials: int = Field(
        3, ge=0, description="updates in a row that may lose more before they are taken back; "
        "meanwhile the drafter that serves stays as it is"
    )  # fmt: skip
    shelf: int = Field(
        3, ge=0, le=16, description="sets of weights that served before, the given ones first, "
        "which serve again when their topic comes back"
    )  # fmt: skip
    deadline: float = Field(10.0, gt=0.0, description="seconds that one update may take")
    background: bool = Field(False, description="learn in a thread while decoding goes on")
    domains: int = Field(1, ge=1, le=16, description="drafters at most, told apart by the prompt")
    route: Route | None = Field(
        None, description="prompt's token ids -> name of its domain; None: clusters found online"
    )
    top: int = Field(32, ge=1, le=4096, description="tokens kept of a row; the rest is one number")
    window: int = Field(512, ge=2, description="tokens of a text that are read, from its end")
    max_rows: int = Field(20_000, ge=8, description="rows that are held, of all idle tenants")
    models: int = Field(8, ge=1, description="tenants whose own weights are held at a time")
    save_mb: float = Field(32.0, ge=0.0, description="weights that a saved state may hold, MB")
    seed: int = Field(0, ge=0, description="of every choice among texts")

    @field_validator("loss")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in names():
            raise ValueError(f"must be one of {', '.join(names())}")
        return value
