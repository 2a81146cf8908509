"""What of a `generate` call the drop-in does not do: refused by name, nothing is dropped."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from foretoken.errors import ConfigError

# GenerationConfig fields that choose another way of decoding: values that leave it off, and why
_OTHER_MODES: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), "1: beam search keeps several texts, foretoken writes one"),
    "num_beam_groups": ((None, 1), "1: beam search keeps several texts, foretoken writes one"),
    "constraints": ((None,), "None: constrained search is a beam search"),
    "force_words_ids": ((None,), "None: constrained search is a beam search"),
    "dola_layers": ((None,), "None: DoLa reads other layers of the model"),
    "prompt_lookup_num_tokens": ((None,), "None: use method='prompt-lookup'"),
    "assistant_early_exit": ((None,), "None: foretoken drafts with `method`"),
    "use_mtp": ((None, False), "None: foretoken drafts with `method`"),
    "output_attentions": ((None, False), "False: drafted rows share a forward"),
    "output_hidden_states": ((None, False), "False: drafted rows share a forward"),
}
_OWN_CACHE = "none: foretoken keeps its own KV cache and gives none back"
_HARMLESS = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}


def check_config(config: Any) -> None:
    """Raise ConfigError for a GenerationConfig that is neither greedy decoding nor sampling."""
    for name, (off, accepted) in _OTHER_MODES.items():
        value = getattr(config, name, None)
        if value not in off:
            raise ConfigError(name, value, accepted)
    contrastive = not config.do_sample and (config.top_k or 0) > 1 and (config.penalty_alpha or 0)
    if contrastive:
        raise ConfigError("penalty_alpha", config.penalty_alpha, "None: it is contrastive search")
    kept = config.cache_implementation
    if kept is not None and (kept == "quantized" or kept.startswith("offloaded")):
        raise ConfigError("cache_implementation", kept, "dynamic or static; ours takes its place")


def check_inputs(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigError for inputs other than token ids with padding on the left."""
    for name, value in model_kwargs.items():
        if name not in _HARMLESS and value is not None:
            raise ConfigError(name, type(value).__name__, "input_ids and attention_mask only")
    cache = model_kwargs.get("past_key_values")
    if getattr(cache, "_is_user_defined", False):
        raise ConfigError("past_key_values", type(cache).__name__, _OWN_CACHE)
    _check_positions(input_ids, model_kwargs)


def _check_positions(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> None:
    given, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
    if given is None:
        return
    real = torch.ones_like(input_ids) if mask is None else mask.long()
    usual = (real.cumsum(-1) - 1).clamp(min=0) * real
    if given.dim() != 2 or not torch.equal(given.expand_as(usual) * real, usual):
        accepted = "positions that count the tokens of attention_mask from 0"
        raise ConfigError("position_ids", given.tolist(), accepted)


def starts(input_ids: Tensor, attention_mask: Tensor | None) -> list[int]:
    """First real token of every row [B]. Raises ConfigError unless the padding is on the left."""
    if attention_mask is None:
        return [0] * len(input_ids)
    mask = attention_mask.bool()
    bad = ~mask[:, -1] | (mask[:, :-1] & ~mask[:, 1:]).any(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        accepted = "zeros, then ones (padding_side='left', at least one token)"
        raise ConfigError(f"attention_mask[{row}]", attention_mask[row].tolist(), accepted)
    out: list[int] = (~mask).sum(dim=1).tolist()
    return out


def undelivered(model: Any) -> dict[str, Any]:
    """Arguments of the `generate` call that transformers does not hand to a custom callable.

    transformers 5.23 puts the prompt into the streamer and then calls a custom decoding method
    without it (`_extract_generation_mode_kwargs` overwrites what it had collected), and drops
    assistant_model likewise. To ignore them silently would be worse than to look them up in the
    calling frame, which is identified by its code object and its model.
    """
    from transformers import GenerationMixin

    code: CodeType = inspect.unwrap(GenerationMixin.generate).__code__
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is model:
            wanted = ("streamer", "assistant_model", "synced_gpus")
            return {name: frame.f_locals.get(name) for name in wanted}
        frame = frame.f_back  # type: ignore[assignment]
    return {}
