"""Pretrain a small drafter for any target: FastDraft's stages PT and CP.

From random weights, in the target's vocabulary, on plain text (PT), then on a mixture of text and
code (CP): without code its acceptance on code is near nothing, and code alone would cost text.
Next-token cross-entropy everywhere; the target's weights are not needed. Alignment comes after
(`align`). Source: Zafrir et al. 2411.11055. Not in the paper, which gives no schedule: both stages
share one warm-up and one decay, so that the last steps, on the mixture, have the falling rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from foretoken.errors import ConfigError
from foretoken.learn.corpus import Corpus
from foretoken.learn.packing import encode
from foretoken.learn.recipes.forward import text_loss, text_losses
from foretoken.learn.recipes.load import fingerprint
from foretoken.learn.recipes.mixing import Stage, staged
from foretoken.learn.recipes.pretrain_config import PretrainConfig
from foretoken.learn.recipes.processes import Processes
from foretoken.learn.recipes.rows import Batch, Rows
from foretoken.learn.recipes.trainer import Trainer

TEXT, CODE = "text", "code"


def default_stages(steps: int, sources: Sequence[str]) -> list[Stage]:
    """PT for 60 % of the steps on text, CP for the rest on all sources alike; one stage where there
    is one kind of source only."""
    if len(sources) < 2 or TEXT not in sources or steps < 2:
        return [Stage(steps, dict.fromkeys(sources, 1.0))]
    first = max(1, round(0.6 * steps))
    return [Stage(first, {TEXT: 1.0}), Stage(steps - first, dict.fromkeys(sources, 1.0))]


def text_rows(corpus: Corpus, tokenizer: Any, seq: int, seed: int) -> Rows:
    """Rows of a corpus in the tokens of `tokenizer`. Raises ConfigError if its end of text is not
    known or it has no fast backend."""
    if tokenizer.eos_token_id is None or not hasattr(tokenizer, "backend_tokenizer"):
        accepted = "a fast tokenizer with an end-of-text token"
        raise ConfigError("tokenizer", type(tokenizer).__name__, accepted)
    train, held = (encode(tokenizer, side) for side in (corpus.train, corpus.held_out))
    return Rows.of_documents(train, held, seq, seed)


class Pretrain:
    """One run: `trainer` makes the steps.

    drafter: in float32, trained in place (`load.new_drafter`). sources: name -> rows, as long as
    `config.seq`. stages: in order; `config.steps` is replaced by their sum. Raises ConfigError.
    """

    def __init__(
        self,
        drafter: Any,
        sources: Mapping[str, Rows],
        stages: Sequence[Stage],
        config: PretrainConfig,
        work: Path | None = None,
        *,
        resume: bool = True,
        processes: Processes | None = None,
    ) -> None:
        steps = sum(stage.steps for stage in stages)
        self.drafter = drafter
        self.config = config.model_copy(update={"steps": steps})
        self.held = {name: rows.held_out(config.eval_rows) for name, rows in sources.items()}
        self.trainer = Trainer(
            drafter,
            self.loss,
            staged(sources, stages, config.batch),
            self.config,
            work,
            facts={"drafter": fingerprint(drafter)},
            evaluate=self.evaluate,
            resume=resume,
            processes=processes,
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Next-token cross-entropy, nats."""
        return text_loss(self.drafter, batch), {}

    def evaluate(self) -> dict[str, float]:
        """Nats per held-out token, by source."""
        return text_losses(self.drafter, self.held, self.config.micro)
