"""A debt counter: drafting may never cost more than a stated share of plain decoding's time.

After every step debt <- max(-credit, debt + time - (1 + slack) x plain x tokens), with `plain` the
seconds of a plain step. A step is drafted only if its time, should nothing of it stand, keeps the
debt within the allowance. Then every window of steps takes at most (1 + slack) x plain x tokens +
allowance + credit, by induction. Earlier gains count up to `credit` only: without that cap a good
quarter would let the rule burn time for thousands of steps.
Source: our notes on policies, U8. There the allowance is 5 plain steps; here it is a time that
nobody notices, and one plain step at least: a large model risks little of its long steps, and a
small one, whose steps are short and whose drafts are dear, is not stopped by its first bad luck.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Debt:
    """Seconds owed to plain decoding. allowance: seconds; credit: plain steps."""

    slack: float
    allowance: float
    credit: float
    owed: float = 0.0

    def affords(self, seconds: float, plain: float) -> bool:
        """Whether a step of so many seconds may be risked: it gives one token at least."""
        return self.owed + seconds - (1.0 + self.slack) * plain <= max(self.allowance, plain)

    def settle(self, seconds: float, plain: float, tokens: int) -> None:
        """A step took so long and gave so many tokens."""
        owed = self.owed + seconds - (1.0 + self.slack) * plain * tokens
        self.owed = max(-self.credit * plain, owed)
