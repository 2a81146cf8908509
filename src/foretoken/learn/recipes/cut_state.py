"""A stage of `cut` as plain values and tensors: a run goes on from it, a model is made of it."""

from __future__ import annotations

import copy
from typing import Any

from foretoken.learn.recipes.cut_steps import Cutter, Shares, parameters
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.worth import Worth
from foretoken.target.narrow import Widths, keep_layers, narrow, widths_of


def state_of(
    cutter: Cutter, facts: dict[str, Any], figures: dict[str, Any] | None
) -> dict[str, Any]:
    """All that `put_back` and `rebuilt` need. figures: None while the stage is not trained."""
    now, shares = widths_of(cutter.model), cutter.shares
    return {
        "facts": facts,
        "figures": figures,
        "origin": list(cutter.origin),
        "kv_heads": now.kv_heads,
        "ffn": now.ffn,
        "step": cutter.step,
        "log": cutter.log,
        "shares": None if shares is None else (shares.kv_heads, shares.ffn, shares.share),
        "weights": cutter.model.state_dict(),
    }


def figures_of(
    cutter: Cutter, stage: int, worth: Worth, log: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is told of a finished stage; log: of its training."""
    now = widths_of(cutter.model)
    return {
        "stage": stage,
        "read": cutter.read(),
        "parameters": parameters(cutter.model),
        "layers": list(cutter.origin),
        "kv_heads": list(now.kv_heads),
        "ffn": list(now.ffn),
        "worth": worth.rounded(),
        "seconds": log[-1]["seconds"],
        "curve": log,
    }


def put_back(cutter: Cutter, state: dict[str, Any]) -> None:
    """Make the cutter what it was."""
    cutter.model, cutter.cut = rebuilt(cutter.teacher, state).requires_grad_(True), True
    cutter.origin, cutter.step, cutter.log = state["origin"], state["step"], state["log"]
    cutter.shares = None
    if state["shares"] is not None:
        kv_heads, ffn, share = state["shares"]
        cutter.shares = Shares(kv_heads, ffn)
        cutter.shares.share = share


def rebuilt(teacher: Any, state: dict[str, Any]) -> Any:
    """The stage's model, float32, out of the target that it was cut from."""
    model = copy.deepcopy(teacher).float()
    keep_layers(model, state["origin"])
    narrow(model, Widths(tuple(state["kv_heads"]), tuple(state["ffn"])))
    model.load_state_dict(state["weights"])
    return model


class Later(Rows):
    """The rows of a later slice of the data: step 0 is step `first` of the others."""

    def __init__(self, rows: Rows, first: int) -> None:
        self._rows, self._first = rows, first
        self.sha256, self.tokens_per_epoch = rows.sha256, rows.tokens_per_epoch
        self.examples = rows.examples

    def batch(self, step: int, count: int, rank: int = 0, world: int = 1) -> Batch:
        """See the base class."""
        return self._rows.batch(self._first + step, count, rank, world)
