"""One domain's learner: it collects texts, updates its weights now and then, and keeps good ones.

An update is due after `interval` finished requests, or after `patience` steps. It takes the fresh
texts and some older ones (or what `select` chooses), makes its gradient steps, and stands if it
passes the gate; then new weights draft from the next proposal on. Where it does not, the drafter
stays and learning goes on from there for a few updates, before all of it is taken back. Weights
that served before serve again where they are better by now (`shelf`). What fails detaches the
learner: it is said once, and decoding goes on with the last good weights.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from foretoken.learn.online.buffer import Buffer, Sample, rows
from foretoken.learn.online.gate import Check, Gate
from foretoken.learn.online.options import OnlineOptions
from foretoken.learn.online.select import Selector
from foretoken.learn.online.shelf import Shelf
from foretoken.learn.online.update import Learned, Trainee
from foretoken.learn.online.worker import Worker

LOG = logging.getLogger("foretoken.online")
LOGGED = 512  # updates whose figures are kept


@dataclass
class Facts:
    """What became of the updates; `log` has a row for each of the last ones."""

    requests: int = 0
    updates: int = 0
    kept: int = 0
    waiting: int = 0  # lost acceptance on held-out rows: were learned on, and not served
    rolled_back: int = 0  # lost it once too often, and were taken back
    recalled: int = 0  # followed by a return to weights that served before
    dropped: int = 0  # gave no number
    late: int = 0  # stopped by the deadline
    seconds: float = 0.0  # spent on updates
    failed: str = ""  # why the learner was detached
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LOGGED))

    def report(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "seconds": round(self.seconds, 4), "log": list(self.log)}


class Learner:
    """See the module.

    base: gives the model that this domain starts from. publish: makes a drafter of trained weights.
    worker: runs updates beside decoding; None: they run at the request's end.
    """

    def __init__(
        self,
        options: OnlineOptions,
        base: Callable[[], Any],
        publish: Callable[[Any], Any],
        max_rows: int,
        worker: Worker | None = None,
    ) -> None:
        self.options, self.facts = options, Facts()
        self.buffer = Buffer(max_rows, options.seed, options.rows == "wrong")
        self.drafter: Any = None  # what `publish` made of the last weights that were kept
        self.trainee: Trainee | None = None
        self._base, self._publish, self._worker = base, publish, worker
        self._selector = Selector(options.seed) if options.select else None
        self._shelf: Shelf | None = None  # made at the first update that stands
        self._running: Future[None] | None = None
        # what an update left to be taken over: a drafter, the pool before and after pruning
        self._published: Any = None
        self._pruned: tuple[Sequence[Sample], Sequence[Sample]] | None = None
        self._random = np.random.default_rng(options.seed)
        self._finished = self._steps = 0  # requests and steps since the last update
        self._waiting = 0  # updates since the weights were served or taken back

    @property
    def learning(self) -> bool:
        """Whether there will be updates."""
        return self.options.interval > 0 and not self.facts.failed

    def step(self) -> None:
        """One more step of a request of this domain."""
        self._steps += 1

    @property
    def overdue(self) -> bool:
        """Whether texts have waited for `patience` steps."""
        return 0 < self.options.patience <= self._steps

    def add(self, samples: Sequence[Sample], finished: bool = True) -> None:
        """Take in texts of a request, which may go on."""
        self.facts.requests += finished
        self._finished += finished
        self.buffer.add(samples)

    def advance(self) -> None:
        """Between requests: take over what was learned beside, then learn if it is time to."""
        if self._running is not None:
            if not self._running.done():
                return
            self._running = None
        self._take_over()
        due = self._finished >= self.options.interval or self.overdue
        if not (due and self.learning and self.buffer.fresh):
            return
        self._finished = self._steps = 0
        fresh, held_out = self.buffer.take(), list(self.buffer.held_out)
        pool = list(dict.fromkeys([*self.buffer.old, *fresh]))
        work = partial(self.guard, partial(self._update, fresh, pool, held_out))
        if self._worker is None:
            work()
            self._take_over()
        else:
            self._running = self._worker.submit(work)

    def _take_over(self) -> None:
        """In the thread that decodes: nobody reads drafter or buffer meanwhile."""
        if self._published is not None:
            self.drafter, self._published = self._published, None
        if self._pruned is not None:
            (pool, kept), self._pruned = self._pruned, None
            known = set(pool)
            self.buffer.keep([*kept, *(text for text in self.buffer.old if text not in known)])

    def wait(self) -> None:
        """Until nothing is learned beside any more, and it is taken over."""
        if self._running is not None:
            self._running.result()
            self._running = None
            self._take_over()

    def shed(self) -> None:
        """Back to the weights of the start; texts and facts stay."""
        self.wait()
        self.drafter = self.trainee = self._shelf = None

    def adopt(self, trainee: Trainee, given: Sequence[Tensor]) -> None:
        """Go on from these weights, which are kept. given: those that all began with."""
        self.trainee, self._shelf = trainee, self._new_shelf(given)
        self.drafter = self._publish(trainee.model)

    def guard(self, work: Callable[[], None]) -> None:
        """Do it; if it fails this learner learns no more, and its drafter stays as it is."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  (whatever it is, the text must go on)
            self.facts.failed = f"{type(error).__name__}: {error}".splitlines()[0]
            LOG.warning("online learning stopped, drafting goes on: %s", self.facts.failed)
            self._selector, self._shelf, self.buffer = None, None, Buffer(0)
            if self.trainee is not None:
                with suppress(Exception):
                    self.trainee.restore()

    def _update(
        self, fresh: Sequence[Sample], pool: Sequence[Sample], held_out: Sequence[Sample]
    ) -> None:
        began = perf_counter()
        trainee = self.trainee = self.trainee or Trainee(self._base(), self.options)
        gate = Gate(trainee, held_out, self._shelf)
        batches = self._batches(trainee, fresh, pool)
        left = self.options.deadline - (perf_counter() - began) - gate.takes
        done = trainee.learn(batches, left, held_out)
        trained = done.finite and done.steps > 0
        check = gate.check(trained)
        stands = trained and check.passes(self.options.tolerance)
        # one update's gain is smaller than what few held-out rows tell apart: several may add up
        waits = not stands and done.finite and self._waiting < self.options.trials
        recalled = self._shelf is not None and check.comes_back(stands)
        if recalled:
            assert self._shelf is not None
            trainee.recall(self._shelf.change(check.which, gate.place(), trainee.kept))
            self._shelf.move_on(trainee.kept)
            stands = waits = False
        elif stands:
            if self._shelf is None:
                self._shelf = self._new_shelf(trainee.kept)
            else:
                self._shelf.remember(*gate.forgotten(), trainee.weights)
            trainee.keep()
        elif not waits:
            trainee.restore()
        if stands or recalled:
            self._published = self._publish(trainee.model)
        self._waiting = self._waiting + 1 if waits else 0
        if self._selector is not None:
            room = self.buffer.room * len(pool) // max(rows(pool), 1)
            self._pruned = (pool, self._selector.prune(trainee, pool, max(room, 1)))
        what = "recalled" if recalled else "kept" if stands else "waiting" if waits else "back"
        self._note(done, check, what, rows(fresh), perf_counter() - began)

    def _new_shelf(self, given: Sequence[Tensor]) -> Shelf | None:
        return Shelf(given, self.options.shelf) if self.options.shelf else None

    def _batches(
        self, trainee: Trainee, fresh: Sequence[Sample], pool: Sequence[Sample]
    ) -> list[list[Sample]]:
        """The texts of each gradient step."""
        size, steps = self.options.batch, self.options.steps
        if self._selector is not None:
            chosen = self._selector.choose(trainee, pool, size * steps)
            self._random.shuffle(chosen)
            return [part for i in range(steps) if (part := chosen[i::steps])]
        new = set(fresh)
        old = [sample for sample in pool if sample not in new]
        again = round(self.options.replay * size) if old else 0
        return [[*self._some(fresh, size - again), *self._some(old, again)] for _ in range(steps)]

    def _some(self, samples: Sequence[Sample], count: int) -> list[Sample]:
        at = self._random.permutation(len(samples))[:count]
        return [samples[i] for i in sorted(at)]

    def _note(self, done: Learned, check: Check, what: str, learned: int, seconds: float) -> None:
        facts = self.facts
        facts.updates += 1
        facts.kept += what == "kept"
        facts.recalled += what == "recalled"
        facts.dropped += not done.finite
        facts.waiting += what == "waiting"
        facts.rolled_back += done.finite and done.steps > 0 and what == "back"
        facts.late += done.late
        facts.seconds += seconds
        facts.log.append({
            "requests": facts.requests, "steps": done.steps, "rows": learned,
            "kept": what == "kept", "loss": _shown(done.loss), "before": _shown(check.before),
            "after": _shown(check.after), "shelved": _shown(check.shelved),
            "recalled": what == "recalled", "held_out": check.rows, "seconds": round(seconds, 4),
        })  # fmt: skip


def _shown(value: float) -> float | None:
    """JSON has no NaN."""
    return round(value, 5) if math.isfinite(value) else None
