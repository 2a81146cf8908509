"""Text that loops flatters every drafter that copies. Where plain's own text begins to loop, the
bench stops all methods; it is a stop rule of the bench, the engine knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERIOD = 64  # longest cycle looked for, in tokens
TIMES = 3  # a cycle that is written so often in a row is a loop ...
SPAN = 16  # ... if it covers so many tokens (a ruler of dashes or a few spaces is none)
SHORTEST = 16  # prompts whose text before the loop is shorter are dropped for all methods

RULE = (
    f"a stretch in which a cycle of at most {PERIOD} tokens stands {TIMES} times in a row and "
    f"covers {SPAN} tokens or more is a loop; text is kept up to the end of its first cycle; "
    f"prompts with fewer than {SHORTEST} tokens left are dropped for all methods"
)


def loop_start(tokens: Sequence[int]) -> int | None:
    """Where the first loop begins to repeat itself: the index behind its first cycle; None if the
    text does not loop.

    Precisely: the least i + p with 1 <= p <= PERIOD such that tokens[i : i + max(TIMES * p, SPAN)]
    lies inside the text and has period p.
    """
    text = np.asarray(tokens, dtype=np.int64)
    best: int | None = None
    for p in range(1, PERIOD + 1):
        need = max(TIMES * p, SPAN) - p  # so many tokens must equal the one p before them
        if len(text) - p < need:
            break
        equal = np.concatenate(([0], np.cumsum(text[p:] == text[:-p])))
        full = np.flatnonzero(equal[need:] - equal[:-need] == need)
        if len(full) and (best is None or full[0] + p < best):
            best = int(full[0]) + p
    return best


def distinct_4grams(tokens: Sequence[int]) -> float | None:
    """Share of distinct 4-grams; None for a text of fewer than 4 tokens."""
    grams = list(zip(*(tokens[i:] for i in range(4)), strict=False))
    return len(set(grams)) / len(grams) if grams else None
