"""How much of a way a session is granted by cost-model: what pays, and what its debt can bear."""

from __future__ import annotations

from dataclasses import replace

from foretoken.policy.ledger import Ledger
from foretoken.policy.ways import Ways
from foretoken.policy.worth import Worth
from foretoken.types import Budget, Session

FEW = 4  # drafts that are made, as far as the debt allows, before their time is believed


def grant(
    session: Session, ledger: Ledger, most: Budget, ways: Ways, worth: Worth, halts: bool
) -> Budget:
    """The part of `most` that is granted; none where the way is too dear for this text.

    halts: whether the drafter is asked between its levels if it is to go on. Fills `ledger.way`.
    """
    drafter = session.drafter
    if not ways.is_open(session, ledger, most.way, worth):
        if most.way == ways.cheapest or ways.arms[ways.cheapest].gain <= 0:
            return Budget(0)
        most = replace(most, way=ways.cheapest)
    if drafter.runs_model or drafter.emits != "point":
        budget, seconds = _deep(session, ledger, most, ways, worth, halts)
    else:  # asking alone would eat up what is allowed: there must be room for a node as well
        budget, seconds = most, ways.arms[most.way].seconds + worth.share(session, 1)
    if not budget.nodes or not ledger.debt.affords(seconds, worth.share(session)):
        return Budget(0)
    ledger.way, ledger.levels, ways.idle[budget.way] = budget.way, 0, 0
    return budget


def _deep(
    session: Session, ledger: Ledger, most: Budget, ways: Ways, worth: Worth, halts: bool
) -> tuple[Budget, float]:
    """(the depth that pays, where every level costs a forward or nothing may be dropped; seconds of
    such a step that brings nothing)."""
    arm, plain = ways.arms[most.way], worth.share(session)
    deepest = min(most.depth, most.nodes)
    depth, gain = arm.depths.choose(deepest, worth.rate(plain), lambda n: worth.share(session, n))
    unknown = arm.depths.timed < FEW
    if not depth and not unknown:
        arm.gain = min(arm.gain, gain)
        if ways.idle[most.way] < arm.interval(*ways.trials(worth)):
            return Budget(0), plain
    if not depth or not arm.depths.timed:
        depth = 1  # a trial, or one of the first, when nobody knows what a level costs
    elif halts:  # `go_on` ends the draft; here, what may be risked
        depth = deepest
        while depth > 1 and not ledger.debt.affords(plain + depth * arm.depths.seconds, plain):
            depth -= 1
    drafting, nodes = depth * arm.depths.seconds, most.nodes
    if session.drafter.emits != "point":  # no more than is affordable: none may be dropped later
        while nodes and not ledger.debt.affords(worth.share(session, nodes) + drafting, plain):
            nodes -= 1
    return replace(most, depth=depth, nodes=nodes), plain + drafting
