"""One step of decoding for many sessions. The life of a step is these few lines in `step`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from foretoken.commit.commit import commit
from foretoken.engine.clock import Clock, Shared
from foretoken.engine.unseen import show_unseen
from foretoken.policy.base import budgets_of, stopped
from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.prompt.sampling import TargetRows
from foretoken.target.base import Job, Target, rows_together
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Scores, Session, Step


def step(target: Target, sessions: Sequence[Session]) -> list[Step]:
    """budget -> propose -> score -> judge -> commit -> observe, for every session at once.

    All drafts are made, then one call of the target scores them all, then each is judged by its
    own session's rule. A session that is finished afterwards has its `finish_reason` set.
    """
    clock = Clock(target.now)
    drafts = draft(target, sessions)
    # who asks pays: another session's draft would look like a price of leaving the drafter alone
    asked = sum(1 for budget, _ in drafts if budget.nodes)
    drafted = clock.lap() / (asked or len(sessions))
    jobs = [
        Job(s.cache, s.tokens[s.cache.length :], tree)
        for s, (_, tree) in zip(sessions, drafts, strict=True)
    ]
    scores = target.score(jobs)
    rows, prompts = rows_together(jobs)
    target.wait()
    scored = clock.lap() / len(sessions)
    shared = Shared(0.0, scored, len(sessions), rows, prompts, target.now)
    asking = shared._replace(drafted=drafted)
    return [
        judge(session, budget, tree, row, asking if budget.nodes or not asked else shared)
        for session, (budget, tree), row in zip(sessions, drafts, scores, strict=True)
    ]


def draft(target: Target, sessions: Sequence[Session]) -> list[tuple[Budget, DraftTree]]:
    """Ask the policies, then each drafter once for all its sessions.

    A policy may cut what was proposed, where that cannot bias the draft (kind "point").
    """
    budgets = [allowance(target, *one) for one in zip(sessions, budgets_of(sessions), strict=True)]
    for session, budget in zip(sessions, budgets, strict=True):
        if not budget.unseen:
            show_unseen(session)
    trees = [EMPTY] * len(sessions)
    asked = [i for i, allowed in enumerate(budgets) if allowed.nodes]
    for drafter in dict.fromkeys(sessions[i].drafter for i in asked):
        mine = [i for i in asked if sessions[i].drafter is drafter]
        drafts = drafter.propose_batch([(sessions[i], budgets[i]) for i in mine])
        for i, tree in zip(mine, drafts, strict=True):
            trees[i] = tree
    fixed = [i for i in asked if len(trees[i]) and trees[i].kind == "point"]
    for i in fixed:
        trees[i] = stopped(sessions[i], budgets[i], trees[i])
    for policy in dict.fromkeys(sessions[i].policy for i in fixed):
        mine = [i for i in fixed if sessions[i].policy is policy]
        cut = policy.cut_batch([(sessions[i], trees[i]) for i in mine])
        for i, tree in zip(mine, cut, strict=True):
            trees[i] = tree
    return list(zip(budgets, trees, strict=True))


def allowance(target: Target, session: Session, budget: Budget) -> Budget:
    """What of the policy's budget is allowed; it ends where text, context or memory would."""
    if session.policy.guard is not None:
        budget = session.policy.guard.granted(session, budget)
    if not budget.nodes:
        return budget
    held = len(session.tokens)
    depth = min(budget.depth, session.room - 1, target.max_context - held - 1)
    room = min(session.cache.capacity - held, target.max_draft)
    nodes = min(budget.nodes, room) if depth > 0 else 0
    halts = session.policy.halts(session.drafter)
    asked = partial(session.policy.go_on, session) if halts else None
    return replace(budget, nodes=max(nodes, 0), depth=max(depth, 0), go_on=asked)


def judge(
    session: Session,
    budget: Budget,
    tree: DraftTree,
    scores: Scores,
    shared: Shared,
) -> Step:
    """Judge, commit, observe: what follows the forward, for one session."""
    clock = Clock(shared.now)
    context, fresh = len(session.tokens), len(session.tokens) - session.cache.length
    rows = TargetRows(scores.logits, tree, session.tokens, session.warper)
    coins = Coins(PositionRandom(session.request.sampling.seed), context)
    verdict = session.verifier.judge(tree, rows, coins)
    committed = commit(session, tree, verdict, rows)
    seconds = {"draft": shared.drafted, "target": shared.scored, "verify": clock.lap()}
    done = Step(
        context, budget, tree, scores, verdict, committed, seconds,
        shared.batch, shared.rows, fresh, shared.prompts,
    )  # fmt: skip
    if budget.unseen:
        session.unseen += len(committed.tokens)
    else:
        session.drafter.observe(session, done)
    seconds["draft"] += clock.lap()  # learning is part of what drafting costs
    session.policy.observe(session, done)
    if session.policy.guard is not None:
        session.policy.guard.observe(session, done)
    seconds["draft"] += clock.lap()
    for part, spent in seconds.items():
        session.stats.seconds[part] += spent
    return done
