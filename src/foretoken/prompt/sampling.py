"""THE one place where logits become probabilities.

Plain decoding, every verifier and every baseline read the target through `TargetRows`: the chain
of processors (`Warper`) makes the distribution of the next token, `prompt/chance.py` draws from it
with a number that depends on (seed, position) alone. Temperature 0 *is* a point mass here. Because
a token depends only on the seed, its position and the target's distribution there, a request's
text under `walk` is the same with and without drafting, alone and in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from foretoken.errors import ForetokenError, NoTokenLeftError
from foretoken.prompt.chance import Coins
from foretoken.tree import DraftTree
from foretoken.types import Sampling


def argmax_rows(rows: Tensor) -> tuple[list[int], list[float]]:
    """Argmax (the lowest id among equals) and maximum of each row; rows: [m, V] float.

    A NaN counts as the maximum, so that it is seen.
    """
    rows = rows.detach()
    if rows.device.type == "cpu":
        return _argmax(rows.float().numpy())
    ids = rows.argmax(dim=-1, keepdim=True)
    return ids[:, 0].tolist(), rows.gather(-1, ids)[:, 0].tolist()


def _argmax(rows: np.ndarray) -> tuple[list[int], list[float]]:
    """See `argmax_rows`; numpy's is vectorised, torch's is 15 times slower."""
    best = rows.argmax(axis=-1)
    return best.tolist(), rows[np.arange(len(rows)), best].tolist()


class Warper:
    """Everything that `Sampling` asks for, built once per request.

    sampling: the request's. prompt: its tokens. eos: tokens that end the text, () for none.
    max_new_tokens: where `forced_eos_token_id` applies. vocab: rows of the target's output.
    Raises ConfigError for a token id outside the vocabulary or a processor that is none, and
    NoTokenLeftError from a row of which everything is banned.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        eos: tuple[int, ...],
        max_new_tokens: int,
        vocab: int,
    ) -> None:
        # here, because transformers takes seconds to import and listing methods needs none of it
        from foretoken.prompt.processors import build_chain, check_token_ids

        check_token_ids(sampling, vocab)
        self.sampling = sampling
        self.greedy = sampling.greedy
        self.eos = frozenset(eos)
        self._args = (sampling, len(prompt), eos, max_new_tokens)
        self._device = torch.device("cpu")
        self._build = build_chain
        self._chain = build_chain(*self._args, self._device)

    @property
    def trivial(self) -> bool:
        """Whether the next token is simply the argmax of the target's logits."""
        return self.greedy and not self._chain.steps

    def warp(self, logits: Tensor, history: Sequence[int]) -> Tensor:
        """Processed logits [V] float32 of the token after `history`; the input is not changed.

        logits: [V], the target's row. history: prompt, output and drafted path of this node.
        Raises ForetokenError if no token is left, or a logit is not a number.
        """
        return self.warp_ids(logits, self.ids(history, logits.device))

    def ids(self, history: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """[1, L] int64 for `warp_ids`; costs nothing if no processor reads tokens."""
        if not self._chain.reads_tokens:
            return torch.zeros((1, 1), dtype=torch.long, device=device).expand(1, len(history))
        return torch.tensor([history], dtype=torch.long, device=device)

    def warp_ids(self, logits: Tensor, ids: Tensor) -> Tensor:
        """`warp` with the history as a tensor [1, L]."""
        return self._apply(logits[None], ids)[0]

    def warp_rows(
        self, logits: Tensor, text: Sequence[int], paths: Sequence[Sequence[int]]
    ) -> Tensor:
        """[m, V]: `warp` of each row of `logits` [m, V] after text + its path; all rows at once
        where no processor reads tokens and the paths are of one length."""
        device, length = logits.device, len(text) + len(paths[0])
        if not self._chain.reads_tokens and all(len(path) == len(paths[0]) for path in paths):
            return self._apply(logits, self.ids(range(length), device).expand(len(paths), -1))
        start = self.ids(text, device)
        ids = [torch.cat((start, self.ids(path, device)), dim=1) for path in paths]
        return torch.stack([self.warp_ids(row, own) for row, own in zip(logits, ids, strict=True)])

    def probs(self, logits: Tensor, ids: Tensor) -> Tensor:
        """[m, V] float32: the distributions of processed rows [m, V], histories [m, L]."""
        scores = self._process(logits, ids, copy=bool(self._chain.steps))
        probs = scores.softmax(dim=-1)
        if bool(probs[:, 0].isnan().any()):  # what names no token makes its whole row NaN
            self._check(scores, ids)
        return probs

    def _apply(self, logits: Tensor, ids: Tensor) -> Tensor:
        scores = self._process(logits, ids, copy=True)
        self._check(scores, ids)
        return scores

    def _process(self, logits: Tensor, ids: Tensor, copy: bool) -> Tensor:
        if logits.device != self._device:
            self._device = logits.device
            self._chain = self._build(*self._args, self._device)
        scores = logits.detach().to(torch.float32, copy=copy)  # some processors write to it
        for step in self._chain.steps:
            scores = step(ids, scores)
        return scores

    def _check(self, scores: Tensor, ids: Tensor) -> None:
        for top in scores.amax(dim=-1).tolist():
            _check(top, self.greedy, ids.shape[-1])


class TargetRows:
    """What a verifier sees of the target: its distribution after the root and after each node.

    logits: [n+1, V]; row 0 follows the root, row i+1 node i. tokens: the committed ones, the root
    last. A row is processed when it is first asked for, with its own history, and then kept; rows
    off the accepted path cost nothing (and a processor with state sees the calls that it would see
    in plain decoding, if the verifier walks down one path).
    """

    def __init__(
        self, logits: Tensor, tree: DraftTree, tokens: Sequence[int], warper: Warper
    ) -> None:
        self.logits = logits.detach()
        self.tree = tree
        self.warper = warper
        self.length = len(tokens)  # commit appends to the same list later
        self._tokens = tokens
        self._warped: dict[int, Tensor] = {}
        self._probs: dict[int, Tensor] = {}

    @property
    def greedy(self) -> bool:
        """Whether the target's token is chosen and not drawn."""
        return self.warper.greedy

    def token(self, node: int, coins: Coins) -> int:
        """The target's own token after `node` (-1 is the root).

        Greedy: the argmax, the lowest id among equals. Sampling: a draw from `probs(node)`.
        """
        if self.greedy:
            return self._argmax(node)
        return coins.token(self.probs(node), self.position(node))

    def ends(self, token: int) -> bool:
        """Whether the text ends with this token, so that nothing behind it need be asked for."""
        return token in self.warper.eos

    def position(self, node: int) -> int:
        """Index in the text of the token that follows `node`."""
        return self.length + (self.tree.depths[node] if node >= 0 else 0)

    def probs(self, node: int) -> Tensor:
        """[V] float32, the distribution after `node`; a point mass in greedy decoding."""
        cached = self._probs.get(node)
        if cached is None:
            if self.warper.greedy:
                cached = torch.zeros(self.logits.shape[-1], device=self.logits.device)
                cached[self._argmax(node)] = 1.0
            else:
                cached = self.warper.probs(self.logits[node + 1][None], self._ids(node))[0]
            self._probs[node] = cached
        return cached

    def logprob(self, node: int, token: int) -> float:
        """Log-probability of `token` after `node` under the target's own logits, unprocessed."""
        return self.logprobs([node], [token])[0]

    def logprobs(self, nodes: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """`logprob` of pairs of node and token, in one go."""
        wanted = [node + 1 for node in nodes]
        if self.logits.device.type == "cpu":  # numpy's calls are shorter
            some = self._array[wanted] if self.greedy else self.logits[wanted].float().numpy()
            with np.errstate(invalid="ignore"):  # an infinite logit has no probability
                some = some - some.max(axis=-1, keepdims=True)
            sums = np.log(np.exp(some).sum(axis=-1))
            return [float(row[t] - s) for row, t, s in zip(some, tokens, sums, strict=True)]
        rows = self.logits[wanted].float()
        given = torch.tensor(list(tokens), device=rows.device)[:, None]
        # log_softmax is vectorised, logsumexp is not
        out: list[float] = rows.log_softmax(dim=-1).gather(-1, given)[:, 0].tolist()
        return out

    def _argmax(self, node: int) -> int:
        if not self.warper.trivial:
            return argmax_rows(self._row(node)[None])[0][0]
        best, top = self._best
        _check(top[node + 1], True, self.position(node))
        return best[node + 1]

    @cached_property
    def _best(self) -> tuple[list[int], list[float]]:
        if self.logits.device.type == "cpu":
            return _argmax(self._array)
        return argmax_rows(self.logits)

    @cached_property
    def _array(self) -> np.ndarray:
        """[n+1, V] float32, of logits on a CPU."""
        array: np.ndarray = self.logits.float().numpy()
        return array

    def _row(self, node: int) -> Tensor:
        cached = self._warped.get(node)
        if cached is None:
            cached = self.warper.warp_ids(self.logits[node + 1], self._ids(node))
            self._warped[node] = cached
        return cached

    def _ids(self, node: int) -> Tensor:
        """[1, L]: the tokens before the one that follows `node`."""
        path = [self.tree.tokens[i] for i in self.tree.path(node)]
        extra = self.warper.ids(path, self.logits.device)
        return torch.cat((self._committed, extra), dim=1) if path else self._committed

    @cached_property
    def _committed(self) -> Tensor:
        return self.warper.ids(self._tokens[: self.length], self.logits.device)


def _check(top: float, greedy: bool, position: int) -> None:
    """Refuse a row that names no token. top: its largest logit (NaN if any logit is NaN)."""
    if math.isnan(top):
        raise ForetokenError(f"token {position}: the logits contain NaN after processing")
    if top == -math.inf:
        raise NoTokenLeftError(
            f"token {position}: every token is banned; loosen the processors (bad_words_ids, "
            "suppress_tokens, no_repeat_ngram_size, ...)"
        )
    if top == math.inf and not greedy:
        raise ForetokenError(f"token {position}: a logit is infinite, so it has no probability")
