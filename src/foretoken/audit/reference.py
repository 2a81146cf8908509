"""The truth of an audit: plain forwards of the model in float32, by transformers' own code.

Nothing of any engine takes part. The weights are those of the audited number format, widened to
float32, so that what is compared is the law of the same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from foretoken.errors import ConfigError, first_line

TOGETHER = 64  # texts of one forward at most
ELEMENTS = 1 << 24  # logits of one forward at most, but for a single text
ULPS = {torch.float32: 32, torch.float16: 8, torch.bfloat16: 4}  # see `tolerance`


def load_reference(name: str, dtype: torch.dtype, device: torch.device) -> Reference:
    """A folder or hub name. dtype: that of the audited engines. Raises ConfigError."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        accepted = f"a folder with config.json and weights, or a hub name ({first_line(error)})"
        raise ConfigError("model", name, accepted) from None
    return Reference(model.float().to(device).eval(), dtype)


class Reference:
    """A transformers causal language model. dtype: of the engines that are compared with it."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = model, dtype
        self.device = next(model.parameters()).device
        config = model.config.get_text_config()
        self.vocab = int(config.vocab_size)
        self.max_context = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        self.eos = _eos(model)

    def tolerance(self, best: float) -> float:
        """Logit gaps up to this are near-ties: ULPS units in the last place of the engine's number
        format at the size of the best logit, which sums in another order can move in a network of
        depth. (float32 has few units of noise at the end of each sum, but many sums.)"""
        units = ULPS.get(self.dtype, 4)
        return units * torch.finfo(self.dtype).eps * max(1.0, abs(best))

    @property
    def tolerance_in_words(self) -> str:
        """The stated bound."""
        name = str(self.dtype).removeprefix("torch.")
        units, eps = ULPS.get(self.dtype, 4), torch.finfo(self.dtype).eps
        return f"{units} x {eps:.3g} ({name} epsilon) x max(1, |best logit|)"

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> Tensor:
        """[len(tokens), V] float32: one plain forward, without cache or mask."""
        ids = torch.tensor([list(tokens)], device=self.device)
        rows: Tensor = self.model(ids, use_cache=False).logits[0].float()
        return rows

    def after(self, prompt: Sequence[int]) -> Continuations:
        """For many short continuations of one prompt."""
        return Continuations(self, prompt)


class Continuations:
    """Rows after short continuations of one prompt, which is read once where the model's cache
    can be copied (transformers' DynamicCache), else with every text."""

    @torch.inference_mode()
    def __init__(self, reference: Reference, prompt: Sequence[int]) -> None:
        from transformers import DynamicCache

        self.reference, self.prompt = reference, list(prompt)
        ids = torch.tensor([self.prompt], device=reference.device)
        out = reference.model(ids, use_cache=True)
        past = getattr(out, "past_key_values", None)
        self._past = past if isinstance(past, DynamicCache) else None
        self.first: Tensor = out.logits[0, -1].float()  # [V], after the prompt itself

    def rows(self, texts: Sequence[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Each text with its rows [len(text) + 1, V]: after the prompt, after each token."""
        for length in sorted({len(text) for text in texts}):
            group = [text for text in texts if len(text) == length]
            most = max(1, min(TOGETHER, ELEMENTS // (max(length, 1) * self.reference.vocab)))
            for low in range(0, len(group), most):
                chunk = group[low : low + most]
                yield from zip(chunk, self._forward(chunk, length), strict=True)

    @torch.inference_mode()
    def _forward(self, chunk: Sequence[tuple[int, ...]], length: int) -> list[Tensor]:
        if not length:
            return [self.first[None] for _ in chunk]
        ids = torch.tensor([list(text) for text in chunk], device=self.reference.device)
        if self._past is None:
            prompts = torch.tensor([self.prompt] * len(chunk), device=ids.device)
            whole = torch.cat((prompts, ids), dim=1)
            out = self.reference.model(whole, use_cache=False).logits[:, -length:]
        else:
            past = copy.deepcopy(self._past)
            past.batch_repeat_interleave(len(chunk))
            out = self.reference.model(ids, past_key_values=past, use_cache=True).logits
        return [torch.cat((self.first[None], rows.float())) for rows in out]


def _eos(model: Any) -> frozenset[int]:
    """Tokens that end the text, as `generate` reads them."""
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if eos is None:
        eos = model.config.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [int(eos)])
