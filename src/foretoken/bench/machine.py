"""What the figures were measured on, and how many parameters the model has."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from foretoken.bench.report import Machine
from foretoken.target.cost import processor_name


def commit() -> str | None:
    """Commit of the repository that foretoken runs from, "+" if it has changes; None outside."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        return head + "+" * bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def describe(target: Any = None) -> Machine:
    """The machine, the versions, and how this target's forwards run, if there is one."""
    try:
        own = version("foretoken")
    except PackageNotFoundError:  # run from a source tree
        own = "source"
    device = torch.device("cpu") if target is None else target.device
    gpu = device.type == "cuda"
    return Machine(
        processor=processor_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers"),
        foretoken=own,
        commit=commit(),
        device=torch.cuda.get_device_name(device) if gpu else str(device),
        how="" if target is None else target.how,
    )


def parameters(model: Any) -> int:
    """Parameters of the model, shared ones once. Counted on a shape-only copy: packed weights are
    no parameters any more."""
    with torch.device("meta"):
        shape = type(model)(model.config)
    return sum(parameter.numel() for parameter in shape.parameters())


def model_name(target: Any) -> str:
    """The hub name, or the last part of a local folder: reports name no paths of a machine."""
    folder = Path(target.name)
    return folder.resolve().name if folder.is_dir() else str(target.name)
