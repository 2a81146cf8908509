"""commit: the invariant cache.length == len(tokens) - 1, whatever stops or fails."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken.commit.commit import commit
from foretoken.commit.stop import StopRule
from foretoken.prompt.chance import PositionRandom
from foretoken.prompt.sampling import TargetRows, Warper
from foretoken.tree import DraftTree
from foretoken.types import Limits, Request, Session, Verdict
from foretoken.verify.walk import Walk

VOCAB, EOS = 300, 299


class FakeCache:
    """Holds the tokens themselves, so that a wrong row shows."""

    capacity = 1000

    def __init__(self) -> None:
        self.held: list[int] = []
        self.fresh: list[int] = []
        self.tree = DraftTree()
        self.fail = False

    @property
    def length(self) -> int:
        return len(self.held)

    def keep(self, path) -> None:
        assert all(self.tree.parents[node] == parent for parent, node in zip((-1, *path), path))  # noqa: B905
        self.held += self.fresh + [self.tree.tokens[node] for node in path]
        if self.fail:
            raise RuntimeError("out of memory")

    def truncate(self, n: int) -> None:
        del self.held[n:]

    def release(self) -> None:
        pass


def make(prompt=(1, 2, 3), decode=None, keep_logits=False, **limits) -> Session:
    request = Request(list(prompt), limits=Limits(**limits), keep_logits=keep_logits)
    rule = StopRule(request.limits, (EOS,), decode)
    warper = Warper(
        request.sampling, request.prompt, rule.eos, request.limits.max_new_tokens, VOCAB
    )
    return Session(request, list(prompt), FakeCache(), None, None, Walk(), warper, rule)  # type: ignore[arg-type]


def step(session: Session, tree: DraftTree, text: list[int]):
    """Score with a target that wants to write `text` next, judge, commit."""
    wanted = [text[min(d, len(text) - 1)] for d in (0, *tree.depths)]
    logits = torch.nn.functional.one_hot(torch.tensor(wanted), VOCAB).float() * 9
    session.cache.fresh = session.tokens[session.cache.length :]
    session.cache.tree = tree
    rows = TargetRows(logits, tree, session.tokens, session.warper)
    verdict = session.verifier.judge(tree, rows, PositionRandom(0))
    return commit(session, tree, verdict, rows), verdict, logits


def invariant(session: Session) -> bool:
    return session.cache.held == session.tokens[:-1]


def byte_decode(tokens: list[int]) -> str:
    return bytes(t for t in tokens if t < 256).decode("utf-8", errors="replace")


def test_a_branch_and_the_bonus_become_real() -> None:
    session = make(keep_logits=True)
    tree = DraftTree([7, 5, 8, 6, 9], [-1, -1, 1, 1, 3])  # 5 -> 6 is accepted, 9 is not
    done, verdict, logits = step(session, tree, [5, 6, 4])
    assert verdict == Verdict((1, 3), 4)
    assert session.tokens == [1, 2, 3, 5, 6, 4]
    assert invariant(session)
    assert (done.tokens, done.rows, done.accepted, done.finish_reason) == (
        [5, 6, 4],
        [0, 2, 4],
        2,
        None,
    )
    assert session.origin == [True, True, False]
    want = logits.log_softmax(-1)
    assert session.logprobs == pytest.approx(
        [float(want[0, 5]), float(want[2, 6]), float(want[4, 4])], abs=1e-6
    )
    assert [row.argmax().item() for row in session.logits] == [5, 6, 4]
    assert session.logits[0].untyped_storage().nbytes() == VOCAB * 4, "a view keeps the step alive"
    stats = session.stats
    assert (stats.steps, stats.drafted, stats.accepted, stats.tokens) == (1, 5, 2, 3)
    assert (stats.drafted_by_depth, stats.accepted_by_depth) == ([1, 1, 1], [1, 1])


def test_a_plain_step_gives_the_bonus() -> None:
    session = make()
    for token in (5, 6):
        done, _, _ = step(session, DraftTree(), [token])
        assert done.tokens == [token]
        assert done.accepted == 0
        assert invariant(session)
    assert session.stats.drafted_by_depth == session.stats.accepted_by_depth == []
    assert session.logits == []


@pytest.mark.parametrize(
    ("limits", "cut", "reason"),
    [
        ({}, 2, "stop"),  # the second drafted token ends the text
        ({"max_new_tokens": 1}, 1, "length"),
        ({"ignore_eos": True, "max_new_tokens": 3}, 3, "length"),
        ({"ignore_eos": True, "criteria": (lambda tokens: tokens[-1] == EOS,)}, 2, "criteria"),
        ({"ignore_eos": True}, 4, None),
        ({"ignore_eos": True, "max_new_tokens": 4}, 4, "length"),  # the bonus is the last one
    ],
)
def test_a_stop_cuts_inside_the_accepted_run(limits, cut, reason) -> None:
    session = make(keep_logits=True, **limits)
    done, verdict, _ = step(session, DraftTree.chain([5, EOS, 6]), [5, EOS, 6, 7])
    # the walk ends with the text: an end-of-text token is the bonus, drafted or not
    path = 3 if limits.get("ignore_eos") else 1
    assert len(verdict.path) == path
    assert done.tokens == [5, EOS, 6, 7][:cut]
    assert session.output == done.tokens
    assert invariant(session)
    assert done.finish_reason == session.finish_reason == reason
    assert done.accepted == session.stats.accepted == min(cut, path)
    assert done.rows == [0, 1, 2, 3][:cut]
    assert len(session.logprobs) == len(session.origin) == len(session.logits) == cut
    assert session.origin == ([True] * path + [False])[:cut]
    assert session.stats.accepted_by_depth == [1] * min(cut, path)
    assert session.stats.drafted_by_depth == [1, 1, 1]


def test_a_stop_string_cuts_the_run_and_says_where_the_text_ends() -> None:
    session = make(decode=byte_decode, stop=("st",))
    step(session, DraftTree.chain(list(b"xyz")), list(b"xys"))
    done, _, _ = step(session, DraftTree.chain(list(b"top")), list(b"topq"))
    assert bytes(done.tokens) == b"t"
    assert (session.finish_reason, session.text_end) == ("stop", 2)
    assert byte_decode(session.output)[: session.text_end] == "xy"
    assert invariant(session)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_takes_the_whole_step_back(first, error) -> None:
    angry = False

    def criterion(tokens: list[int]) -> bool:
        if angry and tokens[-1] == 6:
            raise error("no")
        return False

    session = make(decode=byte_decode, criteria=(criterion,), stop=("\x05\x06\x07",))
    if not first:
        step(session, DraftTree(), [4])
    before = (
        list(session.tokens),
        list(session.cache.held),
        list(session.logprobs),
        repr(session.stats),
    )
    angry = True
    with pytest.raises(error, match="no"):
        step(session, DraftTree.chain([5, 6]), [5, 6, 7])
    after = (
        list(session.tokens),
        list(session.cache.held),
        list(session.logprobs),
        repr(session.stats),
    )
    assert after == before
    assert session.origin == [False] * (not first)
    angry = False
    done, _, _ = step(session, DraftTree.chain([5, 6]), [5, 6, 7])  # it can go on as if nothing was
    assert (done.tokens, session.finish_reason) == ([5, 6, 7], "stop")
    assert session.text_end == (0 if first else 1)
    assert invariant(session)


def test_a_cache_that_fails_is_taken_back_too() -> None:
    session = make()
    step(session, DraftTree(), [4])
    session.cache.fail = True
    with pytest.raises(RuntimeError, match="memory"):
        step(session, DraftTree.chain([5]), [5, 6])
    assert session.tokens == [1, 2, 3, 4]
    assert invariant(session)


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(st.sampled_from([*b"ab\n", EOS]), min_size=1, max_size=24),
    guesses=st.lists(st.lists(st.sampled_from(list(b"ab\n")), max_size=4), min_size=1, max_size=8),
    stop=st.sampled_from([(), ("ab",), ("a\n", "bb"), ("aba", "b")]),
    room=st.integers(1, 24),
)
def test_any_drafts_give_what_plain_decoding_gives(text, guesses, stop, room) -> None:
    def play(draft: bool) -> Session:
        session = make(decode=byte_decode, stop=stop, max_new_tokens=room)
        steps = 0
        while session.finish_reason is None and len(session.output) < len(text):
            ahead = text[len(session.output) :]
            guess = guesses[steps % len(guesses)]
            paths = [guess, ahead[: len(guess)]] if draft else []
            step(session, DraftTree.from_paths(paths), [*ahead, 0, 0, 0, 0, 0])
            assert invariant(session)
            steps += 1
        return session

    plain, drafted = play(False), play(True)
    n = min(len(plain.output), len(text))
    assert drafted.output[:n] == plain.output[:n] == text[:n]
    assert len(drafted.output) <= room
    if plain.finish_reason is not None:
        assert drafted.output == plain.output
        assert (drafted.finish_reason, drafted.text_end) == (plain.finish_reason, plain.text_end)
    assert drafted.logprobs[:n] == pytest.approx(plain.logprobs[:n])
    assert sum(drafted.origin) == drafted.stats.accepted
    assert drafted.stats.tokens == len(drafted.output)
