"""suffix: copy what followed the longest tail of the session's own text when it occurred before.

Source: SAM-Decoding, Hu et al., arXiv 2411.10666, its automaton-only form (methods/
modelfree-extras.md, E); the automaton is `suffix_automaton`. Differences, each for a reason:
- the latest earlier place, not the first: text goes on as it did last time;
- a copy may run into the tail, as if it repeated for ever: loops go on;
- length: the paper copies 1 + 4 l tokens after a match of l alone, 40 from l = 5 on in a hybrid;
  SuffixDecoding copies l. Here the chain goes on while its joint probability is `least` or more:
  over solutions of GSM8K and HumanEval, Python modules and edited documents that gave about the
  tokens per step of 1 + 4 l with a third fewer nodes, and far more than waiting for l = 5;
- q: after i accepted tokens a match of l is one of l + i. The share of right copies is counted by
  that length in eight classes (`LENGTHS`, which are the evidence), in this session only: counts
  shared by requests predicted a mixed stream worse, because tasks differ more than sessions last.

Needs no store: what is known ends with the session. Exact: the draft is fixed. Cost: some
microseconds a token, and about 0.5 kB a token of context (`foretoken bench --drafting`).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.suffix_automaton import SuffixAutomaton
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session, Step

LENGTHS = (1, 2, 3, 4, 6, 9, 16, 32)  # shortest match of each class
PRIOR = (0.35, 0.44, 0.51, 0.55, 0.65, 0.75, 0.85, 0.93)  # share of right copies, texts as above
TRUST, FORGET = 12.0, 0.98  # what the prior weighs against counts; of the counts, at each copy


class Suffix(Drafter):
    """One chain per step, longer the longer the match."""

    name = "suffix"
    summary = "copy what followed the longest earlier match, of any length"
    source = "Hu et al. 2024, SAM-Decoding, arXiv 2411.10666"
    nodes = 16
    light = True

    class Options(types.Options):
        """How much to copy, and how much context to remember."""

        least: float = Field(
            0.02, gt=0.0, le=1.0, description="joint probability at which a copy ends"
        )
        length: int = Field(60, ge=1, le=1024, description="tokens to copy at most")
        min_match: int = Field(1, ge=1, le=1024, description="tokens of a match worth a draft")
        max_tokens: int = Field(
            65_536, ge=16, description="tokens of a session's text remembered; then the last half"
        )

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Suffix.Options = options
        self._eos = frozenset(context.eos)

    def begin(self, session: Session) -> None:
        """Take up the prompt."""
        memory = session.memo[self.name] = _Memory(self.options.max_tokens)
        for token in session.tokens[-self.options.max_tokens :]:
            memory.append(token)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """What followed the longest match, at its latest place."""
        memory: _Memory = session.memo[self.name]
        automaton, options = memory.automaton, self.options
        match, place, text = automaton.match, automaton.place, automaton.text
        if match < options.min_match:
            return EMPTY
        room = min(budget.nodes, budget.depth, options.length)
        least, period = max(budget.min_prob, options.least), len(text) - place
        tokens: list[int] = []
        q: list[float] = []
        evidence: list[int] = []
        joint = 1.0
        while len(tokens) < room:
            kind = _class(match + len(tokens))
            chance = memory.chance(kind)
            joint *= chance
            if joint < least:
                break
            tokens.append(text[place + len(tokens) % period])
            q.append(chance)
            evidence.append(kind)
            if tokens[-1] in self._eos:
                break
        return DraftTree(tokens, range(-1, len(tokens) - 1), q, evidence=evidence)

    def observe(self, session: Session, step: Step) -> None:
        """Was each committed token the one that its match had foretold? Then take it up."""
        memory: _Memory = session.memo[self.name]
        for token in session.tokens[step.context :]:
            memory.judge(token)
            memory.append(token)

    def end(self, session: Session) -> None:
        """Drop the session's text."""
        session.memo.pop(self.name, None)


class _Memory:
    """One session: its text, and how often copies were right, by class of the match."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.automaton = SuffixAutomaton()
        self.right = [TRUST * prior for prior in PRIOR]
        self.judged = [TRUST] * len(PRIOR)

    def append(self, token: int) -> None:
        """The text goes on; the older half goes when it is too long, and is then found no more."""
        if len(self.automaton) >= self.limit:
            self.automaton = SuffixAutomaton(self.automaton.text[-(self.limit // 2) :])
        self.automaton.append(token)

    def judge(self, token: int) -> None:
        """Learn from the token that followed the present match."""
        automaton = self.automaton
        if not automaton.match:
            return
        kind, right = _class(automaton.match), automaton.text[automaton.place] == token
        back = (1.0 - FORGET) * TRUST  # what is forgotten gives way to the prior
        self.right[kind] = FORGET * self.right[kind] + back * PRIOR[kind] + right
        self.judged[kind] = FORGET * self.judged[kind] + back + 1.0

    def chance(self, kind: int) -> float:
        """That a copy after a match of this class is right."""
        return self.right[kind] / self.judged[kind]


def _class(match: int) -> int:
    return bisect_right(LENGTHS, match) - 1
