"""All contestants on one stream: drafters under policies, bandits over drafters, the optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from foretoken.errors import ForetokenError
from foretoken.tune.bandit import Exp3, Ucb, arms, play
from foretoken.tune.hindsight import Offer, Span, optimum, plain
from foretoken.tune.report import EXP3, OPTIMUM, PLAIN, UCB
from foretoken.tune.runs import Cast, Stream, spans
from foretoken.tune.stage import Price

Run = list[list[Span]]  # [requests][steps]


class Watch(Protocol):
    """Told how far the work is; `cli.bench_show.Bar` shows it."""

    def phase(self, name: str, total: int) -> None:
        """So many units of work follow."""

    def advance(self, by: int = 1) -> None:
        """So much more is done."""


class Ran(NamedTuple):
    """A finished contestant. policy: "" for what is no drafter of its own."""

    method: str
    policy: str
    run: Run
    price: Price = Price()


class Contest:
    """price: what a drafter is to take in a step, asked after it was recorded in shadow.

    Drafters that cannot be judged on this stream are left out, and `left_out` says why. After
    `record` and `compete` were interrupted, what was finished stands.
    """

    def __init__(
        self,
        stream: Stream,
        methods: Sequence[str],
        policies: Sequence[str],
        price: Callable[[Cast], Price],
    ) -> None:
        self.stream, self._price = stream, price
        self._policies = policies
        self._offers: dict[str, list[list[Offer]]] = {}
        self._prices: dict[str, Price] = {}
        self.left_out: dict[str, str] = {}
        self.ran: list[Ran] = []
        self._methods = [method for method in methods if self._fits(method)]

    @property
    def work(self) -> int:
        """Replays that `record` and `compete` need."""
        return len(self._methods) * (1 + len(self._policies))

    def _fits(self, method: str) -> bool:
        try:
            Cast.of(method, self.stream.context)
        except ForetokenError as error:  # no table, or one of another tokenizer
            self.left_out[method] = str(error)
            return False
        return True

    def record(self, watch: Watch) -> None:
        """What every drafter would propose at every position."""
        for method in self._methods:
            cast = Cast.of(method, self.stream.context)
            offers = self.stream.offers(cast)
            if any(made.nodes for text in offers for made in text):
                self._prices[method], self._offers[method] = self._price(cast), offers
            else:
                self.left_out[method] = "it proposed nothing on this text"
                watch.advance(len(self._policies))
            watch.advance()

    def compete(self, watch: Watch) -> None:
        """Every recorded drafter under every policy."""
        for method, price in self._prices.items():
            for policy in self._policies:
                cast = Cast.of(method, self.stream.context, price)
                done = self.stream.run(cast, self.stream.policy(policy, cast.whole))
                run = spans(done, len(self.stream.trace.requests))
                self.ran.append(Ran(method, policy, run, price))
                watch.advance()

    def bounds(self, seed: int = 0) -> list[Ran]:
        """Plain decoding, the optimum of all that was recorded, and the bandits."""
        offers = {
            method: [
                [o._replace(seconds=self._prices[method].propose) for o in text] for text in made
            ]
            for method, made in self._offers.items()
        }
        texts = self.stream.texts(offers)
        options = arms(list(offers))
        return [
            Ran(PLAIN, "", [plain(text) for text in texts]),
            Ran(OPTIMUM, "", [optimum(text) for text in texts]),
            Ran(UCB, "", play(texts, options, Ucb(len(options)))),
            Ran(EXP3, "", play(texts, options, Exp3(len(options), seed))),
        ]
