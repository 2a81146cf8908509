"""How a draft branches, where a policy decides it: what travels in `Budget.shape`.

A shape may look at ancestors, at the model's rows, at earlier levels and at earlier siblings, never
at the token that it decides about (U0 of our notes on length-policies): so it is exact for drawn
drafts, too.
"""

from __future__ import annotations

from typing import Protocol


class Shape(Protocol):
    """What a policy may ask of a drafter that gives "shapes"."""
