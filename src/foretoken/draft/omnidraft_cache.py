"""The n-grams of omnidraft: drafter tokens that together are one token of the target."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.draft.vocabularies import Vocabularies

Gram = tuple[int, ...]


class NgramCache:
    """n-gram of two or more drafter tokens -> target token; a store of `scopes`.

    most: n-grams held; the one that was not seen for longest goes. (The paper has no bound.)
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.longest = 0  # tokens
        self._token: OrderedDict[Gram, int] = OrderedDict()  # the last one seen comes last
        self._members: Counter[int] = Counter()  # drafter token -> n-grams that hold it
        self._mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self._token)

    def __contains__(self, gram: Gram) -> bool:
        return gram in self._token

    def add(self, gram: Gram, token: int) -> None:
        """The target token `token` is spelled so."""
        if gram not in self._token:
            self._token[gram] = token
            self._members.update(set(gram))
            self.longest, self._mask = max(self.longest, len(gram)), None
        self._token.move_to_end(gram)
        while len(self._token) > self.most:
            gone, _ = self._token.popitem(last=False)
            self._members -= Counter(set(gone))
            self._mask = None

    def match(self, tokens: Sequence[int], at: int) -> tuple[int, int] | None:
        """The longest n-gram that begins at a place of a draft and lies wholly in it:
        (its length, its target token)."""
        for n in range(min(self.longest, len(tokens) - at), 1, -1):
            token = self._token.get(tuple(tokens[at : at + n]))
            if token is not None:
                return n, token
        return None

    def useful(self, pair: Vocabularies, device: torch.device) -> Tensor:
        """[drafter's rows] bool: tokens that both vocabularies have, or that an n-gram holds."""
        if self._mask is None or self._mask.device != device:
            mask = torch.zeros(pair.n_drafter, dtype=torch.bool, device=device)
            mask[pair.index(device)[0]] = True
            if self._members:
                mask[torch.tensor(sorted(self._members), device=device)] = True
            self._mask = mask
        return self._mask

    def state(self) -> list[list[int]]:
        """[*n-gram, token] each, the one that was not seen for longest first."""
        return [[*gram, token] for gram, token in self._token.items()]

    def load(self, state: Sequence[Sequence[Any]], /) -> None:
        """Take up what `state` gave."""
        for *gram, token in state:
            self.add(tuple(gram), int(token))
