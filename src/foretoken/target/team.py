"""Steps of a forward on PyTorch's own threads, one after another.

PyTorch's threads spin while they wait for its next operation: threads of our own beside them would
take turns with them on the same cores. The OpenMP that runs them runs ours as well. A step is a
machine-code function (args, member, members) that does its share of a piece of work; the team meets
after each. Steps are called by their address, so that each is compiled, and kept, in the file that
it is about.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numba.core import types

from foretoken.target.jit import Array, compiled, inlined, pointed
from foretoken.target.machine import Numbers, ask, call, call_parallel, call_step, numbers

_NAMES = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")
WIDTH = 24  # numbers of a step: its address, its arguments


class OpenMP(NamedTuple):
    """Addresses of functions in the library that PyTorch's threads belong to."""

    parallel: int
    barrier: int
    member: int
    members: int


@cache
def openmp() -> OpenMP | None:
    """What PyTorch itself is bound to: what the process has first, else what its library needs.
    None where that is no OpenMP of GNU's interface."""
    for library in (None, Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"):
        try:
            loaded = ctypes.CDLL(None if library is None else str(library))
            found = [ctypes.cast(getattr(loaded, name), ctypes.c_void_p) for name in _NAMES]
        except (OSError, AttributeError, TypeError):  # another system's libraries
            continue
        return OpenMP(*(each.value or 0 for each in found))
    return None


def step(function: Callable[[Any, int, int], None]) -> int:
    """The address of a function (args, member, members) as machine code; args[i] is the i-th
    argument of its step, an integer."""
    return pointed(function, types.void(Numbers, types.int64, types.int64))


@inlined
def _steps(program: int, many: int, member: int, members: int, barrier: int) -> None:
    for i in range(many):
        row = program + i * WIDTH * 8
        call_step(numbers(row)[0], row + 8, member, members)
        if members > 1:
            call(barrier)


def _member(shared: Any) -> None:
    """A thread of the team; shared: [the program, its steps, OpenMP's barrier, member, members]."""
    _steps(shared[0], shared[1], ask(shared[3]), ask(shared[4]), shared[2])


@compiled
def _alone(program: Array) -> None:
    _steps(np.int64(program.ctypes.data), program.shape[0], 0, 1, 0)


@compiled
def _together(program: Array, parallel: int, member: int, shared: Array, threads: int) -> None:
    shared[0], shared[1] = program.ctypes.data, program.shape[0]
    call_parallel(parallel, member, np.int64(shared.ctypes.data), threads)


def program(*steps: Sequence[int]) -> Array:
    """A program of these steps: the address of each, and its arguments."""
    return np.array([[*each, *[0] * (WIDTH - len(each))] for each in steps])


def run(program: Array) -> None:
    """The steps of a program, int64 [steps, WIDTH], in their order; other threads of the process
    run meanwhile. What its addresses point to must live until this returns."""
    found, threads = openmp(), torch.get_num_threads()
    if found is None or threads == 1:
        _alone(program)
        return
    shared = np.array([0, 0, found.barrier, found.member, found.members])
    _together(program, found.parallel, _entry(), shared, threads)


@cache
def _entry() -> int:
    return pointed(_member, types.void(Numbers))
