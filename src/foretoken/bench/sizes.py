"""How many bytes hang on an object."""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from foretoken.draft.base import Context

UNCOUNTED = (type, ModuleType, FunctionType, BaseModel, Context, torch.nn.Module)


def reached(thing: Any, seen: Collection[int] = ()) -> dict[int, int]:
    """Bytes of every object that hangs on `thing`, by its id; tensors and arrays with their
    numbers. seen: objects that do not count, nor what hangs on them alone. Options, code, models
    and what a drafter was told of its target never count."""
    known, stack, out = set(seen), [thing], dict[int, int]()
    while stack:
        one = stack.pop()
        if id(one) in known or isinstance(one, UNCOUNTED):
            continue
        known.add(id(one))
        out[id(one)] = sys.getsizeof(one)
        if isinstance(one, torch.Tensor):
            out[id(one)] += one.nbytes
        elif not isinstance(one, np.ndarray):
            stack += gc.get_referents(one)
    return out


def held(thing: Any, seen: Collection[int] = ()) -> int:
    """Bytes that hang on `thing`; see `reached`."""
    return sum(reached(thing, seen).values())
