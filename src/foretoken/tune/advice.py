"""From scores to one line: what to use, why, and the command to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from foretoken.registry import DEFAULT_METHOD, DEFAULT_POLICY, NULL_METHOD, NULL_POLICY
from foretoken.tune.report import Advice, Row

WORTH = 1.02  # ratio to plain below which drafting is not worth the trouble
CLOSE = 0.98  # share of the best rate at which the default, which adapts, is preferred


def advise(rows: Sequence[Row], model: str | None) -> Advice | None:
    """The default if it is within 2 % of the fastest, else the fastest; plain decoding if nothing
    gains 2 %. model: as the user named it, None for the bundled one. None without rows."""
    rows = [row for row in rows if row.policy]  # what can be typed
    if not rows:
        return None
    best = max(rows, key=lambda row: row.tokens_per_second)
    default = next(
        (r for r in rows if (r.method, r.policy) == (DEFAULT_METHOD, DEFAULT_POLICY)), None
    )
    if best.ratio < WORTH:
        why = f"nothing gains {WORTH - 1:.0%}: the best is {best.name} at {best.ratio:.2f} x plain"
        return _advice(NULL_METHOD, NULL_POLICY, why, model)
    if default is best:
        why = f"the default is the fastest here: {_figures(best)}"
    elif default is not None and default.tokens_per_second >= CLOSE * best.tokens_per_second:
        best, why = (
            default,
            (
                f"the default, which adapts when the text changes, has {_figures(default)}; the "
                f"fastest, {best.name}, has {best.ratio:.2f} x"
            ),
        )
    else:
        why = f"it is the fastest here: {_figures(best)}"
        if default is not None:
            why += f"; the default has {default.ratio:.2f} x"
    return _advice(best.method, best.policy, why, model)


def _figures(row: Row) -> str:
    return (
        f"{row.ratio:.2f} x plain with {row.tokens_per_step:.2f} tokens per step, "
        f"{row.regret:.0%} over the hindsight optimum's time"
    )


def _advice(method: str, policy: str, why: str, model: str | None) -> Advice:
    words = ["foretoken", "generate"]
    if model is not None:
        words += ["--model", model]
    if method != DEFAULT_METHOD:
        words += ["--method", method]
    if policy != DEFAULT_POLICY and method != NULL_METHOD:
        words += ["--policy", policy]
    return Advice(method=method, policy=policy, why=why, command=f"{shlex.join(words)} PROMPT")
