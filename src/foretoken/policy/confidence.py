"""confidence: stop after a token that the drafter itself finds improbable.

Hugging Face's dynamic speculation ("unsupervised DISCO"): a level is the last one if its token's
own draft probability lies below a threshold, 0.4 at first. After every step the threshold is set
anew, to the point of least FPR + 3 FNR on the ROC curve of all draft probabilities up to the first
token that did not stand, once there are more than five of both kinds.

Done otherwise: no scikit-learn, without which the original silently never adapts; probabilities are
counted in whole thousandths, and the counts are halved when they reach `history` (the original
never forgets); a temperature has counts of its own, since it changes what a probability is worth;
the counts live on from text to text (there, the threshold does). In a tree the likeliest node of a
level speaks for it, and it stood if any node of its level did. A drafter that says no
probabilities is not stopped.

Guarantee: exact. The token that ends a draft is submitted with it; what is learned comes from
finished steps. It promises no speed. Shared and saved: counts by drafter and temperature.
Source: transformers, `ConfidenceCriteria` and `update_candidate_strategy` (huggingface/transformers
#33258, #34156); Mamou et al. 2405.04304 (DISCO proper has a trained classifier in its place).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from foretoken.policy.length import LengthPolicy, likeliest, spine
from foretoken.policy.roc import best_threshold
from foretoken.target.cost import CostCurve
from foretoken.types import Level, Session, Step

GRAIN = 1000  # probabilities are counted in thousandths
ENOUGH = 5  # more than so many tokens, before the threshold moves
Counts = dict[int, list[float]]  # thousandths -> [did not stand, stood]


class Confidence(LengthPolicy):
    """See the module."""

    name = "confidence"
    summary = "stop after a token whose own draft probability is below a learned threshold"
    source = "transformers ('dynamic speculation'); after DISCO, Mamou et al. 2405.04304"
    stops = True

    class Options(LengthPolicy.Options):
        """The threshold, and whether it learns."""

        threshold: float = Field(
            0.4, ge=0.0, le=1.0, description="probability below which a draft ends, at first"
        )
        adapt: bool = Field(True, description="set the threshold anew after every step")
        history: int = Field(2000, ge=10, description="tokens counted before the counts are halved")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self._counts: dict[str, Counts] = {}
        self._thresholds: dict[str, float] = {}

    def threshold(self, session: Session) -> float:
        """The threshold of now."""
        first: float = self.options.threshold
        return self._thresholds.get(_key(session), first)

    def go_on(self, session: Session, level: Level) -> bool:
        """Whether the level's likeliest token is probable enough."""
        return not level.q or level.q[likeliest(level)] >= self.threshold(session)

    def observe(self, session: Session, step: Step) -> None:
        """Count the levels that were judged, up to the first that did not stand."""
        if not self.options.adapt or self.options.threshold == 0.0 or not step.tree.q:
            return
        key, accepted = _key(session), len(step.verdict.path)
        counts = self._counts.setdefault(key, {})
        for depth, q in enumerate(spine(step.tree)[: accepted + 1], start=1):
            counts.setdefault(int(q * GRAIN), [0.0, 0.0])[depth <= accepted] += 1.0
        self._refit(key)

    def _refit(self, key: str) -> None:
        counts = self._counts[key]
        missed, stood = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
        if missed + stood > ENOUGH and missed and stood:
            no, yes = zip(*counts.values(), strict=True)
            self._thresholds[key] = best_threshold(list(counts), no, yes) / GRAIN
        if missed + stood >= self.options.history:
            halved = {q: [pair[0] / 2, pair[1] / 2] for q, pair in counts.items()}
            # what is left of a single token of long ago is dropped, so that few keys stay
            self._counts[key] = {q: pair for q, pair in halved.items() if sum(pair) > 0.1}

    def state(self) -> dict[str, Any]:
        """The counts: [thousandths, did not stand, stood] by drafter and temperature."""
        if not self._counts:
            return {}
        return {
            "counts": {k: [[q, *pair] for q, pair in c.items()] for k, c in self._counts.items()}
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for key, rows in state["counts"].items():
            self._counts[key] = {int(q): [float(no), float(yes)] for q, no, yes in rows}
            self._refit(key)


def _key(session: Session) -> str:
    """Whose probabilities they are."""
    return f"{session.drafter.name} at {session.request.sampling.temperature:.1f}"
