"""Which models can be sped up: refused by name before any work, or tried out on a small tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foretoken.errors import CapabilityError
from foretoken.target.base import Job
from foretoken.tree import EMPTY, DraftTree

if TYPE_CHECKING:
    from foretoken.target.hf import HFTarget

WINDOWED = {"full_attention", "sliding_attention"}
# Families that the tests compare node by node with plain forwards; others are tried out at load.
TESTED = frozenset({
    "llama", "qwen2", "qwen3", "mistral", "mixtral", "gemma2", "gemma3", "gemma3_text", "phi3",
    "gpt2", "gpt_neox", "gptj", "opt", "falcon", "stablelm", "gpt_oss",
})  # fmt: skip
CLOSE = 0.05  # of the largest logit: rounding stays far below, a wrong mask does not


def refuse_unsuited(model: Any) -> None:
    """Raise CapabilityError, by name, for a family whose state cannot be rolled back or masked."""
    config = model.config
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise CapabilityError(f"model family {kind!r}: encoder-decoder, not a decoder-only model")
    types = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if getattr(model, "_is_stateful", False) or types - WINDOWED:
        why = f" (layers: {', '.join(sorted(types))})" if types else ""
        raise CapabilityError(
            f"model family {kind!r}: its recurrent state cannot be rolled back after a rejected "
            f"draft{why}; foretoken needs attention layers only"
        )
    if "dynamic" in rope_types(config):
        raise CapabilityError(
            f"model family {kind!r} with rope_type 'dynamic': its positions are scaled by the "
            "longest one of each forward, so that a text would depend on its draft"
        )
    if kind == "gpt_neo":
        raise CapabilityError(
            f"model family {kind!r}: its local attention counts cache rows, not positions, so a "
            "draft tree would be cut wrongly"
        )
    if getattr(config, "alibi", False) or kind in {"bloom", "mpt"}:
        raise CapabilityError(
            f"model family {kind!r}: ALiBi positions come from the mask's shape, so a draft tree "
            "cannot be placed; foretoken needs position ids"
        )


def rope_types(config: Any) -> set[str]:
    """How positions are scaled, over all layer types."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    return {str(part["rope_type"]) for part in parts if part.get("rope_type")}


def context_limit(config: Any) -> int:
    """Positions that the model knows. "longrope" models switch their scaling for the whole forward
    beyond the length that they were first trained with, so that they are taken up to there."""
    text = config.get_text_config()
    limit = int(getattr(text, "max_position_embeddings", None) or 1 << 30)
    if "longrope" in rope_types(config):
        rope = text.rope_parameters
        original = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", limit
        )
        limit = min(limit, int(original))
    return limit


def try_tree(target: HFTarget) -> None:
    """Score a small tree and each of its paths; CapabilityError if a node sees what it must not.

    For families that the tests do not know: a model may ignore the mask or place tokens by itself.
    """
    ids = [i % target.vocab for i in (1, 2, 3)]
    tree = DraftTree([i % target.vocab for i in (4, 5, 6)], [-1, -1, 0])
    cache = target.new_cache(16)
    try:
        together = target.score([Job(cache, ids, tree)])[0].logits.float()
        for node in range(len(tree)):
            path = [tree.tokens[i] for i in tree.path(node)]
            cache.truncate(0)
            alone = target.score([Job(cache, [*ids, *path], EMPTY)])[0].logits[0].float()
            far = (together[node + 1] - alone).abs().max()
            if not far <= CLOSE * alone.abs().max().clamp(min=1.0):
                raise CapabilityError(
                    f"model family {target.model.config.model_type!r}: its attention does not obey "
                    "a tree mask with explicit positions, so drafts cannot be checked in one pass"
                )
    finally:
        cache.release()
