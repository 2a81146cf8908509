"""specdec++: stop when a trained head says that one of the drafted tokens will be rejected.

A head on the small model (`learn.recipes.specdec_head`) reads the hidden state at each drafted
token and predicts its acceptance. After the j-th token the draft ends if the predicted chance of at
least one rejection among the first j - 1, whose states are known, is above the threshold h; the
j-th itself is submitted in any case. Bounds as in the paper: 2 to 20 tokens.
h None: our rule in place of a threshold (our notes on specdecpp, sec. 3.1). With s the predicted
chance that everything so far stands (and a, the mean prediction, for the newest token), drafting
goes on while s a > rate c: what one more token brings is worth its time c at the tokens per second
of late. There the predictions are taken as probabilities, the weight of their training undone.
In a tree the rule looks at the likeliest node of a level and multiplies its ancestors' predictions.

Differences: predictions are kept within [0.01, 0.999], since errors multiply; the rate is at least
one token per target forward.
Guarantee: exact. It reads states of drafted tokens and finished steps, and what was drafted is
submitted. With h None a draft's length depends on the clock. Shared, with h None: speeds, and the
mean prediction; nothing of anyone's text.
Cost: D H^2 multiplications per drafted token. The head is made by `train draft specdec-head`, for
one drafter and one temperature. Give the drafter a `depth` of 20 as well, and nodes for it.
Source: Huang, Guo, Wang 2405.19715.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

from pydantic import BeforeValidator, Field

from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.recipes.specdec_head import SpecdecHead, folder_hash, load_head
from foretoken.policy.length import LengthPolicy, likeliest
from foretoken.policy.pace import Pace
from foretoken.target.cost import CostCurve
from foretoken.types import Budget, Level, Session, Step

if TYPE_CHECKING:
    from foretoken.draft.base import Drafter

WINDOW = 0.01  # weight of the newest step in the rate and of the newest prediction in their mean
FIRST = 0.7  # the mean prediction before there was any, and the threshold before speeds are known


def _none(value: Any) -> Any:
    """As a command line writes it."""
    return None if value == "none" else value


class SpecdecPlusPlus(LengthPolicy):
    """See the module."""

    name = "specdec++"
    summary = "stop when a trained head expects a rejection among what is drafted"
    source = "SpecDec++, Huang, Guo, Wang 2405.19715"
    stops = True
    needs = frozenset({"levels", "hidden"})

    class Options(LengthPolicy.Options):
        """The head, and when it stops a draft."""

        head: Any = Field(
            None, description="folder or file of a head; None: in the small model's folder"
        )
        h: Annotated[float | None, BeforeValidator(_none)] = Field(
            0.7,
            ge=0.0,
            le=1.0,
            description="chance of a rejection above which a draft ends; none: what its time is "
            "worth",
        )
        least: int = Field(2, ge=1, le=1024, description="levels below which it never ends")

    def __init__(self, options: Any, curve: CostCurve | None = None) -> None:
        super().__init__(options, curve)
        self._heads: WeakKeyDictionary[Drafter, SpecdecHead] = WeakKeyDictionary()
        self._paces: dict[str, Pace] = {}  # by drafter
        self._tokens, self._seconds = 0.0, 0.0
        self._mean = FIRST

    def meet(self, drafter: Drafter) -> None:
        """Load the head, so that one which is missing or another model's is refused at once."""
        head, model = self._head(drafter), getattr(drafter, "model", None)
        if model is not None:
            head.to(model.target.device)

    def budget(self, session: Session) -> Budget:
        """The options'; a draft begins."""
        session.memo[self.name] = {}
        return super().budget(session)

    def go_on(self, session: Session, level: Level) -> bool:
        """See the module."""
        # depth -> chance that a node's ancestors all stand, for every node of that level
        stand: dict[int, list[float]] = session.memo.setdefault(self.name, {})
        if level.depth == 1 or level.hidden is None:
            stand[level.depth] = [1.0] * len(level.q)
        else:
            head, undo = self._head(session.drafter), self.options.h is None
            above = stand[level.depth - 1]
            predicted = head.accepted(level.hidden, undo)
            rows = [above[i] * f for i, f in zip(level.rows, predicted, strict=True)]
            stand[level.depth] = [rows[parent] for parent in level.parents]
            if undo:
                for f in predicted:
                    self._mean += WINDOW * (f - self._mean)
        if level.depth < self.options.least or not level.q:
            return True
        return self._worth(session, stand[level.depth][likeliest(level)])

    def _worth(self, session: Session, stands: float) -> bool:
        """stands: the predicted chance that all but the newest token stand."""
        level = self._pace(session.drafter.name).level
        if self.options.h is not None or level is None or not self._seconds:
            h = FIRST if self.options.h is None else self.options.h
            return 1.0 - stands <= h
        return stands * self._mean**2 > self.rate(session.drafter.name) * level

    def rate(self, drafter: str) -> float:
        """Tokens per second that time is worth: of late, and those of plain decoding at least."""
        forward = self._pace(drafter).forward
        return max(self._tokens / self._seconds, 1.0 / forward if forward else 0.0)

    def observe(self, session: Session, step: Step) -> None:
        """Measure, if there is no threshold."""
        if self.options.h is not None:
            return
        self._pace(session.drafter.name).observe(session, step)
        if step.fresh == 1:
            spent = step.seconds["draft"] + step.seconds["target"] + step.seconds["verify"]
            self._tokens += WINDOW * (len(step.committed.tokens) - self._tokens)
            self._seconds += WINDOW * (spent - self._seconds)

    def _pace(self, drafter: str) -> Pace:
        return self._paces.setdefault(drafter, Pace())

    def _head(self, drafter: Drafter) -> SpecdecHead:
        given = self.options.head
        if isinstance(given, SpecdecHead):
            return given
        head = self._heads.get(drafter)
        if head is None:
            head = self._heads[drafter] = self._found(drafter)
        return head

    def _found(self, drafter: Drafter) -> SpecdecHead:
        """The head for a drafter, on its device. Raises ConfigError if there is none, ArtifactError
        if it is another drafter's."""
        model: Any = getattr(drafter, "model", None)
        given, field = self.options.head, f"{self.name}.head"
        place = getattr(model, "name", "") if given is None else given
        if not isinstance(place, str | Path) or not str(place):
            accepted = "a folder or file of a head (`foretoken train draft specdec-head` makes one)"
            raise ConfigError(field, given, accepted)
        try:
            head, facts = load_head(Path(place))
        except ConfigError as error:
            raise ConfigError(field, given, error.accepted) from None
        again = "train one for it with `foretoken train draft specdec-head`"
        width = model.target.model.get_output_embeddings().in_features
        if facts.hidden != width:
            raise ArtifactError(
                f"{place}: a head for hidden states of {facts.hidden}, the drafter's have {width}; "
                f"{again}"
            )
        own = folder_hash(Path(model.name)) if model.name else ""
        if facts.drafter and own and facts.drafter != own:
            raise ArtifactError(f"{place}: a head of another drafter than {model.name}; {again}")
        return head.to(model.target.device)
