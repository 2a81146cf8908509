"""What drafting costs without any model: real text streams past a drafter and tells what came.

Each document is a session: its first tokens are the prompt, the rest is what "the target" writes.
The drafter proposes, the recorded text says which nodes stand, and the drafter observes that, with
rows that know the recorded token and nothing else. Times are the process's own time on the
processor, so that neighbours on the machine do not count; what a real row's likeliest tokens cost
to find is left out, because all observers share it (`Scores.top`). Memory is what hangs on the
drafter and on a session, by the sizes of its objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import process_time_ns
from typing import Any

import torch

from foretoken import registry
from foretoken.bench.report import Machine
from foretoken.bench.sizes import held, reached
from foretoken.bench.spec import Spec
from foretoken.draft.base import Context, Drafter
from foretoken.engine.build import options as checked
from foretoken.errors import ForetokenError, first_line
from foretoken.prompt.sampling import Warper
from foretoken.tree import DraftTree
from foretoken.types import (
    Budget,
    Committed,
    Limits,
    Options,
    Request,
    Sampling,
    Scores,
    Session,
    Step,
    Verdict,
)  # fmt: skip

NODES = 32
PROMPT, ANSWER = 256, 1024  # tokens of a document at most
WRONG = 20  # every so many-th token of a prediction is not what comes


class Told(Scores):
    """Rows of a recorded text: the token that came has all the mass, other rows are not known."""

    def top(self, m: int) -> tuple[list[list[int]], list[list[float]]]:  # noqa: ARG002
        """The token that came, for rows that are known."""
        tokens = [[token] if token >= 0 else [] for token in self.hidden["came"].tolist()]
        return tokens, [[1.0] * len(row) for row in tokens]


class DraftTime(Options):
    """One drafter. Microseconds of processor time; bytes."""

    method: str
    us_per_draft: float | None = None  # median over the proposals that had a node
    us_per_draft_mean: float | None = None
    us_per_node: float | None = None  # of those proposals: time / nodes
    us_per_empty: float | None = None  # median over the others
    us_per_token: float | None = None  # begin, observe and end, by token of prompt and answer
    drafts: int = 0  # proposals that had a node
    nodes_per_draft: float | None = None
    tokens_per_step: float | None = None
    tokens: int = 0  # that went past
    store_bytes: int | None = None  # that the drafter holds when all sessions have ended
    session_bytes_per_token: float | None = None  # that hang on the longest session alone
    refused: str = ""  # why there is no figure


class DraftTimes(Options):
    """The document of `foretoken bench --drafting --json`."""

    machine: Machine
    text: str  # which
    tokens: int  # of it
    nodes: int  # of a draft, at most
    results: list[DraftTime]
    interrupted: bool = False  # Ctrl-C: the figures are those of what was finished


@dataclass
class Spent:
    """What was measured of one drafter; times in nanoseconds."""

    drafts: list[int] = field(default_factory=list)  # of proposals with nodes
    empty: list[int] = field(default_factory=list)
    learned: list[tuple[int, int]] = field(default_factory=list)  # a document's time and tokens
    nodes: int = 0
    steps: int = 0
    written: int = 0
    longest: tuple[int, int] = (0, 0)  # tokens of the longest session, bytes that hung on it


def stream(
    drafter: Drafter, documents: Iterable[Sequence[int]], vocab: int, nodes: int = NODES,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> Spent:  # fmt: skip
    """Send documents past a drafter, one session each."""
    spent = Spent()
    for index, text in enumerate(documents):
        session, rest = _session(drafter, text, index, vocab)
        start = process_time_ns()
        drafter.begin(session)
        learning = process_time_ns() - start
        budget = Budget(nodes, way=drafter.first_way or drafter.ways[0])  # runs no model
        while rest:
            start = process_time_ns()
            tree = drafter.propose(session, budget)
            took = process_time_ns() - start
            (spent.drafts if len(tree) else spent.empty).append(took)
            step = _step(session, budget, tree, rest)
            del rest[: len(step.committed.tokens)]
            spent.nodes += len(tree)
            spent.steps += 1
            spent.written += len(step.committed.tokens)
            start = process_time_ns()
            drafter.observe(session, step)
            learning += process_time_ns() - start
        if len(session.tokens) > spent.longest[0]:
            spent.longest = (len(session.tokens), held(session.memo, reached(drafter)))
        start = process_time_ns()
        drafter.end(session)
        learning += process_time_ns() - start
        spent.learned.append((learning, len(session.tokens)))
        on_tokens(len(session.tokens))
    return spent


def time_drafter(
    spec: Spec, documents: Iterable[Sequence[int]], context: Context, nodes: int = NODES,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> DraftTime:  # fmt: skip
    """Make a drafter and send documents past it; what it cannot do stands in `refused`."""
    try:
        cls: type[Drafter] = registry.find("drafter", spec.name)
        drafter = cls(checked(cls.Options, spec.options, spec.name), context)
        before = held(drafter)
        spent = stream(drafter, documents, context.vocab, nodes, on_tokens)
    except ForetokenError as error:
        return DraftTime(method=spec.label, refused=first_line(error))
    return _result(spec.label, spent, held(drafter) - before)


def _result(label: str, spent: Spent, grown: int) -> DraftTime:
    drafts, empty = [n / 1000 for n in spent.drafts], [n / 1000 for n in spent.empty]
    tokens, (context, on_session) = sum(n for _, n in spent.learned), spent.longest
    return DraftTime(
        method=label,
        us_per_draft=median(drafts) if drafts else None,
        us_per_draft_mean=mean(drafts) if drafts else None,
        us_per_node=sum(drafts) / spent.nodes if drafts else None,
        us_per_empty=median(empty) if empty else None,
        us_per_token=sum(ns for ns, _ in spent.learned) / 1000 / tokens if tokens else None,
        drafts=len(drafts),
        nodes_per_draft=spent.nodes / len(drafts) if drafts else None,
        tokens_per_step=spent.written / spent.steps if spent.steps else None,
        tokens=tokens,
        store_bytes=max(grown, 0),
        session_bytes_per_token=on_session / context if context else None,
    )


def time_drafters(
    specs: Sequence[Spec], documents: Sequence[Sequence[int]], context: Context, nodes: int,
    on_tokens: Callable[[str, int], None] = lambda *_: None,
) -> tuple[list[DraftTime], bool]:  # fmt: skip
    """One after the other, over the same documents; whether Ctrl-C ended it early."""
    out: list[DraftTime] = []
    try:
        for spec in specs:
            note = partial(on_tokens, spec.label)
            out.append(time_drafter(spec, documents, context, nodes, note))
    except KeyboardInterrupt:
        return out, True
    return out, False


def model_free() -> list[str]:
    """The registered drafters that run no model, are not for testing, and draft."""
    out = []
    for name in registry.names("drafter"):
        try:
            cls = registry.find("drafter", name)
        except ForetokenError:
            continue  # `foretoken methods` lists it with its reason
        if not (cls.testing or cls.runs_model or not cls.nodes):
            out.append(name)
    return out


def real_text(
    tokenizer: Any,
    files: Sequence[Path],
    tokens: int,
    limit: int | None = None,
    stdlib: Path | None = None,
) -> Iterator[list[int]]:
    """Documents of `tokens` tokens in all, PROMPT + ANSWER at most each: the prompts and references
    of these files (`limit` prompts), or the modules of Python's standard library (in `stdlib`) if
    there are none.
    """
    for text in _texts(tokenizer, files, limit, stdlib):
        for start in range(0, len(text), PROMPT + ANSWER):
            piece = text[start : start + PROMPT + ANSWER][:tokens]
            tokens -= len(piece)
            if len(piece) > 1:
                yield piece
            if tokens < 1:
                return


def _texts(
    tokenizer: Any, files: Sequence[Path], limit: int | None, stdlib: Path | None
) -> Iterator[list[int]]:
    from foretoken.bench.prompts import read_prompts
    from foretoken.learn.corpus import stdlib_source

    if files:
        for prompt in read_prompts(files, tokenizer, limit):
            yield prompt.tokens + (prompt.reference or [])
        return
    for document in stdlib_source(stdlib)[0]:
        if document.kind == "module":
            yield [int(i) for i in tokenizer.encode(document.text, add_special_tokens=False)]


def _session(
    drafter: Drafter, text: Sequence[int], index: int, vocab: int
) -> tuple[Session, list[int]]:
    """A session that holds the document's start, and what it is going to write."""
    cut = max(min(PROMPT, len(text) // 4), 1)
    prompt, rest = list(text[:cut]), list(text[cut:])
    near = [(t + 1) % vocab if i % WRONG == WRONG - 1 else t for i, t in enumerate(rest)]
    request = Request(prompt, limits=Limits(max_new_tokens=len(rest) or 1), prediction=near)
    warper = Warper(Sampling(), prompt, (), len(rest) or 1, vocab)
    nobody: Any = None  # nothing is scored, judged or stopped here
    session = Session(
        request, list(prompt), nobody, drafter, nobody, nobody, warper, nobody, index=index
    )
    return session, rest


def _step(session: Session, budget: Budget, tree: DraftTree, rest: Sequence[int]) -> Step:
    """What a target that writes `rest` makes of a draft; the session's tokens go on."""
    context, path, came = len(session.tokens), list[int](), [-1] * (len(tree) + 1)
    at = -1
    for token in rest[:-1]:
        came[at + 1] = token
        child = next((c for c in tree.children[at + 1] if tree.tokens[c] == token), None)
        if child is None:
            break
        path.append(child)
        at = child
    written = list(rest[: len(path) + 1])
    came[at + 1] = written[-1]
    session.tokens += written
    scores = Told(
        torch.zeros(1, 1).expand(len(came), session.drafter.context.vocab),
        {"came": torch.tensor(came)},
        [token >= 0 for token in came],
    )
    rows = [0, *(node + 1 for node in path)]
    verdict = Verdict(tuple(path), written[-1])
    committed = Committed(written, rows, len(path), None)
    n = len(came)
    return Step(context, budget, tree, scores, verdict, committed, {}, 1, n, fresh=1)
