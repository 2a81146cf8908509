"""Drafters whose layers are 4-bit codes with small tables, and their files.

Every linear layer W [r, n] inside the blocks is written W[i, g m + j] = S[i, g, C[i, g, j]]: codes
C, shared by all versions of the drafter, and tables S [r, G, 2^b], which alone are trained. A
folder holds config and tokenizer, `sketch.safetensors` (codes, tables, and everything that is not
sketched) and for each domain `sketch.<domain>.safetensors` (tables only). Putting old tables back
gives the old drafter, bit for bit.

Nothing is gathered on the fly: W is made when tables change, and runs as a plain linear layer then.
So a sketch saves disk, transfers and optimiser state, but neither memory nor time per token.
Source: Zhang et al. 2410.06364 (SketchTune); one file of tables per domain is ours.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from foretoken.errors import ArtifactError, ConfigError
from foretoken.target.linear import PackedLinear
from foretoken.target.load import load_model, set_attention
from foretoken.target.narrow import unpadded

FILE = "sketch.safetensors"
FORMAT = "foretoken-sketch-1"
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass
class Sketch:
    """One drafter's sketched layers, by module name."""

    bits: int
    codes: dict[str, Tensor]  # uint8 [r, G, m]
    tables: dict[str, Tensor]  # float32 [r, G, 2^bits]

    def weight(self, name: str) -> Tensor:
        """W [r, n] float32 of one layer."""
        return gathered(self.tables[name], self.codes[name])

    def with_tables(self, tables: Mapping[str, Tensor]) -> Sketch:
        """The same codes with other tables."""
        return Sketch(self.bits, self.codes, dict(tables))

    @property
    def identity(self) -> str:
        """Of the codes: tables fit no others."""
        digest = hashlib.sha256()
        for name, codes in sorted(self.codes.items()):
            digest.update(f"{name} {list(codes.shape)}".encode())
            digest.update(codes.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def code_bytes(self) -> int:
        """On disk."""
        return sum(packed(codes, self.bits).numel() for codes in self.codes.values())

    @property
    def table_bytes(self) -> int:
        """On disk: what a domain costs."""
        return sum(2 * table.numel() for table in self.tables.values())


def gathered(table: Tensor, codes: Tensor) -> Tensor:
    """W [r, G m] of table [r, G, 2^b] and codes [r, G, m]."""
    return table.gather(2, codes.long()).flatten(1)


def packed(codes: Tensor, bits: int) -> Tensor:
    """uint8 [r, bytes]: 8 // bits codes per byte, the first in the lowest bits."""
    each, flat = 8 // bits, codes.flatten(1)
    flat = nn.functional.pad(flat, (0, -flat.shape[1] % each)).view(len(flat), -1, each)
    out = torch.zeros(flat.shape[:2], dtype=torch.uint8, device=codes.device)
    for i in range(each):
        out |= flat[:, :, i] << (i * bits)
    return out


def unpacked(data: Tensor, bits: int, groups: int, columns: int) -> Tensor:
    """What `packed` packed: uint8 [r, groups, columns / groups]."""
    parts = [(data >> (i * bits)) & ((1 << bits) - 1) for i in range(8 // bits)]
    flat = torch.stack(parts, dim=2).flatten(1)[:, :columns]
    return flat.reshape(len(data), groups, -1)


def tables_file(domain: str) -> str:
    """The name of a domain's file; "" is the drafter's own. Raises ConfigError."""
    if domain and not _NAME.fullmatch(domain):
        raise ConfigError("domain", domain, "letters, digits, - and _")
    return f"sketch.{domain}.safetensors" if domain else FILE


def encoded(sketch: Sketch, rest: Mapping[str, Tensor] | None = None) -> bytes:
    """The bytes of a file: with rest (all other tensors of the model) `sketch.safetensors`, without
    it the tables alone, of a domain. Tables are stored as float16."""
    tensors = {f"tables.{name}": table.half() for name, table in sketch.tables.items()}
    facts = {"format": FORMAT, "codes": sketch.identity, "bits": sketch.bits}
    if rest is not None:
        facts["columns"] = {name: codes[0].numel() for name, codes in sketch.codes.items()}
        for name, codes in sketch.codes.items():
            tensors[f"codes.{name}"] = packed(codes, sketch.bits)
        tensors |= {f"rest.{name}": _smallest(value) for name, value in rest.items()}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(plain, metadata={"foretoken": json.dumps(facts)})


def is_sketched(folder: str | Path) -> bool:
    """Whether a folder holds a sketch."""
    return (Path(folder) / FILE).is_file()


def domains(folder: Path) -> list[str]:
    """The names of a sketch's domains."""
    return sorted(path.name.split(".")[1] for path in folder.glob("sketch.*.safetensors"))


def read_sketch(folder: Path, domain: str = "") -> Sketch:
    """Codes and a domain's tables. Raises ConfigError for a domain that is not there, ArtifactError
    for files that are damaged or were made for other codes."""
    facts, tensors = _read(folder / FILE)
    bits = int(facts["bits"])
    tables = {name[7:]: t.float() for name, t in tensors.items() if name.startswith("tables.")}
    codes = {
        name: unpacked(tensors[f"codes.{name}"], bits, tables[name].shape[1], columns)
        for name, columns in facts["columns"].items()
    }
    if domain:
        path = folder / tables_file(domain)
        if not path.is_file():
            accepted = ", ".join(domains(folder)) or f"none: {folder} has no tables of a domain"
            raise ConfigError("domain", domain, accepted)
        other, found = _read(path)
        if other["codes"] != facts["codes"] or {n[7:] for n in found} != tables.keys():
            raise ArtifactError(f"{path}: tables of another sketch than {folder / FILE}")
        tables = {name[7:]: table.float() for name, table in found.items()}
    return Sketch(bits, codes, tables)


def load_small(name: str, dtype: torch.dtype, device: torch.device, domain: str = "") -> Any:
    """A drafter's model from a folder or hub name as it is to run: a sketch with the weights of a
    domain, a cut drafter without its padding, any other as it is. Raises ConfigError,
    ArtifactError."""
    folder = Path(name)
    if is_sketched(folder):
        model = load_sketched(folder, domain, dtype, device)
        set_attention(model)
        return model
    if domain:
        raise ConfigError("domain", domain, f"no domain: {name} is not sketched")
    return unpadded(load_model(name, dtype, device, "default"), folder)


def load_sketched(
    folder: Path,
    domain: str = "",
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Any:
    """The transformers model of a sketched folder, in eval mode. Raises as `read_sketch`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sketch = read_sketch(folder, domain)
    _, tensors = _read(folder / FILE)
    rest = {name[5:]: value for name, value in tensors.items() if name.startswith("rest.")}
    try:
        config = AutoConfig.from_pretrained(str(folder))
        with torch.random.fork_rng(devices=[]):  # the weights that it draws are all replaced
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model = unpadded(model, folder)
        made = {f"{name}.weight": sketch.weight(name) for name in sketch.codes}
        missing = model.load_state_dict({**rest, **made}, strict=False).missing_keys
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{folder}: sketch and config.json do not fit") from error
    model.tie_weights()
    tied = {name for name in missing if name == "lm_head.weight" and config.tie_word_embeddings}
    if set(missing) - tied:
        raise ArtifactError(f"{folder / FILE}: {sorted(set(missing) - tied)[0]} is missing")
    if (folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return model.to(dtype).to(device or "cpu").eval()


@torch.no_grad()
def put(model: Any, sketch: Sketch) -> None:
    """Give a loaded model the weights of these tables, also while it serves (hold its lock)."""
    for name in sketch.codes:
        layer, weight = model.get_submodule(name), sketch.weight(name)
        if isinstance(layer, PackedLinear):
            layer.refill(weight)
        else:
            layer.weight.copy_(weight)


def _smallest(value: Tensor) -> Tensor:
    """In bfloat16 where that loses nothing: weights are often kept so."""
    if value.dtype == torch.float32 and bool((value.bfloat16().float() == value).all()):
        return value.bfloat16()
    return value


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(str(path), "pt") as file:
            facts = json.loads((file.metadata() or {}).get("foretoken", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable sketch; make it anew") from error
    if facts.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not a sketch of this version; make it anew")
    return facts, tensors
