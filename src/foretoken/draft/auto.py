"""auto: the product's default. All sources that cost next to nothing, in one calibrated tree.

A `mix` whose sources are chosen from what the model brings: the tri-gram table, copies from the
context, what the target itself recently thought likely, finished requests of the same tenant and
the request's own prediction; a datastore (`foretoken train rest`) and a small model of the same
vocabulary where they lie beside the weights. The policy `cost-model` asks the small model only
where its time pays. Nothing need be configured, and it works from the first token.
Source: own; see `mix`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from foretoken.draft.base import Context
from foretoken.draft.mix import SOURCES, Mix

BESIDE = {"rest.store": "rest", "drafter": "lm-top-k"}  # what lies beside the weights -> source


class Auto(Mix):
    """See the module."""

    name = "auto"
    summary = "every cheap source in one tree, calibrated while it runs: the default"

    class Options(Mix.Options):
        """Who proposes, if that is not to be found out."""

        sources: tuple[str, ...] | None = Field(  # type: ignore[assignment]
            None, description="drafters, joined by commas or +; None: what the model brings"
        )

    def __init__(self, options: Any, context: Context) -> None:
        if options.sources is None:
            chosen = (*SOURCES, *found(context.assets))
            options = options.model_copy(update={"sources": chosen})
        super().__init__(options, context)


def found(assets: Path | None) -> list[str]:
    """Sources whose files lie in the model's folder."""
    if assets is None:
        return []
    return [source for file, source in BESIDE.items() if (assets / file).exists()]
