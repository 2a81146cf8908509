"""A tiny random model that reads and writes text: letters as tokens, a chat template, an end."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
import transformers as tf

from foretoken.engine.engine import Engine
from foretoken.target.hf import HFTarget
from foretoken.target.load import set_attention
from tests import letters, tiny

# every turn ends with the end token, and with a line break behind it that no model writes
TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}a>{% endif %}"
)


@cache
def tokenizer(template: str | None = TEMPLATE) -> Any:
    """One token a letter."""
    made = copy.deepcopy(letters.tokenizer())
    made.chat_template = template
    return made


@cache
def model(seed: int = 0, layers: int = 2, width: int = 32) -> Any:
    """A random Llama of 97 tokens whose answers end by themselves now and then."""
    config = tf.LlamaConfig(
        vocab_size=tiny.VOCAB, hidden_size=width, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=letters.EOS, pad_token_id=0,
    )  # fmt: skip
    made = tiny.make(config, seed, 0.2)
    with torch.no_grad():
        made.lm_head.weight[letters.EOS] *= 2  # a token that is often likely
    made.generation_config = tf.GenerationConfig(eos_token_id=letters.EOS, pad_token_id=0)
    set_attention(made)
    return made


@cache
def target(seed: int = 0) -> HFTarget:
    """A target on it."""
    return HFTarget(model(seed), name=f"tiny-{seed}")


def engine(method: str = "plain", batch: int = 4, template: str | None = TEMPLATE) -> Engine:
    """An engine on the model."""
    return Engine(
        target(), tokenizer(template), method=method, policy="fixed", max_sessions=batch
    )  # fmt: skip
