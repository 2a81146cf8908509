"""What a session's steps teach: the right rows at the right places."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests import tiny

from foretoken.engine.build import build
from foretoken.engine.engine import Engine
from foretoken.learn.online.buffer import Sample
from foretoken.learn.online.record import LEAST, Recorder, reduced
from foretoken.prompt.chance import Coins
from foretoken.prompt.sampling import TargetRows
from foretoken.tree import KINDS, DraftTree
from foretoken.types import Sampling, Session, Step, Verdict
from foretoken.verify.base import Verifier

VOCAB, DEPTH, LENGTH = 32, 4, 9


class Forced(Verifier):
    """Accepts the first `count` nodes of a chain; then a token that was not drafted."""

    name, summary, source = "forced", "-", "-"
    exact: ClassVar[frozenset[str]] = frozenset()
    accepts = frozenset(KINDS)

    def __init__(self, count: int) -> None:
        self.count = count

    def judge(self, tree: DraftTree, rows: TargetRows, coins: Coins) -> Verdict:
        count = min(self.count, len(tree))
        other = next(t for t in range(VOCAB) if t not in tree.tokens)
        return Verdict(tuple(range(count)), other)

    decide = judge


def run(
    accepted: int,
    use: Callable[[Session, Step], None],
    new: int = 12,
    name: str = "lm-sampled",
    **limits: Any,
) -> Session:
    target = tiny.target("small")
    made = tiny.drafter(name, vocab=VOCAB)
    method = build(target, made.context, made, "fixed", Forced(accepted), None, {"nodes": DEPTH})
    seen: list[Session] = []
    request = tiny.request(
        tiny.prompt(1, LENGTH, VOCAB), new, Sampling(temperature=0.7, seed=2), **limits
    )
    Engine(target, method="plain").run(
        [request], method, lambda s, step: (seen.append(s), use(s, step))
    )
    return seen[-1]


def recorded(accepted: int, **how: Any) -> tuple[list[Sample], Session, list[Step]]:
    recorder = Recorder(how.pop("top", 6), how.pop("window", 99), how.pop("most", 99), True)
    steps: list[Step] = []
    session = run(accepted, lambda s, step: (recorder.note(s, step), steps.append(step)), **how)
    return recorder.take(session), session, steps


@pytest.mark.parametrize("j", range(DEPTH))
def test_the_place_of_a_refused_token_is_its_own(j: int) -> None:
    """The row that spoke of drafted token j: index context - 1 + j, the text goes on otherwise."""
    (sample, *_), session, steps = recorded(j)
    expected = [step.context - 1 + j for step in steps if step.tree.depth > j]
    assert sample.positions[sample.wrong].tolist() == expected
    for step in steps:
        if step.tree.depth > j:
            assert session.tokens[step.context + j] != step.tree.tokens[j]


def test_a_bonus_is_not_wrong() -> None:
    (sample, *tails), _, _ = recorded(DEPTH)
    assert not sample.wrong.any()
    assert not tails


@pytest.mark.parametrize("accepted", [0, 2, DEPTH])
def test_the_rows_are_the_targets(accepted: int) -> None:
    """Every place of the text that was written, once, at the request's temperature."""
    (sample, *tails), session, _ = recorded(accepted)
    n = len(session.tokens)
    assert sample.on_text
    assert sample.positions.tolist() == list(range(LENGTH - 1, n - 1))
    assert sample.tokens.tolist() == session.tokens[: n - 1]
    assert bool(tails) == (accepted < DEPTH - 1)
    assert not any(tail.on_text for tail in tails)
    for piece in (sample, *tails):
        rows = tiny.plain_logits("small", piece.tokens.tolist())[piece.positions]
        wanted = (rows / 0.7).log_softmax(-1)
        found = torch.from_numpy(piece.log_p)
        named = wanted.gather(-1, torch.from_numpy(piece.ids))
        torch.testing.assert_close(found[:, :-1], named, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(len(piece)))
        assert piece.temperature == 0.7


def test_rows_below_a_refused_token_stand_after_it() -> None:
    (_, *tails), session, steps = recorded(1)
    step, tail = steps[0], tails[0]
    assert len(steps) > len(tails)
    steps = [s for s in steps if len(s.tree) > 1][-len(tails) :]
    for step, tail in zip(steps, tails, strict=True):
        text = [*session.tokens[: step.context], *step.tree.tokens]
        assert tail.tokens.tolist() == text
        assert tail.positions.tolist() == list(range(step.context + 1, len(text)))
        assert not tail.wrong.any()


def test_a_stop_within_the_accepted_tokens() -> None:
    """What was not given out is no text, and nothing was refused."""
    free = run(DEPTH, lambda *_: None)
    stop = free.tokens[LENGTH + 1]
    (sample, *tails), session, _ = recorded(DEPTH, eos_token_ids=(stop,))
    assert session.finish_reason == "stop"
    assert sample.positions.tolist() == list(range(LENGTH - 1, len(session.tokens) - 1))
    assert not sample.wrong.any()
    assert not tails


def test_window_and_bound_keep_the_end() -> None:
    (whole, *_), _, _ = recorded(1)
    (cut, *tails), session, _ = recorded(1, window=5)
    assert cut.tokens.tolist() == session.tokens[-6:-1]
    assert cut.positions.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(cut.log_p, whole.log_p[-5:])
    assert all(len(tail.tokens) == 5 for tail in tails)
    (short, *_), session, _ = recorded(1, most=4)
    assert len(short) <= 4
    assert short.positions[-1] == len(session.tokens) - 2


def test_what_was_taken_comes_once() -> None:
    recorder, pieces = Recorder(4, 99, 99), []

    def use(session: Session, step: Step) -> None:
        recorder.note(session, step)
        pieces.extend(recorder.take(session))

    session = run(1, use)
    places = [place for piece in pieces for place in piece.positions.tolist()]
    assert places == list(range(LENGTH - 1, len(session.tokens) - 1))
    assert not recorder.take(session)


def test_rows_that_nobody_knows_teach_nothing() -> None:
    recorder = Recorder(4, 99, 99, True)

    def use(session: Session, step: Step) -> None:
        known = [i % 2 == 0 for i in range(len(step.tree) + 1)]
        recorder.note(session, replace(step, scores=replace(step.scores, known=known)))

    session = run(1, use)
    (sample,) = recorder.take(session)
    assert (np.diff(sample.positions) == 2).all()
    assert not sample.wrong.any(), "the refused row is the second one"


def test_a_tree_is_refused_where_no_child_is_the_bonus() -> None:
    (sample, *tails), _, steps = recorded(0, name="lm-top-k")
    assert sample.positions[sample.wrong].tolist() == [
        step.context - 1 for step in steps if len(step.tree)
    ]
    for step, tail in zip([s for s in steps if len(s.tree)][-len(tails) :], tails, strict=True):
        assert tail.tokens[step.context] == step.tree.tokens[step.tree.children[0][0]]


def test_reduced_rows() -> None:
    logits = torch.tensor([[0.0, 1.0, -200.0, 3.0], [500.0, 0.0, 0.0, 0.0]])
    ids, log_p = reduced(logits, 2, 1.0)
    assert ids.shape == (2, 2)
    assert ids[0].tolist() == [3, 1]
    row = logits[0].softmax(-1).tolist()
    assert np.exp(log_p[0]) == pytest.approx([row[3], row[1], row[0] + row[2]], abs=1e-6)
    assert np.exp(log_p[1]) == pytest.approx([1.0, LEAST, LEAST], rel=1e-3)
    assert reduced(logits, 99, 1.0)[0].shape == (2, 3), "there is always a rest"
