"""How often guesses of a kind stood: counts that forget, which start from given rates."""

from __future__ import annotations

from collections.abc import Sequence

PRIOR = 8.0  # guesses that the rate given at the start is worth


class Rates:
    """Acceptance rates by class. start: [classes] the rate of each before anything was seen.
    forget: what is left of a class's counts at each further guess of it.

    Holds counts only, nothing of anyone's text.
    """

    def __init__(self, start: Sequence[float], forget: float = 0.99) -> None:
        self.forget = forget
        self._tried = [PRIOR] * len(start)
        self._stood = [PRIOR * rate for rate in start]

    def __getitem__(self, kind: int) -> float:
        """The rate of a class, within (0, 1)."""
        return self._stood[kind] / self._tried[kind]

    def learn(self, kind: int, stood: bool) -> None:
        """One guess of the class was judged."""
        self._tried[kind] = self.forget * self._tried[kind] + 1.0
        self._stood[kind] = self.forget * self._stood[kind] + stood

    def state(self) -> list[list[float]]:
        """[tried, stood] of every class, JSON-ready."""
        return [list(pair) for pair in zip(self._tried, self._stood, strict=True)]

    def load(self, state: Sequence[Sequence[float]]) -> None:
        """Take up what `state` gave."""
        self._tried, self._stood = [tried for tried, _ in state], [stood for _, stood in state]
