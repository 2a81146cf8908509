"""What one session's steps teach: the target's rows along its text, and below refused tokens.

Every step gives the target's row at each place of the new text, for nothing, and, below a refused
token, rows of a text that only the drafter wrote. A row is kept as its likeliest tokens and one
number for all others together; the drafter's own row is not kept, since it would be stale when it
is needed. A row at index i speaks of the token after tokens[i]: where the draft's token j (from 0)
is refused, that is index context - 1 + j. (The published code trains one further on, and counts
the bonus of an accepted draft as wrong: our notes on osd, 8.)

p is taken at the request's temperature (1 for greedy text, where a one-hot row would teach less);
its other processing (top-p, penalties ...) is left out, as it steers drafting and never the text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foretoken.learn.online.buffer import Float32, Ints, Sample
from foretoken.types import BoolArray, Session, Step

LEAST = 1e-10  # probability below which none is stored: no loss becomes infinite
TAILS = 4  # refused drafts that are kept between two takes; the newest


class _Rows(NamedTuple):
    positions: Ints  # [n]
    wrong: BoolArray  # [n]
    ids: Ints  # [n, k]
    log_p: Float32  # [n, k+1]


class Recorder:
    """Rows of one session since they were last taken.

    top: tokens kept of a row. window: tokens of a text at most. most: rows at most, the newest.
    tails: whether rows below refused tokens are kept, too.
    """

    def __init__(self, top: int, window: int, most: int, tails: bool = False) -> None:
        self.top, self.window, self.most, self.tails = top, window, most, tails
        self._text: deque[_Rows] = deque()
        self._held = 0
        self._off: deque[tuple[list[int], _Rows]] = deque(maxlen=TAILS)  # (whole text, rows)

    def note(self, session: Session, step: Step) -> None:
        """Take in a step that was committed."""
        known = step.scores.known
        nodes = [-1, *step.verdict.path][: len(step.committed.rows)]
        at = [i for i, node in enumerate(nodes) if not known or known[node + 1]]
        if at:
            at_fault = refused(step)
            found = self._read(session, step, [nodes[i] + 1 for i in at])
            places = np.array([step.context - 1 + i for i in at])
            wrong = np.array([at_fault is not None and i == len(nodes) - 1 for i in at])
            self._text.append(_Rows(places, wrong, *found))
            self._held += len(at)
            while self._held > self.most and len(self._text) > 1:
                self._held -= len(self._text.popleft().positions)
            if self.tails and at_fault is not None:
                self._tail(session, step, at_fault)

    def _tail(self, session: Session, step: Step, node: int) -> None:
        """From the refused child that the drafter thought likeliest, on through such children."""
        tail = [node]
        while children := step.tree.children[tail[-1] + 1]:
            tail.append(children[0])
        known = step.scores.known
        if known and not all(known[node + 1] for node in tail):
            return
        path = [*step.verdict.path, *tail]
        text = [*session.tokens[: step.context], *(step.tree.tokens[node] for node in path)]
        first = step.context + len(step.verdict.path)
        places = np.arange(first, first + len(tail))
        found = self._read(session, step, [node + 1 for node in tail])
        rows = _Rows(places, np.zeros(len(tail), dtype=np.bool_), *found)
        self._off.append((text[-self.window :], _moved(rows, max(len(text) - self.window, 0))))

    def _read(self, session: Session, step: Step, rows: Sequence[int]) -> tuple[Ints, Float32]:
        temperature = session.request.sampling.temperature or 1.0
        return reduced(step.scores.logits[list(rows)], self.top, temperature)

    def take(self, session: Session) -> list[Sample]:
        """What was noted since the last call: the text's part first."""
        temperature = session.request.sampling.temperature or 1.0
        out: list[Sample] = []
        if self._text:
            whole = _Rows(*(np.concatenate(part) for part in zip(*self._text, strict=True)))
            end = int(whole.positions[-1]) + 1
            start = max(end - self.window, 0)
            text = np.array(session.tokens[start:end])
            moved = _moved(whole, start)
            out.append(Sample(text, *moved, temperature=temperature, on_text=True))
        for tail, rows in self._off:
            out.append(Sample(np.array(tail), *rows, temperature=temperature, on_text=False))
        self._text.clear()
        self._off.clear()
        self._held = 0
        return out


def reduced(logits: Tensor, top: int, temperature: float) -> tuple[Ints, Float32]:
    """Likeliest tokens of rows [n, V] and the log-probabilities of each and of all others: [n, k]
    and [n, k + 1], k = top but less than V."""
    logprobs = torch.log_softmax(logits.detach().float() / temperature, dim=-1)
    values, ids = logprobs.topk(min(top, logits.shape[-1] - 1), dim=-1)
    rest = 1.0 - values.double().exp().sum(dim=-1, keepdim=True)
    least = values.new_tensor(LEAST).log()
    log_p = torch.cat((values, rest.clamp_min(LEAST).log().float()), dim=-1).maximum(least)
    return ids.cpu().numpy(), log_p.cpu().numpy()


def refused(step: Step) -> int | None:
    """The node that was refused where the text went on otherwise (the first of such siblings); None
    if nothing was. A drafted end of text that a rule gave out itself was not."""
    nodes = [-1, *step.verdict.path]
    if len(step.committed.rows) < len(nodes):  # the text stopped within the accepted tokens
        return None
    children = step.tree.children[nodes[-1] + 1]
    if not children or step.verdict.bonus in {step.tree.tokens[child] for child in children}:
        return None
    return children[0]


def _moved(rows: _Rows, start: int) -> _Rows:
    """The rows of a text without its first `start` tokens."""
    at = rows.positions >= start
    return _Rows(rows.positions[at] - start, rows.wrong[at], rows.ids[at], rows.log_p[at])
