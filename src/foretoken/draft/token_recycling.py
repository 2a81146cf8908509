"""token-recycling: after every token, the successors that the target itself liked last time.

Source: Luo et al., ACL 2025, arXiv 2408.08696; our notes on modelfree-extras, D. A matrix keeps for
each token the target's top 8 of the latest row that followed it, rows of rejected nodes too, and is
kept across requests ("hot start").

mode "template" is the paper's static tree 2.2.2 of 80 nodes, by ranks. mode "best_first", the
default, takes the likeliest tree of the budget's size instead. The brief says to rank by the
recorded probabilities; these belong to another context and turned out to say little, so that q is
how often such successors stood of late, by the number of rows in a run that put the same token
first, by whether it is that token, and by a coarse class of its probability (`recycled`).

Where the paper's code leaves things undefined: if a token occurs several times in a step, the
deepest accepted row wins, and without one the shallowest (the likelier node, where depths are
equal). Tokens without a row end their branch; the paper's code proposes token 0. The
target's rows of the prompt would be free, but the loop does not have them scored; a token without a
row starts from what followed it in the prompt (`prompt=False` is the paper's cold start).
Exact: the draft is fixed.
Cost: O(nodes log nodes) for a draft, one top-8 of the step's rows, a few us per row learned.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from foretoken import types
from foretoken.draft.base import Context, Drafter
from foretoken.draft.best_first import best_first
from foretoken.draft.recycled import Matrix
from foretoken.draft.scopes import Scope, Scopes
from foretoken.draft.trigram_table import Row
from foretoken.tree import DraftTree
from foretoken.types import Budget, Session, Step

TOP = 8  # successors kept, as in the paper
LONGEST_PROMPT = 1 << 15  # tokens taken up, from the end: bounds the work of begin()
# The paper's template 2.2.2: how many children each node has that has any. A node is written as the
# ranks from the root to it; rank r is the r-th likeliest successor of the token above.
TEMPLATE = {
    "": 8,
    "0": 8, "1": 4, "2": 3, "3": 2, "4": 1, "5": 1, "6": 1, "7": 1,
    "00": 8, "01": 3, "02": 2, "03": 1, "04": 1, "05": 1, "06": 1, "07": 1,
    "10": 2, "11": 1, "20": 1, "30": 1, "40": 1, "50": 1,
    "000": 5, "001": 2, "002": 1, "003": 1, "004": 1, "010": 1, "020": 1,
    "100": 1, "200": 1, "300": 1,
    "0000": 3, "0001": 1, "0002": 1, "0010": 1, "0100": 1, "1000": 1,
    "00000": 2, "00010": 1,
}  # fmt: skip


class TokenRecycling(Drafter):
    """A tree of the target's own earlier successors, one row per token."""

    name = "token-recycling"
    summary = "the target's own top successors of every token, recycled into a tree"
    source = "Luo et al. 2025, arXiv 2408.08696"
    needs = frozenset({"tokens", "logits"})
    nodes = 32

    class Options(types.Options):
        """See the module."""

        mode: Literal["best_first", "template"] = "best_first"
        scope: Scope = Field("tenant", description="who shares what is learned")
        prompt: bool = Field(True, description="start unknown tokens from the prompt")
        max_rows: int = Field(65_536, ge=1, description="rows, of idle stores together")

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self.options: TokenRecycling.Options = options
        if options.mode == "template":
            self.nodes = sum(TEMPLATE.values())
        self._eos = frozenset(context.eos)
        self._stores = Scopes(options.scope, lambda: Matrix(options.max_rows), options.max_rows)

    def begin(self, session: Session) -> None:
        """Find the matrix of the session's scope."""
        session.memo[self.name] = matrix = self._stores.open(session)
        if self.options.prompt:
            matrix.seed(session.tokens[-LONGEST_PROMPT:], TOP)

    def propose(self, session: Session, budget: Budget) -> DraftTree:
        """The tree below the last token, likeliest node first; nothing if it has no row."""
        matrix: Matrix = session.memo[self.name]
        root = session.tokens[-1]
        if self.options.mode == "template":
            return self._by_ranks(matrix, root, budget)
        tree = best_first(
            lambda _, token: _likeliest_first(matrix, token), 0, root, budget, self._eos
        )
        return _with_evidence(tree, matrix, root)

    def _by_ranks(self, matrix: Matrix, root: int, budget: Budget) -> DraftTree:
        """The template, its likeliest nodes if the budget is smaller."""
        found: list[tuple[float, int, str, int, float]] = []  # -joint, order, path, token, q
        level = [("", root, 1.0)]
        for path, above, joint in level:  # grows while it is read: level by level
            if path and above in self._eos:
                continue
            for rank, (token, q) in enumerate(zip(*matrix.row(above), strict=True)):
                if rank == TEMPLATE.get(path, 0) or len(path) == budget.depth:
                    break
                below = f"{path}{rank}"
                level.append((below, token, joint * q))
                found.append((-joint * q, len(found), below, token, q))
        kept = [node for node in sorted(found) if -node[0] >= budget.min_prob][: budget.nodes]
        place = {path: i for i, (_, _, path, _, _) in enumerate(kept)}
        parents = [place.get(path[:-1], -1) for _, _, path, _, _ in kept]
        tree = DraftTree([node[3] for node in kept], parents, [node[4] for node in kept])
        return _with_evidence(tree, matrix, root)

    def observe(self, session: Session, step: Step) -> None:
        """Learn how good the old rows were, then take up the new ones, those that win last."""
        matrix: Matrix = session.memo[self.name]
        text = session.tokens
        for end in range(step.context, len(text)):
            matrix.judged(text[end - 1], text[end])
        tree, (tokens, probs) = step.tree, step.scores.top(TOP)
        stood = [0, *(node + 1 for node in step.verdict.path)]
        others = [row for row in range(len(tree), 0, -1) if row not in stood]
        others.sort(key=lambda row: -tree.depths[row - 1])
        for row in [*others, *stood]:
            if tokens[row]:
                after = tree.tokens[row - 1] if row else text[step.context - 1]
                matrix.put(after, tokens[row], probs[row])

    def end(self, session: Session) -> None:
        """Forget the session; idle matrices together keep at most `max_rows` rows."""
        session.memo.pop(self.name, None)
        self._stores.close(session)

    def state(self) -> dict[str, Any]:
        """Matrices by tenant, JSON-ready; nothing for scopes that end with their session."""
        return self._stores.state(self.context.tokenizer_hash)

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; ArtifactError if it was learned with another tokenizer."""
        self._stores.load(state, self.name, self.context.tokenizer_hash)


def _likeliest_first(matrix: Matrix, token: int) -> Row:
    """The row of a token; learned rates may have changed the order of its successors."""
    tokens, probs = matrix.row(token)
    if all(a >= b for a, b in pairwise(probs)):
        return tokens, probs
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    return [tokens[i] for i in order], [probs[i] for i in order]


def _with_evidence(tree: DraftTree, matrix: Matrix, root: int) -> DraftTree:
    """Class of a node: 2 x run of the row it comes from, + 1 if it is not the first of it."""
    evidence = []
    for parent, token in zip(tree.parents, tree.tokens, strict=True):
        entry = matrix[root if parent < 0 else tree.tokens[parent]]
        evidence.append(2 * entry.run + (entry.tokens[0] != token))
    return replace(tree, evidence=evidence)
