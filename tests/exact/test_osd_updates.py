"""Sampled text keeps the target's law while the drafter's weights change after every request.

Check 2 of our notes on osd. False alarms have probability ALARM for all tests together; seeds are
fixed. The fault that online learning invites, rows of new weights for tokens that old ones drew, is
planted and must be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from foretoken.draft.osd import Osd
from foretoken.engine.build import Method, build, options
from foretoken.engine.engine import Engine
from foretoken.tree import DraftTree
from foretoken.types import Budget, Sampling, Session
from tests import tiny
from tests.exact.table_target import table_of
from tests.exact.test_distribution import ALARM, LENGTH, PROMPT, V, law, p_value

SAMPLES, FEWER = 800, 500
# an update for each three requests, of one text, with steps that throw the weights about
WILD = {
    "interval": 3, "steps": 1, "batch": 1, "replay": 0.0, "lr": 0.1, "clip": 100.0,
    "tolerance": 1.0, "scope": "process", "max_rows": 64,
}  # fmt: skip
CASES = [("block", {}), ("token", {}), ("walk", {"form": "lm-top-k"})]


def method(rule: str, **values: Any) -> Method:
    given = {"model": tiny.small_model(V), **WILD, **values}
    made = Osd(options(Osd.Options, given, "osd"), tiny.context(V))
    return build(tiny.target("six"), made.context, made, "fixed", rule, None, {"nodes": 2})


def written(chosen: Method, samples: int = SAMPLES) -> list[tuple[int, ...]]:
    engine = Engine(table_of(tiny.target("six")), method="plain", max_sessions=10)
    requests = (
        tiny.request(PROMPT, LENGTH, Sampling(temperature=1.0, seed=seed))
        for seed in range(samples)
    )
    return [tuple(c.tokens) for c in engine.run(requests, chosen)]


@pytest.mark.parametrize(("rule", "how"), CASES)
def test_the_law_of_three_tokens(rule: str, how: dict[str, Any]) -> None:
    chosen = method(rule, **how)
    found = written(chosen)
    (facts,) = chosen.drafter.learned[""].values()
    assert facts["kept"] > SAMPLES // 8, "the weights did change"
    assert p_value(found, law("temperature")) > ALARM / len(CASES)


def test_rows_of_other_weights_than_the_tokens_are_found() -> None:
    """Planted fault: what was drawn with the first weights is judged by the newest ones' rows."""
    chosen = method("token")
    drafter: Any = chosen.drafter

    def stale(asked: Sequence[tuple[Session, Budget]]) -> list[DraftTree]:
        return [
            judged(session, drafter._given.propose(session, budget)) for session, budget in asked
        ]

    def judged(session: Session, tree: DraftTree) -> DraftTree:
        trainee = session.memo["osd"].learner.trainee
        if trainee is None or tree.dist is None:
            return tree
        texts = [
            [*session.tokens, *(tree.tokens[i] for i in tree.path(parent))]
            for parent in tree.parents
        ]
        with torch.no_grad():
            rows = [
                trainee.model(torch.tensor([text]), use_cache=False).logits[0, -1].softmax(-1)
                for text in texts
            ]
        dist = torch.stack(rows)
        drawn = zip(dist, tree.tokens, strict=True)
        return replace(tree, dist=dist, q=tuple(float(row[token]) for row, token in drawn))

    drafter.propose_batch = stale
    original = drafter.end

    def end(session: Session) -> None:
        drafter._given.end(session)
        original(session)

    drafter.end = end
    assert p_value(written(chosen, FEWER), law("temperature")) < ALARM / len(CASES)
