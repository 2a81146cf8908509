"""Checkpoints: written whole or not at all, read without running code from the file."""

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from foretoken.errors import ArtifactError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to a temporary file beside `path`, then rename it over `path`.

    If writing fails the old checkpoint is left as it was, the temporary file is removed and
    the error goes on to the caller.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state last saved at `path`, on the CPU; None if there is none.

    Only tensors and plain values are read (`weights_only`). Raises ArtifactError if the file is
    truncated or is not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ArtifactError(
            f"{path}: not a readable checkpoint; delete it to start over"
        ) from error
    if not isinstance(state, dict):
        raise ArtifactError(f"{path}: not a checkpoint; delete it to start over")
    return state
