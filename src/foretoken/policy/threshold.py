"""A threshold that seeks a share of accepted tokens: the controller of Draft & Verify.

m <- 0.5 m + 0.5 (accepted / drafted); then th~ = th + 0.01 if m < 0.9, else th - 0.01, and
th <- 0.9 th + 0.1 th~. A draft that was cut by something else than the threshold says nothing for
lowering it (in the original: one that reached its cap), so that th~ = th there.

accepted / drafted is censored, since what follows a token that did not stand was never judged; the
published rule has it so, and 0.9 was chosen for it.
Source: Zhang et al. 2309.08168 and dilab-zju/self-speculative-decoding, decoding.py.
"""

from __future__ import annotations

from dataclasses import dataclass

STRIDE, MIX = 0.01, 0.1  # of the threshold
MATCHED_MIX = 0.5  # weight of the newest step in the share of accepted tokens


@dataclass
class Threshold:
    """One text's threshold. target: the share of accepted tokens that it seeks."""

    value: float
    target: float = 0.9
    matched: float = 0.0  # the share of late; 0 at first, as published
    fired: bool = False  # whether it ended the draft under way

    def observe(self, accepted: int, drafted: int) -> None:
        """A draft of so many levels, of which so many stood."""
        if not drafted:
            return
        self.matched += MATCHED_MIX * (accepted / drafted - self.matched)
        moved = self.value
        if self.matched < self.target:
            moved += STRIDE
        elif self.fired:
            moved -= STRIDE
        self.value = min(max(self.value + MIX * (moved - self.value), 0.0), 1.0)
