"""What one scope (a tenant) learned: a router, and a learner for each domain of its requests.

A domain that has no weights of its own yet drafts with those of the default domain, and starts
learning from them. The rows held are shared out among the domains beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from foretoken.errors import ArtifactError
from foretoken.learn.online.learner import Learner
from foretoken.learn.online.options import OnlineOptions
from foretoken.learn.online.routing import DEFAULT, Router
from foretoken.learn.online.shelf import copied
from foretoken.learn.online.twin import add_changes, dense_twin, encoded, fingerprint
from foretoken.learn.online.update import Trainee
from foretoken.learn.online.worker import Worker

COUNTS = (
    "requests",
    "updates",
    "kept",
    "waiting",
    "rolled_back",
    "recalled",
    "dropped",
    "late",
)  # fmt: skip  (facts that are saved)


class Learners:
    """A store of `draft.scopes`. base, publish, worker: see `Learner`."""

    def __init__(
        self,
        options: OnlineOptions,
        base: Callable[[], Any],
        publish: Callable[[Any], Any],
        worker: Worker | None,
    ) -> None:
        self.options, self._base, self._publish, self._worker = options, base, publish, worker
        self.router = Router(options.domains, options.route, options.seed)
        self._learners: dict[str, Learner] = {}

    def __iter__(self) -> Iterator[tuple[str, Learner]]:
        """Domains and their learners."""
        return iter(self._learners.items())

    def __len__(self) -> int:
        """Rows held."""
        return sum(len(learner.buffer) for learner in self._learners.values())

    def of(self, prompt: Sequence[int]) -> Learner:
        """The learner of a request."""
        return self.get(self.router.domain(prompt))

    def get(self, domain: str) -> Learner:
        """The learner of a domain, made if it is new."""
        if domain not in self._learners:
            shares = self.options.domains + 1 if self.options.domains > 1 else 1
            base = self._base if domain == DEFAULT else self._start
            self._learners[domain] = Learner(
                self.options, base, self._publish, self.options.max_rows // shares, self._worker
            )
        return self._learners[domain]

    def _start(self) -> Any:
        """The model that a domain starts from."""
        default = self._learners.get(DEFAULT)
        # updates come one after the other, so that the default's weights stand still meanwhile
        trained = default.trainee if default is not None else None
        if trained is None:
            return self._base()
        with trained.having(trained.kept):  # not those that wait for the gate
            return dense_twin(trained.model)

    def drafter(self, learner: Learner) -> Any:
        """What drafts for a domain now; None: the weights that were given."""
        default = self._learners.get(DEFAULT)
        return learner.drafter or (default.drafter if default is not None else None)

    @property
    def adapted(self) -> bool:
        """Whether there are weights of its own."""
        return any(learner.drafter is not None for learner in self._learners.values())

    def wait(self) -> None:
        """Until nothing is learned beside any more, and it is taken over."""
        for learner in self._learners.values():
            learner.wait()

    def shed(self) -> None:
        """Give back the memory of all weights; drafting starts over from those given."""
        for learner in self._learners.values():
            learner.shed()

    def state(self) -> dict[str, Any]:
        """Changes of weights (bfloat16), domains and counts; no texts. Domains with most updates
        first, as many as `save_mb` has room for."""
        domains: dict[str, Any] = {}
        room = self.options.save_mb * 1e6
        start = dense_twin(self._base()) if self.adapted else None
        ranked = sorted(self._learners.items(), key=lambda pair: -pair[1].facts.kept)
        for name, learner in ranked:
            learner.wait()
            facts = {count: getattr(learner.facts, count) for count in COUNTS}
            domains[name] = {"facts": facts, "changes": [], "failed": learner.facts.failed}
            if start is not None and learner.drafter is not None and learner.trainee is not None:
                changes = encoded(learner.trainee.kept, list(start.parameters()))
                room -= sum(map(len, changes))
                if room >= 0:
                    domains[name]["changes"] = changes
        mark = fingerprint(start) if start is not None else ""
        return {"base": mark, "router": self.router.state(), "domains": domains}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave. Raises ArtifactError for the changes of other weights."""
        if state["base"] and state["base"] != fingerprint(dense_twin(self._base())):
            raise ArtifactError("osd: the saved weights are of another drafter model")
        self.router.load(state["router"])
        for name, saved in state["domains"].items():
            learner = self.get(name)
            for count in COUNTS:
                setattr(learner.facts, count, int(saved["facts"].get(count, 0)))
            if saved["changes"]:
                trainee = Trainee(self._base(), self.options)
                given = copied(trainee.kept)
                add_changes(trainee.weights, saved["changes"])
                trainee.keep()
                learner.adopt(trainee, given)

    def report(self) -> dict[str, Any]:
        """Facts by domain, JSON-ready."""
        return {name: learner.facts.report() for name, learner in self._learners.items()}
