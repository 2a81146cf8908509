"""A local folder or hub name -> a target ready to score: dtype, device, attention, packing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from foretoken.errors import ConfigError, first_line
from foretoken.prompt.tokens import load_tokenizer
from foretoken.target.attention import BITWISE, FOLDED
from foretoken.target.hf import HFTarget
from foretoken.target.linear import can_pack, pack_linears
from foretoken.target.pages import in_huge_pages
from foretoken.target.weights import has_amx
from foretoken.target.widen import widen as widened

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Exact = Literal["default", "bitwise"]


@dataclass(frozen=True)
class Loaded:
    """A target with its tokenizer and the folder that its own files (tables) may lie in."""

    target: HFTarget
    tokenizer: Any
    folder: Path | None


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (on a CPU: AMX or AVX512-BF16)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return has_amx() or bool(torch.cpu._is_avx512_bf16_supported())


def choose_device(name: str = "auto") -> torch.device:
    """ "auto": a GPU if PyTorch sees one. Raises ConfigError for an unknown or absent device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):
        raise ConfigError("device", name, "auto, cpu, or a device that PyTorch sees") from None
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto": bfloat16 where the hardware multiplies it, else float32."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise ConfigError("dtype", name, f"auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def load_model(name: str, dtype: torch.dtype, device: torch.device, exact: Exact) -> Any:
    """A transformers model with an attention implementation that obeys tree masks."""
    try:
        config = AutoConfig.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=dtype)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        accepted = f"a folder with config.json and weights, or a hub name ({first_line(error)})"
        raise ConfigError("model", name, accepted) from None
    set_attention(model, exact)
    return model.to(device).eval()


def set_attention(model: Any, exact: Exact = "default") -> None:
    """Choose our folded attention where the family allows it, else the family's own eager one.

    Families with something more than a scaled softmax (soft caps, sinks) do not support "sdpa",
    which is how transformers says that the plain formula is not theirs.
    """
    plain = getattr(model, "_supports_attention_backend", False) and model._supports_sdpa
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        plain = False
    if exact == "bitwise" and not plain:
        kind = model.config.model_type
        raise ConfigError("exact", exact, f"'default' for model family {kind!r}")
    model.set_attn_implementation((BITWISE if exact == "bitwise" else FOLDED) if plain else "eager")


def load(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    exact: Exact = "default",
    widen: int = 1,
    pack: bool = True,
    compiled: bool = False,
) -> Loaded:
    """Load a target. `widen` > 1 makes every forward as dear as that of a larger model, with the
    same outputs; `pack` re-lays linear weights for few rows where that helps (a CPU).

    Raises ConfigError (missing model, unknown dtype or device) or CapabilityError (family).
    """
    if compiled and exact == "bitwise":
        raise ConfigError("exact", exact, "'default' together with compile")
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    model = load_model(name, kind, place, exact)
    tokenizer = load_tokenizer(name)
    if widen > 1:
        model = widened(model, widen)
        set_attention(model, exact)
    # in bfloat16 a packed product of other rows has other bits
    if pack and can_pack(kind, place) and (exact == "default" or kind == torch.float32):
        pack_linears(model, join=not compiled)
    if place.type == "cpu":
        in_huge_pages(model)
    if compiled:
        from foretoken.target.compiled import CompiledTarget

        target: HFTarget = CompiledTarget(model, name)
    else:
        target = HFTarget(model, name, exact)
    folder = Path(name)
    return Loaded(target, tokenizer, folder if folder.is_dir() else None)
