"""How much of a way a session is granted by cost-model: what pays, and what its debt can bear."""

from __future__ import annotations

from dataclasses import replace

from foretoken.policy.ledger import Ledger
from foretoken.policy.ways import Ways
from foretoken.policy.worth import Worth
from foretoken.types import Budget, Session

FEW = 4  # drafts that are made, as far as the debt allows, before their time is believed


def grant(
    rider: tuple[Session, Ledger], most: Budget, ways: Ways, worth: Worth, askers: int, halts: bool
) -> Budget:
    """The part of `most` that is granted; none where the way is too dear for this text.

    askers: sessions that want to ask in this step. halts: whether the drafter is asked between its
    levels if it is to go on. Fills `ledger.way`.
    """
    session, ledger = rider
    drafter, plain = session.drafter, worth.share(session)
    budget = Budget(0)
    if ways.is_open(session, ledger, most.way, worth):
        if drafter.runs_model or drafter.emits != "point":
            budget, seconds = _deep(rider, most, ways, worth, askers, halts)
        else:  # asking alone would eat up what is allowed: there must be room for a node as well
            row = (worth.share(session, most.nodes, askers) - plain) / max(most.nodes, 1)
            least = ways.arms[ways.usual].least(row, worth.rate(plain))
            budget = replace(most, min_prob=least)
            seconds = ways.arms[most.way].seconds + worth.share(session, 1, askers)
    if not budget.nodes and most.way not in ways.cheap and ways.arms[ways.usual].gain > 0:
        return grant(rider, replace(most, way=ways.usual), ways, worth, askers, halts)
    if not budget.nodes or not ledger.debt.affords(seconds, plain):
        ledger.lucky = None
        return Budget(0)
    ledger.way, ledger.levels = budget.way, 0
    return budget


def _deep(
    rider: tuple[Session, Ledger], most: Budget, ways: Ways, worth: Worth, askers: int, halts: bool
) -> tuple[Budget, float]:
    """(the depth that pays, where every level costs a forward or nothing may be dropped; seconds of
    such a step that brings nothing)."""
    session, ledger = rider
    arm, plain = ways.arms[most.way], worth.share(session)
    deepest = min(most.depth, most.nodes)

    def cost(nodes: int) -> float:
        return worth.share(session, nodes, askers)

    depth, gain = arm.depths.choose(deepest, worth.rate(plain), cost)
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
        while nodes and not ledger.debt.affords(cost(nodes) + drafting, plain):
            nodes -= 1
    return replace(most, depth=depth, nodes=nodes), plain + drafting
