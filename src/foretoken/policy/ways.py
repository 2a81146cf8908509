"""A drafter's ways of drafting, as cost-model holds them: who asks in which way, and when nobody.

A way that pays is asked for all sessions of a step, since they share its forwards and the target's.
One that does not is tried by a few, who can best afford it; what a dear way costs, one session
finds out for all. A text that a way would have to read first must be worth that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from foretoken.policy.arms import HOPE, LATEST, RARELY, Arm, Stream, choose
from foretoken.policy.ledger import Ledger
from foretoken.policy.pace import SPIKE
from foretoken.policy.rest import LONGEST, TELLS, Rest
from foretoken.policy.worth import Worth
from foretoken.tree import DraftTree
from foretoken.types import Session, Step

ENOUGH = 5  # drafts after which their usual seconds are known
NEAR = 0.1  # tokens; a way that saves no more time than they are worth is not tried
HOPED = 6  # levels that a dear source is hoped to draft, before anything is known but their time
TRYING = 4  # sessions of a batch that try what does not pay

Rider = tuple[Session, Ledger]


class Ways:
    """Of one drafter, with all its sessions.

    names: of its ways, cheapest first. slack: share of the time that may be lost. trains: whether
    it trains a model, see `Drafter.trains`. shows: whether it shows a dear source's levels. known:
    ways that were loaded, of this drafter or of one that had other ways. first: the way to begin
    with, "" for the cheapest; cheaper ones leave something of it out.
    """

    def __init__(
        self,
        names: Sequence[str],
        slack: float,
        trains: bool = False,
        shows: bool = False,
        known: Ways | None = None,
        first: str = "",
    ) -> None:
        self.names = tuple(names)
        # those that are asked without a surplus
        self.cheap = self.names[: self.names.index(first or names[0]) + 1]
        self.slack, self.trains, self.shows = slack, trains, shows
        before = known.arms if known is not None else {}
        self.arms: dict[str, Arm] = {**before, **{n: before.get(n) or Arm() for n in names}}
        self.idle: dict[str, int] = {}  # way -> steps since it was asked
        self.rest = Rest()
        self.plain = 0.0  # seconds of a plain step when last anything was chosen, a session's share
        self._due, self._chosen = 1, ""  # steps to the next trial; the way that was chosen

    def choose(self, riders: Sequence[Rider], worth: Worth) -> list[str | None]:
        """The way that each session asks in now; None: not at all. A session whose last step paid
        goes on, whatever the average says."""
        self.plain = fmean(worth.share(session) for session, _ in riders)
        owed = fmean(ledger.debt.owed for _, ledger in riders)
        rich = owed <= -self.plain  # an unknown cost is paid from gains
        able = {
            way: [rider for rider in riders if self.is_open(*rider, way, worth)]
            for way in self.names
            if way in self.cheap or self.arms[way].asked or rich
        }
        surplus, rate = -owed if rich else 0.0, worth.rate(self.plain)
        arms = {
            way: self.arms[way] for way, those in able.items() if those and self._saves(way, rate)
        }
        reading = {way: self._reading(able[way], way) for way in arms}
        stream = Stream(*self.trials(worth), surplus, worth.pace, rate)
        way, self._due = choose(arms, self.idle, stream, reading) if arms else (None, RARELY)
        self._chosen, asking = way or "", set[int]()
        if way is not None:
            pays = arms[way].gain > 0 and arms[way].asked >= min(HOPE, len(riders))
            most = len(riders) if pays else TRYING
            if way not in self.cheap and not arms[way].asked:
                most = 1
            best = sorted(able[way], key=lambda rider: rider[1].debt.owed)
            asking = {session.index for session, _ in best[:most]}
        wanted = [way if session.index in asking else ledger.lucky for session, ledger in riders]
        if way is not None and most == len(riders):  # who is not worth its reading asks cheaply
            cheap = self.usual if self.arms[self.usual].gain > 0 else None
            wanted = [each or cheap for each in wanted]
        return wanted

    @property
    def usual(self) -> str:
        """The cheap way that pays best, as far as it is known."""
        asked = [way for way in self.cheap if self.arms[way].asked >= HOPE]
        return max(asked, key=lambda way: self.arms[way].gain, default=self.cheap[-1])

    def _saves(self, way: str, rate: float) -> bool:
        """Whether a cheap way may be better than the next one, of which it is a part: only by the
        time that it saves, once that is known."""
        if way not in self.cheap[:-1]:
            return True
        fuller = self.arms[self.cheap[self.cheap.index(way) + 1]]
        return rate * (fuller.seconds - self.arms[way].seconds) > NEAR

    def trials(self, worth: Worth) -> tuple[float, int]:
        """(seconds a step that trials of what does not pay may cost, most steps without one)."""
        return self._allowed, max(RARELY, int(LATEST / self.plain / worth.batch))

    def is_open(self, session: Session, ledger: Ledger, way: str, worth: Worth) -> bool:
        """Whether the way was asked in this text, or the text is worth its reading. One that is
        passed over makes the price of reading fade: it may have changed."""
        arm = self.arms[way]
        if way in ledger.met or not arm.reading:
            return True
        if arm.gain <= 0:  # a trial, which is not made for what this text brings
            allowed, latest = self.trials(worth)
            return arm.price(session) <= allowed * latest
        if arm.gain * worth.steps_left(session) > worth.rate(self.plain) * arm.price(session):
            return True
        if way not in ledger.passed:
            ledger.passed.add(way)
            arm.pass_over()
        return False

    def _reading(self, riders: Sequence[Rider], way: str) -> float:
        """Seconds of reading the texts which the way has not met, a session."""
        new = [session for session, ledger in riders if way not in ledger.met]
        return sum(self.arms[way].price(session) for session in new) / len(riders)

    @property
    def dear(self) -> bool:
        """Whether a drafter that is not asked had better not watch, either."""
        return self.rest.dear(self._allowed)

    @property
    def _allowed(self) -> float:
        return self.slack * self.plain / 2  # trials may take a half of what may be lost

    def leave(self) -> None:
        """Nobody asks, now or before the next trial is due; or until a debt is worn off, where
        somebody would have asked."""
        due = self._due
        if self._chosen in self.arms:
            due = TELLS if self.arms[self._chosen].gain > 0 else LONGEST
        steps = self.rest.begin(due)
        for way in self.idle:
            self.idle[way] += steps

    def charged(self, ledger: Ledger, step: Step, levels: int) -> float:
        """Seconds of a step's draft of so many levels, at most `SPIKE` times the usual ones: what a
        pause of the process adds is no debt of the drafter's, as it is none of the target's."""
        assert ledger.way is not None
        arm, drafting = self.arms[ledger.way], step.seconds["draft"]
        if self.trains or ledger.way not in ledger.met or len(arm.times) < ENOUGH:
            return drafting
        return min(drafting, SPIKE * max(arm.seconds, levels * arm.depths.seconds))

    def observe(
        self,
        ledger: Ledger,
        step: Step,
        offer: DraftTree,
        stood: int,
        rate: float,
        cost: Callable[[int], float],
        wider: float,
    ) -> None:
        """A step in which a session asked. offer: the whole draft; stood: levels of it that the
        text went through; rate: tokens that a second is worth; cost: seconds of a forward with so
        many drafted nodes; wider: those that this one took beyond a plain one, as far as this
        session bears them."""
        assert ledger.way is not None
        arm, drafting = self.arms[ledger.way], step.seconds["draft"]
        # a model reads the prompt for a session's first draft: later ones do not take so long
        first = ledger.way not in ledger.met
        ledger.met.add(ledger.way)
        shows = self.shows and ledger.way not in self.cheap  # a dear source tells of its levels
        beside = self.arms[self.usual].seconds if shows else 0.0
        copies = ledger.way in self.cheap[:-1]  # which read nothing
        known, reading = copies or not first or arm.asked > 0, 0.0  # else: what of it was reading?
        if first and known and not copies:
            reading = arm.beyond(drafting, step.context)
        elif first and shows and arm.depths.timed:
            usual = beside + ledger.levels * arm.depths.seconds
            known, reading = True, arm.beyond(drafting, step.context, usual)
        if shows and arm.depths.timed and not arm.asked:
            arm.gain = arm.depths.choose(HOPED, rate, cost)[1]  # a hope, before any was counted
        if known:
            arm.times.append(drafting - reading)
            arm.nodes.append(len(offer))
        gain = len(step.verdict.path) - rate * (wider + arm.seconds)
        ledger.lucky = ledger.way if gain > 0 else None
        if known:
            arm.observe(gain)
        levels = [0] * offer.depth
        for depth in step.tree.depths:  # what the policy left of the offer: others cost no row
            levels[depth - 1] += 1
        judged = len(step.verdict.path) + 1
        if shows:  # its own levels, if it drafted
            levels, drafting = levels[: ledger.levels], max(drafting - beside, 0.0)
        arm.depths.observe(levels, stood, None if first else drafting, judged)
