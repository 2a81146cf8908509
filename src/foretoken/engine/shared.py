"""One engine per model object, so that calls that follow each other keep what was learnt.

A model given as an object is wrapped once; its target, its engines (one per tokenizer) and with
them the drafters' stores live exactly as long as the model does: everything here refers to it
weakly. Between calls the KV memory is kept up to `KEEP_BYTES` and given back above that. A call
that comes while another one uses the model (a second thread, a processor that generates itself)
gets an engine of its own, which is dropped afterwards.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from foretoken.engine.engine import Engine
from foretoken.errors import ForetokenError
from foretoken.prompt.tokens import tokenizer_hash
from foretoken.registry import NULL_METHOD, NULL_POLICY
from foretoken.target.base import Target
from foretoken.target.hf import HFTarget

KEEP_BYTES = 64 << 20  # KV memory that an idle model object may hold


@dataclass
class _Seat:
    """What is kept for one target."""

    lock: Lock = field(default_factory=Lock)
    engines: list[Engine] = field(default_factory=list)

    def engine(
        self, target: Target, tokenizer: Any, assets: Path | None, memory: Path | None
    ) -> Engine:
        """The engine for this tokenizer; hashing one costs time, so identity is asked first. One
        that writes to a file shares nothing with calls that name none."""
        here = [e for e in self.engines if e.context.assets == assets and e.memory.path == memory]
        found = next((e for e in here if e.tokenizer is tokenizer), None)
        if found is None and tokenizer is not None:
            mark = tokenizer_hash(tokenizer)
            found = next((e for e in here if e.context.tokenizer_hash == mark), None)
        if found is None:
            # a proxy: an engine that held its target would keep the weak table's key alive
            found = _engine(weakref.proxy(target), tokenizer, assets)
            self.engines.append(found)
        found.tokenizer = tokenizer
        return found


_guard = Lock()
_targets: weakref.WeakKeyDictionary[Any, tuple[object, HFTarget]] = weakref.WeakKeyDictionary()
_seats: weakref.WeakKeyDictionary[Any, _Seat] = weakref.WeakKeyDictionary()


@contextmanager
def shared_engine(
    model: Any, tokenizer: Any = None, assets: Path | None = None, memory: Path | None = None
) -> Iterator[Engine]:
    """The engine of a transformers model or of a Target; the model is in eval mode meanwhile.

    memory: the file that the caller's `remembering` will be given, if any.
    Raises CapabilityError or ConfigError for a model that cannot be a target, ForetokenError for
    a Target that another call is using.
    """
    given = isinstance(model, Target)
    with evaluating(getattr(model, "model", None) if given else model):
        with _guard:
            target = model if given else _target_of(model)
            seat = _seats.setdefault(target, _Seat())
        if not seat.lock.acquire(blocking=False):
            if given:
                raise ForetokenError(
                    "this target is in use by another call; requests that run at the same time "
                    "go through one Engine"
                )
            yield _engine(HFTarget(model), tokenizer, assets)
            return
        try:
            yield seat.engine(target, tokenizer, assets, memory)
        finally:
            _give_back(target)
            seat.lock.release()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off; afterwards every module's mode is what it was."""
    training = [m for m in model.modules() if m.training] if model is not None else []
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _engine(target: Target, tokenizer: Any, assets: Path | None) -> Engine:
    return Engine(target, tokenizer, method=NULL_METHOD, policy=NULL_POLICY, assets=assets)


def _target_of(model: Any) -> HFTarget:
    facts = _facts(model)
    known = _targets.get(model)
    if known is not None and known[0] == facts:
        return known[1]
    target = HFTarget(model)
    target.model = weakref.proxy(model)
    _targets[model] = (facts, target)
    return target


def _facts(model: Any) -> object:
    """What a target copies from its model; if the user changes it, the target is made anew."""
    weight = next(model.parameters(), None)
    return (
        getattr(weight, "dtype", None),
        getattr(weight, "device", None),
        getattr(model.config, "_attn_implementation", None),
        model.config.get_text_config().vocab_size,
        str(getattr(model.generation_config, "eos_token_id", None)),
    )


def _give_back(target: Any) -> None:
    pool = getattr(target, "pool", None)
    if pool is not None and not pool.handles and pool.nbytes > KEEP_BYTES:
        pool.clear()
