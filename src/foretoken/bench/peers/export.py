"""The models as peers read them: a Hugging Face folder with the very weights that are measured.

A widened target exists in memory only; its peers get it as a folder, in float32, whose name says
what it is. A folder that was written stays in the cache; it is known by the weights' hash.
"""

from __future__ import annotations

import hashlib
import shutil
from functools import cache
from pathlib import Path

from foretoken.target.cost import cache_folder
from foretoken.target.widen import widen as widened

PARTS = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def work_folder() -> Path:
    """Where peers' forms of models lie."""
    out = cache_folder() / "peers" / "models"
    out.mkdir(parents=True, exist_ok=True)
    return out


@cache  # every mode of every peer asks for it, and the weights are hashed to answer
def exported(folder: Path, widen: int = 1) -> Path:
    """A folder in float32, widened; made once for the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        digest.update(file.read_bytes())
    out = work_folder() / f"{folder.resolve().name}-x{widen}-{digest.hexdigest()[:12]}"
    if out.exists():
        return out
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if widen > 1:
        model = widened(model, widen)
        model.config.rms_norm_eps /= widen  # as its norms have it, see `target.widen`
    temporary = out.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    for part in PARTS:
        if (folder / part).exists():
            shutil.copy(folder / part, temporary / part)
    temporary.rename(out)
    return out
