"""Drafters and policies on a recorded stream: what they would have done, step by step.

Everything runs through the real engine on a `ReplayTarget`, whose clock is virtual: a forward takes
what the cost curve says, drafting what it is said to take. So the same trace gives the same figures
on any machine, however busy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from foretoken.draft.base import Context, Drafter
from foretoken.engine.build import options as checked
from foretoken.learn.trace import Trace
from foretoken.policy.base import Policy
from foretoken.registry import find
from foretoken.target.cost import CostCurve
from foretoken.target.replay import ReplayTarget
from foretoken.tune.hindsight import Offer, Span, Text, offer
from foretoken.tune.replay import Replayed, replay
from foretoken.tune.stage import Price, Shadow, Staged, make

DEEPEST = 64  # depth of an offer


def stretched(curve: CostCurve, slope: float) -> CostCurve:
    """The curve with further rows `slope` times as dear and the first row as it is."""
    seconds = tuple(
        tuple(line[0] + slope * (value - line[0]) for value in line) for line in curve.seconds
    )
    return curve.model_copy(update={"seconds": seconds})


@dataclass(frozen=True, eq=False)
class Stream:
    """A trace and what is scripted to happen while it is written.

    curve: seconds of a forward, as the policies are told. slopes, outages: [requests], see
    `scenarios.Phase`; () is none.
    """

    trace: Trace
    curve: CostCurve
    context: Context
    slopes: Sequence[float] = ()
    outages: Sequence[bool] = ()

    def curve_of(self, request: int) -> CostCurve:
        """The cost while a request is written; policies have to find out."""
        slope = self.slopes[request] if self.slopes else 1.0
        return self.curve if slope == 1.0 else stretched(self.curve, slope)

    def run(self, cast: Cast, policy: Policy) -> Replayed:
        """Write the whole stream."""
        curves = [self.curve_of(i) for i in range(len(self.trace.requests))]

        def on_request(target: ReplayTarget, request: int) -> None:
            target.curve = curves[request]
            cast.whole.target = target
            cast.victim.out = bool(self.outages and self.outages[request])

        return replay(self.trace, cast.whole, policy, curve=self.curve, on_request=on_request)

    def policy(self, name: str, drafter: Drafter) -> Policy:
        """A fresh policy of a name, for this drafter and curve."""
        cls: type[Policy] = find("policy", name)
        chosen = checked(cls.Options, {}, name)
        if "nodes" in cls.Options.model_fields:
            chosen = chosen.model_copy(update={"nodes": drafter.nodes})
        return cls(chosen, self.curve if cls.wants_curve(chosen) else None)

    def offers(self, cast: Cast) -> list[list[Offer]]:
        """[requests][tokens] what a drafter proposes at every position of plain decoding; what
        that takes is left open (0)."""
        shadow = Shadow(cast.whole.nodes, DEEPEST)
        self.run(cast, shadow)
        proposed = iter(shadow.proposed)
        return [
            [
                offer(next(proposed), request.output[at : at + DEEPEST])
                for at in range(len(request.output))
            ]
            for request in self.trace.requests
        ]

    def texts(self, offers: Mapping[str, list[list[Offer]]]) -> list[Text]:
        """The stream with what several drafters offered, for `optimum` and bandits."""
        return [
            Text(
                len(request.prompt),
                len(request.output),
                self.curve_of(i),
                {method: made[i] for method, made in offers.items()},
            )
            for i, request in enumerate(self.trace.requests)
        ]


@dataclass
class Cast:
    """A fresh drafter on a stage, and the part of it that an outage silences: of a mixture the
    first source, else the drafter itself."""

    whole: Staged
    victim: Staged = field(init=False)

    def __post_init__(self) -> None:
        self.victim = self.whole
        parts: list[Drafter] | None = getattr(self.whole.inner, "parts", None)
        if parts:
            parts[0] = self.victim = Staged(parts[0])

    @classmethod
    def of(cls, name: str, context: Context, price: Price = Price()) -> Cast:  # noqa: B008
        """Raises ConfigError as `make`."""
        return cls(Staged(make(name, context), price))

    @property
    def sources(self) -> int:
        """Drafters that propose."""
        return len(getattr(self.whole.inner, "parts", ())) or 1


def spans(done: Replayed, requests: int) -> list[list[Span]]:
    """[requests][steps] of a replay."""
    out: list[list[Span]] = [[] for _ in range(requests)]
    for step in done.steps:
        method = done.method if step.drafted else ""
        out[step.request].append(Span(step.tokens, step.time, step.drafted, method))
    return out
