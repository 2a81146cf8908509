"""SpecDec++'s acceptance head: from a drafter's last hidden state at a drafted token, the chance
that the token will be accepted; and the file that it lies in.

D residual blocks x + SiLU(W x + b), then a linear layer to two logits, [rejected, accepted]. It is
trained with rejections weighted by w, which turns its odds by 1 / w on purpose: what it says is no
probability until that is undone (`corrected`). Published heads repeat one block object D times, so
that one W acts D times: that form is `tied`, and another model than D blocks.
Source: Huang, Guo, Wang 2405.19715; code Kaffaljidhmah2/SpecDec_pp.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from foretoken.errors import ArtifactError, ConfigError, first_line

FILE = "specdec_head.safetensors"
VERSION = 1
LEAST, MOST = 0.01, 0.999  # errors multiply over a draft: no token is surely right or wrong
PIECES, PIECE = 64, 1 << 16  # of each weight file, for its hash


class HeadFacts(BaseModel):
    """What a head is and was made for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(VERSION, ge=VERSION, le=VERSION)
    hidden: int = Field(ge=1)  # width of the drafter's hidden states
    depth: int = Field(3, ge=0)  # D
    tied: bool = False
    weight: float = Field(6.0, gt=0.0)  # w
    temperature: float = Field(1.0, ge=0.0)  # of both models' distributions, as were the next two
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    drafter: str = ""  # `folder_hash` of the drafter; "" if it is not known


class SpecdecHead(nn.Module):
    """Hidden states [..., H] -> logits [..., 2]; in float32, whatever the states are in.

    weight: w, how much rejections counted when it was trained.
    """

    def __init__(
        self, hidden: int, depth: int = 3, tied: bool = False, weight: float = 6.0
    ) -> None:
        super().__init__()
        self.hidden, self.depth, self.tied, self.weight = hidden, depth, tied, weight
        own = min(depth, 1) if tied else depth
        self.blocks = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(own))
        self.out = nn.Linear(hidden, 2)

    def forward(self, states: Tensor) -> Tensor:
        """See the class."""
        x = states.float()
        for d in range(self.depth):
            x = x + F.silu(self.blocks[0 if self.tied else d](x))
        logits: Tensor = self.out(x)
        return logits

    @torch.inference_mode()
    def accepted(self, states: Tensor, undo: bool = False) -> list[float]:
        """[m] of states [m, H]: f, the predicted acceptance, within [0.01, 0.999]. undo: as a
        probability, the weight taken back."""
        f = self(states).softmax(dim=-1)[..., 1]
        found: list[float] = (corrected(f, self.weight) if undo else f).clamp(LEAST, MOST).tolist()
        return found


def corrected(f: Tensor, weight: float) -> Tensor:
    """w f / (1 - f + w f): odds of acceptance as they are, where training divided them by w."""
    return weight * f / (1.0 - f + weight * f)


def save_head(folder: Path, head: SpecdecHead, facts: HeadFacts) -> Path:
    """Write the file beside a drafter's weights, whole or not at all; its path."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    path = folder / FILE
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{FILE}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(tensors, metadata={"facts": facts.model_dump_json()}))
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def load_head(path: Path) -> tuple[SpecdecHead, HeadFacts]:
    """The head of a drafter's folder, of a file, or of a folder as the paper's code published it.

    Raises ConfigError if there is none, ArtifactError for a file that is damaged or of another
    version.
    """
    again = "train it anew with `foretoken train draft specdec-head`"
    if path.is_dir() and not (path / FILE).is_file():
        return _published(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        accepted = "a folder or file of a head (`foretoken train draft specdec-head` makes one)"
        raise ConfigError("head", str(path), accepted)
    try:
        with safe_open(file, "pt") as opened:
            facts = HeadFacts.model_validate_json((opened.metadata() or {}).get("facts", ""))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        head = SpecdecHead(facts.hidden, facts.depth, facts.tied, facts.weight)
        head.load_state_dict(tensors)
    except (OSError, SafetensorError, ValidationError, RuntimeError) as error:
        reason = "its facts are not readable"
        if not isinstance(error, ValidationError):
            reason = first_line(error)
        raise ArtifactError(f"{file}: {reason}; {again}") from None
    return head.eval(), facts


def _published(folder: Path) -> tuple[SpecdecHead, HeadFacts]:
    """A head as the paper's code saves it: config.json with hidden_size and num_layers, the weights
    of one block under the name of each; trained with w = 6 at temperature 1."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        hidden, depth = int(config["hidden_size"]), int(config["num_layers"])
        found = _weights(folder)
        head = SpecdecHead(hidden, depth, tied=True)
        own = {f"out.{part}": found[f"model.{depth}.{part}"] for part in ("weight", "bias")}
        for part in ("weight", "bias") if depth else ():
            names = (f"model.{d}.linear.{part}" for d in range(depth))
            own[f"blocks.0.{part}"] = next(found[name] for name in names if name in found)
        head.load_state_dict(own)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, StopIteration) as error:
        accepted = "a folder with a head (`foretoken train draft specdec-head` makes one)"
        raise ConfigError("head", str(folder), accepted) from error
    return head.eval(), HeadFacts(hidden=hidden, depth=depth, tied=True)


def _weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    if (folder / "model.safetensors").is_file():
        return load_file(folder / "model.safetensors")
    found: dict[str, Any] = torch.load(folder / "pytorch_model.bin", "cpu", weights_only=True)
    return found


def folder_hash(folder: Path) -> str:
    """sha256 (hex) of a sample of a drafter's weight files, in whatever dtype they are loaded; ""
    if there are none. Training changes all weights, so that a sample tells."""
    files = sorted(folder.glob("model*.safetensors"))
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(size // PIECES, PIECE)):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.hexdigest() if files else ""
