"""Models for training: a frozen target, a drafter to go on with, a new small one for a target."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from foretoken.errors import ConfigError, first_line
from foretoken.learn.recipes.shape import DrafterShape
from foretoken.prompt.tokens import load_tokenizer
from foretoken.target.load import choose_device, choose_dtype

SAMPLE = 512  # weights of a tensor that its fingerprint looks at


def load_model(
    folder: str | Path, *, train: bool = False, dtype: str = "auto", device: str = "auto"
) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder or hub name, as transformers makes them.

    train: float32 and every weight to be learned; otherwise frozen, in eval mode, in `dtype`
    ("auto": bfloat16 where the hardware multiplies it). Raises ConfigError.
    """
    from transformers import AutoModelForCausalLM

    place = choose_device(device)
    kind = torch.float32 if train else choose_dtype(dtype, place)
    try:
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=kind)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        accepted = f"a folder with config.json and weights, or a hub name ({first_line(error)})"
        raise ConfigError("model", str(folder), accepted) from None
    model = model.to(place)
    model.requires_grad_(train)
    return model.train(train), load_tokenizer(folder)


def vocabulary(model: Any) -> int:
    """Rows of the model's output, padded ids included."""
    return int(model.config.get_text_config().vocab_size)


def fingerprint(model: Any) -> str:
    """sha256 over names, shapes and a sample of the weights: tells models of one shape apart, and
    takes no time for large ones."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLE)].float().cpu().numpy()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()


def target_facts(folder: str | Path) -> tuple[Any, Any]:
    """(configuration, tokenizer) of a model whose weights are not needed; the ids of its special
    tokens are those that it generates with. Raises ConfigError."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(str(folder)).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        accepted = f"a folder with config.json, or a hub name ({first_line(error)})"
        raise ConfigError("target", str(folder), accepted) from None
    try:
        own = GenerationConfig.from_pretrained(str(folder))
    except OSError:
        return config, load_tokenizer(folder)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(own, name) is not None:
            setattr(config, name, getattr(own, name))
    return config, load_tokenizer(folder)


def new_drafter(
    target: Any, shape: DrafterShape, *, seed: int = 0, positions: int | None = None
) -> Any:
    """A Llama of random weights (float32, on the target's device) for `target`, a model or its
    configuration. positions: longest context, the target's if None. The same seed gives the same
    weights. Raises ConfigError."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape.check()
    config = getattr(target, "config", target).get_text_config()
    own = getattr(target, "generation_config", None) or config
    longest = int(getattr(config, "max_position_embeddings", None) or 2048)
    made = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=positions or longest,
        tie_word_embeddings=shape.tie,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(made)
    return model.to(getattr(target, "device", torch.device("cpu")))
