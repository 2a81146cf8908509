"""All chance in the engine: numbers that depend on (seed, position) alone, and draws with them."""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from foretoken.errors import ForetokenError

_BLOCK = 256  # tokens per partial sum in `draw`


class PositionRandom:
    """Uniform numbers that are a pure function of (seed, position, stream).

    A keyed hash and not a generator: there is no state, so the order of calls does not matter.
    Streams are independent sources at the same position; stream 0 is the target's own token.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def uniform(self, position: int, stream: int = 0) -> float:
        """A number in [0, 1) with 53 random bits. position: index of the token to be drawn."""
        key = f"{self.seed},{position},{stream}".encode()
        bits = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
        return (bits >> 11) * 2.0**-53

    def generator(self, position: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for a drafter's own draws below the root whose successor is at `position`:
        independent of every number above, and the same however requests are batched."""
        key = f"{self.seed},{position},draft".encode()
        seed = int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 1
        return torch.Generator(device).manual_seed(seed)


class Coins:
    """All the chance that one verdict may use. `root`: index of the first token to be judged.

    The token that ends the verdict is drawn with the number of its own position, so that where
    nothing was drafted the text is that of plain decoding. Acceptance coins are numbered from the
    root's position: a rule may look at positions that the next step will judge again, and must not
    meet the same number there. (tests/exact enumerates rules through another class of this shape.)
    """

    def __init__(self, random: PositionRandom, root: int) -> None:
        self._random, self._root, self._spent = random, root, 0

    def accept(self, chance: float) -> bool:
        """True with probability `chance` (below 0 counts as 0, above 1 as 1)."""
        self._spent += 1
        return self._random.uniform(self._root, self._spent) < chance

    def token(self, probs: Tensor, position: int) -> int:
        """A token from `probs` [V], which need not sum to 1, for this position of the text."""
        return draw(probs, self._random.uniform(position))


def draw(probs: Tensor, u: float) -> int:
    """The token at quantile u of a distribution (inverse CDF, tokens in the order of their ids).

    probs: [V], non-negative, with a positive sum; it need not be 1. u: in [0, 1).
    Never a token of probability 0. Raises ForetokenError if there is no mass to draw from.
    """
    # float64 sums over blocks, then inside one: exact enough for 10^5 tokens, and 20 times cheaper
    # than one long cumulative sum
    mass = probs.detach().cpu().numpy().astype(np.float64)
    blocks = np.cumsum(np.add.reduceat(mass, np.arange(0, len(mass), _BLOCK)))
    total = float(blocks[-1])
    if not 0.0 < total < math.inf:
        raise ForetokenError(f"there is no distribution to draw from: its mass is {total}")
    x = min(u * total, float(np.nextafter(total, 0.0)))
    # side="right" skips what has no mass, at u = 0 too
    block = int(np.searchsorted(blocks, x, side="right"))
    inside = mass[block * _BLOCK : (block + 1) * _BLOCK]
    rest = x - (float(blocks[block - 1]) if block else 0.0)
    at = int(np.searchsorted(np.cumsum(inside), rest, side="right"))
    if at == len(inside):  # the block's sum was rounded up
        at = int(np.flatnonzero(inside)[-1])
    return block * _BLOCK + at
