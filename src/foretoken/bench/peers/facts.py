"""What is known of a peer beside its figures."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Facts:
    """Of one peer in one mode."""

    label: str
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what a reader of its figures must know
    open_seconds: float | None = (
        None  # loading, and its format's export where that was not made yet
    )
    peak_mb: float | None = None  # of its process; None: foretoken's own
