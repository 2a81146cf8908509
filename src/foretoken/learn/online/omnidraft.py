"""omnidraft's small model learns from the target while it drafts, through another vocabulary.

Two losses. Where the text goes on with a token that both vocabularies have, the reverse
KL(q' || p) in the target's vocabulary, q' being the small model's law over the shared tokens. Where
it goes on with a token that is several of the drafter's, the negative log-likelihood of these, in
the drafter's own vocabulary: the map gives no law there, and only so the n-grams are proposed more
often. Their sum, the second weighed by lambda, is averaged over the places of the text. Places
below refused tokens teach the KL, too: they are the drafter's own text.

Source: Ramakrishnan et al. 2507.02659 (OmniDraft), algorithm 2: AdamW at a constant rate, lambda
0.2, an update every few finished requests over what they gave, then the buffer is emptied. Ours: p
is taken at temperature 1, a place below a refused token is one of shared tokens if the target's
likeliest is, whole texts are read again at the update, a bound on the rows held, and an update that
gives a number that is none is taken back. Not here: LoRA, and the head that ends drafts (policy
`specdec++`). What is learned is not saved. Deterministic. An update costs a forward and a backward
pass over the texts, in the step that ends the request.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foretoken.draft.transcript import Transcript
from foretoken.draft.vocabularies import Vocabularies
from foretoken.learn.online.twin import dense_twin
from foretoken.types import Session, Step

BETAS = (0.9, 0.999)
LEAST = -30.0  # log-probability that the target gives at least: no loss becomes infinite
TAILS = 8  # refused drafts of a request that are kept; the newest


@dataclass(eq=False)
class Lesson:
    """A text in the drafter's tokens, and what the target says of places in it. A place is the
    index of the token before: its row of logits speaks of the next one."""

    ids: list[int]
    shared: list[int] = field(default_factory=list)  # [n] places, rising
    log_p: Tensor | None = None  # [n, shared tokens] float16: the target's, at these places
    spelled: list[int] = field(default_factory=list)  # [m] places whose next token is of an n-gram
    grams: int = 0  # n-grams that these places belong to

    def __len__(self) -> int:
        """Target tokens that it speaks of."""
        return len(self.shared) + self.grams


class Notes:
    """What one session's steps gave so far."""

    def __init__(self) -> None:
        self.rows: list[Tensor | None] = []  # per token of the output: [shared tokens] float16
        self.tails: deque[Lesson] = deque(maxlen=TAILS)


class Distiller:
    """Weights that learn: copies, so that the model that was given stays as it is.

    rate: AdamW's. weight: lambda. window: drafter tokens of a text at most, from its end. most:
    rows held; the longest waiting lesson goes.
    """

    def __init__(
        self, model: Any, pair: Vocabularies, rate: float, weight: float, window: int, most: int
    ) -> None:
        self.pair, self.weight, self.window, self.most = pair, weight, window, most
        self.serving = dense_twin(model, next(model.parameters()).dtype)
        self._trained = dense_twin(model)
        self._weights = list(self._trained.parameters())
        self._optimiser = torch.optim.AdamW(self._weights, lr=rate, betas=BETAS, weight_decay=0.0)
        self._lessons: deque[Lesson] = deque()
        self.updates = 0
        self.loss = math.nan  # of the last update, per target token

    def __len__(self) -> int:
        """Rows held."""
        return sum(map(len, self._lessons))

    def note(self, session: Session, step: Step, notes: Notes) -> None:
        """A committed step: the target's rows along the text."""
        known = step.scores.known
        for row in step.committed.rows:
            teaches = not known or known[row]
            notes.rows.append(self._reduced(step.scores.logits[row]) if teaches else None)
        while len(notes.rows) < len(session.output):  # a token that comes without a row
            notes.rows.append(None)

    def note_refused(
        self, step: Step, notes: Notes, before: Sequence[int], drafted: Sequence[int],
        ends: Sequence[int],
    ) -> None:  # fmt: skip
        """Rows below the first refused token of a chain.

        before: the drafter's ids that the draft followed. drafted: its tokens of the draft. ends:
        for each node of the draft, how many of these spell it and the nodes above.
        """
        first = len(step.verdict.path)
        if step.scores.known or first >= len(step.tree):
            return
        held = list(before[-self.window :])
        lesson, rows = Lesson([*held, *drafted[: ends[-1]]]), []
        for node in range(first, len(step.tree)):
            logits = step.scores.logits[node + 1]
            if self.pair.to_drafter[int(logits.argmax())] >= 0:
                lesson.shared.append(len(held) + ends[node] - 1)
                rows.append(self._reduced(logits))
        if rows:
            lesson.log_p = torch.stack(rows)
            notes.tails.append(lesson)

    def _reduced(self, logits: Tensor) -> Tensor:
        """[shared tokens] float16 log p on the CPU."""
        log_p = logits.detach().float().log_softmax(-1)[self.pair.index(logits.device)[1]]
        return log_p.clamp(min=LEAST).to("cpu", torch.float16)

    def finish(self, session: Session, notes: Notes) -> None:
        """A request ended: its text becomes a lesson."""
        lesson = self._lesson(session, notes)
        for one in (lesson, *notes.tails):
            if len(one):
                self._lessons.append(one)
        while len(self) > self.most and len(self._lessons) > 1:
            self._lessons.popleft()

    def _lesson(self, session: Session, notes: Notes) -> Lesson:
        if self.pair.same:
            return Lesson([])  # there is nothing to translate; `osd` is for that
        whole = Transcript(self.pair)
        whole.follow(session.tokens[: session.n_prompt])
        _, pairs = whole.follow(session.tokens)
        cut = max(len(whole.ids) - self.window, 0)
        lesson, rows = Lesson(whole.ids[cut:]), []
        for token, gram, place, at in pairs:
            before = at - 1 - cut
            nth = place - session.n_prompt  # a text's last steps may have been missed
            row = notes.rows[nth] if nth < len(notes.rows) else None
            if before < 0:
                continue
            if len(gram) > 1:
                lesson.spelled += range(before, before + len(gram))
                lesson.grams += 1
            elif row is not None and self.pair.to_target[gram[0]] == token:
                lesson.shared.append(before)
                rows.append(row)
        lesson.log_p = torch.stack(rows) if rows else None
        return lesson

    def learn(self, steps: int = 1) -> None:
        """Gradient steps on all lessons, which are used up; the drafter's weights are the new ones
        from now on. A step that gives a number that is none is taken back, with all before it."""
        lessons = list(self._lessons)
        self._lessons.clear()
        if not lessons:
            return
        before = [weight.detach().clone() for weight in self._weights]
        with _learning(self._trained):
            losses = [self._step(lessons) for _ in range(steps)]
        finite = all(bool(weight.isfinite().all()) for weight in self._weights)
        with torch.no_grad():
            if not (all(map(math.isfinite, losses)) and finite):
                for weight, old in zip(self._weights, before, strict=True):
                    weight.copy_(old)
                return
            for served, weight in zip(self.serving.parameters(), self._weights, strict=True):
                served.copy_(weight)
        self.updates, self.loss = self.updates + 1, losses[-1]

    def _step(self, lessons: Sequence[Lesson]) -> float:
        """One gradient step; the loss before it, per target token."""
        count, total = sum(map(len, lessons)), 0.0
        self._optimiser.zero_grad(set_to_none=True)
        for lesson in lessons:
            kl, nll = self.losses(lesson)
            loss = (kl.sum() + self.weight * nll.sum()) / count
            torch.autograd.backward(loss)
            total += float(loss.detach())
        self._optimiser.step()
        return total

    def losses(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """([n] KL(q' || p) at the shared places, [m] -log q of the n-grams' tokens), nats."""
        device = self._weights[0].device
        ids = torch.tensor([lesson.ids], device=device)
        logits = self._trained(input_ids=ids, use_cache=False).logits[0].float()
        ours, _ = self.pair.index(device)
        log_q = logits[lesson.shared][:, ours].log_softmax(-1)
        log_p = log_q.detach() if lesson.log_p is None else lesson.log_p.to(device).float()
        kl = (log_q.exp() * (log_q - log_p)).sum(-1)
        spelled = torch.tensor(lesson.spelled, dtype=torch.long, device=device)
        own = logits[spelled].log_softmax(-1)
        return kl, -own.gather(-1, ids[0, spelled + 1][:, None])[:, 0]


@contextmanager
def _learning(model: Any) -> Iterator[None]:
    """Gradients are wanted meanwhile, whatever the caller's modes; none is held afterwards."""
    with torch.inference_mode(False), torch.enable_grad():
        model.requires_grad_(True)
        try:
            yield
        finally:
            model.requires_grad_(False)
            model.zero_grad(set_to_none=True)
