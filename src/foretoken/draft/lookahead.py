"""lookahead: Jacobi iterations in spare rows of the forward write n-grams into a pool, and the pool
drafts.

Source: Fu et al., ICML 2024, arXiv 2402.02057, and its code; our notes on modelfree-extras, B. The
window has N-1 rows of W tokens. Row 0 stands W-1 tokens as a chain below the root; below the root
and below each of them hangs its column's later rows, again as a chain. So the token in row r >= 1
and column c sees the root, row 0 up to the column's own place, and its column's earlier rows, at
the distance c + r from the root: as a DraftTree the window has exactly the mask and the positions
of the paper's code, with W(N-1)-1 nodes. The argmax behind every column is the new last row; the
column then holds an n-gram of N tokens that the target itself wrote, which goes into the pool; and
the oldest row leaves. Guesses are the pool's n-grams that begin with the last token, at most G.
Guesses and window are one tree, equal paths once, so that a window token that is right is accepted,
too, and a whole guess gives N tokens, not N-1 (the target's own comes on top).

Differences: an n-gram's first token is always the one that its second was predicted after, also in
column 0, where the paper's code puts the last token of the text, which may be another. The rows
start full of picks from the prompt, and n-grams count once N-1 rows are the target's own; the
paper fills the rows one by one, in as many steps. A column that was not scored (a policy cut it)
starts anew. An end-of-text token in the window is replaced by a pick, as in the paper's code.
Exact at any temperature: the draft is fixed; the new row is the argmax, as in the paper.
Cost: W(N-1)-1 rows of every forward are spent on learning, so that it needs spare compute; a policy
that cuts by probability cuts the window first, and what remains is the pool of the text's n-grams.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.lookahead_pool import WINDOW, Gram, Growing, Pool
from foretoken.draft.scopes import Scope, Scopes
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Session, Step

LONGEST_PROMPT = 1 << 13  # tokens taken up, from the end: bounds the work of begin()
TOP = 8  # of the rows; 1 would do, 8 is what others ask for as well


class Lookahead(Drafter):
    """Guesses from the n-gram pool, and the window that fills it."""

    name = "lookahead"
    summary = "Jacobi window in spare rows fills a pool of n-grams, which drafts"
    source = "Fu et al. 2024, arXiv 2402.02057"
    needs = frozenset({"tokens", "logits"})
    nodes = 56

    class Options(types.Options):
        """The paper's N, W, G, and how nodes are shared out."""

        ngram: int = Field(5, ge=3, le=16, description="N: tokens of an n-gram")
        window: int = Field(7, ge=0, le=64, description="W: columns; 0 is no window")
        guesses: int = Field(7, ge=1, le=64, description="G: n-grams per first token")
        share: float = Field(0.5, ge=0.0, le=1.0, description="of the nodes, for the window")
        text: bool = Field(True, description="pool the n-grams of prompt and output, too")
        scope: Scope = Field("request", description="who shares the pool")
        max_ngrams: int = Field(65_536, ge=1, description="n-grams, of idle pools together")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: Lookahead.Options = options
        self._eos = frozenset(context.eos)
        self._stores = Scopes(options.scope, self._pool, options.max_ngrams)

    def _pool(self) -> Pool:
        return Pool(self.options.guesses, self.options.max_ngrams)

    def begin(self, session: Session) -> None:
        """Find the pool of the session's scope, pool the prompt, fill the window with picks."""
        pool = self._stores.open(session)
        window = Window(self.options.window, self.options.ngram, _picks(session, self._eos))
        pooled = max(len(session.tokens) - LONGEST_PROMPT, 0)
        session.memo[self.name] = memory = _Memory(pool, window, pooled)
        self._pool_text(memory, session.tokens)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """Guesses, likeliest node first, then the window column by column."""
        if budget.nodes < 1 or budget.depth < 1:
            return EMPTY
        memory: _Memory = session.memo[self.name]
        n = self.options.ngram
        columns = min(
            len(memory.window), (int(self.options.share * budget.nodes) + 1) // (n - 1),
            max(budget.depth - n + 3, 0),
        )  # fmt: skip
        tree = Growing(memory.pool.rates, budget, self._eos)
        room = budget.nodes - max(columns * (n - 1) - 1, 0)
        tree.guess(memory.pool.guesses(session.tokens[-1]), room)
        for path in memory.window.paths(columns):
            tree.add(path, WINDOW)
        return tree.result()

    def observe(self, session: Session, step: Step) -> None:
        """Learn what guesses are worth, move the window on, pool what came out of it."""
        memory: _Memory = session.memo[self.name]
        text, pool = session.tokens, memory.pool
        pool.judged(text[step.context - 1], text[step.context :])
        for token in memory.window.first():
            pool.rates.learn(WINDOW, token == text[step.context])
        for gram in memory.window.move(step, _picks(session, self._eos), self._eos):
            pool.add(gram)
        self._pool_text(memory, text)

    def _pool_text(self, memory: _Memory, text: Sequence[int]) -> None:
        """Every n-gram of the text that was completed since the last call."""
        n = self.options.ngram
        if self.options.text:
            for start in range(memory.pooled, len(text) - n + 1):
                memory.pool.add(tuple(text[start : start + n]))
        memory.pooled = max(len(text) - n + 1, memory.pooled)

    def end(self, session: Session) -> None:
        """Forget the session; idle pools together keep at most `max_ngrams`."""
        session.memo.pop(self.name, None)
        self._stores.close(session)

    def state(self) -> dict[str, Any]:
        """Pools by tenant, JSON-ready; nothing for scopes that end with their session."""
        return self._stores.state(self.context.tokenizer_hash)

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it was learned with another tokenizer."""
        self._stores.load(state, self.name, self.context.tokenizer_hash)


class _Memory:
    """One session."""

    def __init__(self, pool: Pool, window: Window, pooled: int) -> None:
        self.pool, self.window = pool, window
        self.pooled = pooled  # n-grams of the text that start before here are in


class Window:
    """The Jacobi trajectory: N-1 rows of W tokens, the oldest first. A column is a run of tokens
    each of which the target put after the one before it, once it is old enough.

    picks: tokens to start from.
    """

    def __init__(self, columns: int, n: int, picks: Iterator[int]) -> None:
        self.rows = [[next(picks) for _ in range(columns)] for _ in range(n - 1)]
        self._own = [0] * columns  # how many tokens at a column's end are the target's own

    def __len__(self) -> int:
        return len(self._own)

    def paths(self, columns: int) -> Iterator[list[int]]:
        """From the root to the end of each of the first columns. Row 0 of column 0 is not in them:
        its place is the root's."""
        for c in range(columns):
            yield [*self.rows[0][1 : c + 1], *(row[c] for row in self.rows[1:])]

    def first(self) -> list[int]:
        """The window's tokens right below the root."""
        return list(dict.fromkeys([*self.rows[1][:1], *self.rows[0][1:2]]))

    def move(self, step: Step, picks: Iterator[int], eos: Collection[int]) -> list[Gram]:
        """Take the argmax behind every column that was scored as the new last row; the n-grams of N
        tokens that are complete. Nothing moves if no column was scored."""
        written = self._written(step)
        if all(token is None for token in written):
            return []
        rows, grams, new = self.rows, [], []
        for c, token in enumerate(written):
            if token is not None and self._own[c] >= len(rows) - 1:
                grams.append((*(row[c] for row in rows), token))
            known = token is not None and token not in eos
            self._own[c] = self._own[c] + 1 if known else 0
            new.append(token if token is not None and known else next(picks))
        self.rows = [*rows[1:], new]
        return grams

    def _written(self, step: Step) -> list[int | None]:
        """[W] the argmax behind every column, None where its tokens were not all scored."""
        tree, (tops, _) = step.tree, step.scores.top(TOP)
        nodes: dict[tuple[int | None, int], int] = {
            pair: i for i, pair in enumerate(zip(tree.parents, tree.tokens, strict=True))
        }
        out: list[int | None] = []
        spine: int | None = -1
        for c in range(len(self)):
            if c:
                spine = nodes.get((spine, self.rows[0][c]))
            node = spine
            for row in self.rows[1:]:
                node = nodes.get((node, row[c]))
            top = tops[node + 1] if node is not None else []
            out.append(top[0] if top else None)
        return out


def _picks(session: Session, eos: Collection[int]) -> Iterator[int]:
    """Tokens of the session's text at random, the same ones for the same text; no end of text
    unless there is hardly anything else."""
    tokens = session.tokens
    dice = random.Random(len(tokens))
    while True:
        tries = (tokens[dice.randrange(len(tokens))] for _ in range(8))
        yield next((token for token in tries if token not in eos), tokens[0])
