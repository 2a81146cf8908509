"""A small model that knows its target: it reads drafter tokens, and guesses as the target would.

For tests of drafters with another tokenizer: with random models no draft would ever be accepted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foretoken.draft.vocabularies import Vocabularies
from foretoken.target.hf import HFTarget
from tests.exact.table_target import TableTarget


class Echo(TableTarget):
    """The target's logits after the same text, at the drafter's ids, blurred by noise."""

    def __init__(self, like: HFTarget, pair: Vocabularies, noise: float = 0.7) -> None:
        super().__init__(like)
        self.pair, self.noise = pair, noise
        self.name, self.vocab, self.eos = "echo", pair.n_drafter, (pair.drafter.eos or 0,)

    @torch.inference_mode()
    def _row(self, text: Sequence[int]) -> Tensor:
        if tuple(text) not in self._known:
            pair = self.pair
            written = b"".join(pair.drafter.piece(i) or b"" for i in text)
            if pair.drafter.strips:
                written = written.removeprefix(b" ")
            ids = torch.tensor([pair.target.encode(written) or [0]])
            row = self.like.model(ids, use_cache=False).logits[0, -1:]
            own = pair.lower(row)[0]
            own[own == -torch.inf] = float(row.mean())
            seed = torch.Generator().manual_seed(sum(text) * 31 + len(text))
            self._known[tuple(text)] = own + self.noise * torch.randn(len(own), generator=seed)
        return self._known[tuple(text)]
