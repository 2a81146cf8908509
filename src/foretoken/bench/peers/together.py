"""The peers of one comparison: checked before anything is loaded, then opened one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from foretoken.bench.contest import Plan
from foretoken.bench.peers.catalog import TRANSFORMERS, find
from foretoken.bench.peers.hf import SHARED, Peer, load_for_peers
from foretoken.errors import ConfigError
from foretoken.types import Sampling

ELSEWHERE = ("temperature", "top_k", "top_p", "seed")  # what all workers know of Sampling


def check_peers(labels: Sequence[str], plan: Plan) -> None:
    """Raise ConfigError for an unknown peer, or a plan that a peer cannot follow."""
    given = {k for k, v in plan.sampling.model_dump().items() if v != Sampling().model_dump()[k]}
    for label in labels:
        kind, _ = find(label)
        if plan.forced:
            raise ConfigError("peers", label, "none with --forced: a peer writes its own text")
        if plan.batch > 1 and not kind.batches:
            raise ConfigError("peers", label, "a peer that batches with --batch above 1")
        able = (*SHARED, "temperature", "seed") if kind.name == TRANSFORMERS else ELSEWHERE
        if odd := given - set(able):
            raise ConfigError("peers", label, f"none with {', '.join(sorted(odd))}")


def open_peers(labels: Sequence[str], engine: Any, plan: Plan, widen: int) -> list[Any]:
    """Contestants. transformers' model is loaded now; workers start with their first run, and what
    keeps one from running is reported then."""
    target = engine.target
    folder = Path(target.name)
    ours = [label for label in labels if find(label)[0].name == TRANSFORMERS]
    out: list[Any] = []
    if ours:
        model = load_for_peers(target.name, target.dtype, target.device, widen)
        drafter = None
        if "hf-assistant" in ours:
            drafter = load_for_peers(str(_drafter(folder)), target.dtype, target.device)
        out += [Peer(label, model, drafter) for label in ours]
    others = [label for label in labels if label not in ours]
    if others:
        out += _remote(others, engine, plan, widen)
    return out


def close_peers(contestants: Sequence[Any]) -> None:
    """End the workers."""
    for contestant in contestants:
        if contestant.peer:
            contestant.close()


def _remote(labels: Sequence[str], engine: Any, plan: Plan, widen: int) -> list[Any]:
    target = engine.target
    how = Path(target.name), target.dtype, target.max_context, sorted(target.eos)
    return [remote(label, *how, batch=plan.batch, widen=widen) for label in labels]


def remote(
    label: str, folder: Path, dtype: torch.dtype, context: int, eos: Sequence[int],
    *, batch: int = 1, widen: int = 1,
) -> Any:  # fmt: skip
    """A peer in a process of its own, not opened yet. Raises ConfigError for a model that is in no
    folder, or without the drafter that the mode needs."""
    from foretoken.bench.peers.export import exported, work_folder
    from foretoken.bench.peers.remote import Models, Remote

    kind, mode = find(label)
    if not folder.is_dir():
        raise ConfigError("peers", label, f"a model in a folder; {folder} is none")
    models = Models(
        target=str(exported(folder, widen)),
        drafter=str(exported(_drafter(folder))) if "draft" in mode else "",
        work=str(work_folder()),
        threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
        context=context,
        batch=batch,
    )
    return Remote(label, kind, mode, models, eos)


def _drafter(folder: Path) -> Path:
    out = folder / "drafter"
    if not (out / "config.json").exists():
        raise ConfigError("peers", "draft", f"a model in {out}")
    return out
