"""How numba compiles our loops.

Compiled code is kept beside the source (or in the user's cache folder), so that later processes
load it, until the file of the loop itself changes: what a loop calls stands in its own file, since
nobody would notice there if this one changed. (What it uses of `machine` and `vector`, and how it
is compiled, is part of the name that it is kept under.) Importing numba takes half a second: a
module of loops is imported late, by whoever has found that it needs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

Array = np.ndarray

OPTIONS: dict[str, Any] = {
    "nogil": True,  # other threads run meanwhile
    # a division by zero is infinite: a check in a loop would keep it from taking vectors
    "error_model": "numpy",
    # sums in any order, a product and a sum in one; not-a-number stays what it is
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}


class Norm(NamedTuple):
    """An RMS norm; empty (no weights) where a family has none."""

    weight: Array  # [H]
    eps: float


def _stamp() -> str:
    """Of the files that every loop may use."""
    here = Path(__file__)
    files = [here, here.with_name("machine.py"), here.with_name("vector.py")]
    try:
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]
    except OSError:  # they are not files, and then nothing is kept
        return ""


STAMP = _stamp()


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba keeps it under its name, with this stamp."""
    if not function.__qualname__.endswith(STAMP):
        function.__qualname__ += f"_{STAMP}"
    return function


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, made when it is first called."""
    try:
        made: Callable[..., Any] = numba.njit(cache=True, **OPTIONS)(_named(function))
    except RuntimeError:  # nowhere to keep it: compiled in every process
        made = numba.njit(**OPTIONS)(function)
    return made


def pointed(function: Callable[..., None], signature: Any) -> int:
    """The address of the function as machine code. Its sums are taken in the order that it says:
    it has vectors of its own (`foretoken.target.vector`)."""
    options = {**OPTIONS, "fastmath": OPTIONS["fastmath"] - {"reassoc"}}
    try:
        made = numba.cfunc(signature, cache=True, **options)(_named(function))
    except RuntimeError:  # as above
        made = numba.cfunc(signature, **options)(function)
    _pointed.append(made)  # it lives as long as its address may be called
    return int(made.address or 0)


_pointed: list[Any] = []


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a part of whatever loop calls it, which is in the same file."""
    made: Callable[..., Any] = numba.njit(inline="always", **OPTIONS)(function)
    return made
