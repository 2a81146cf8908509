"""Steps of a team: each member does its share, and all meet before the next step."""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretoken.target import team
from foretoken.target.machine import numbers

MANY = 1000
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or (
        "GOMP" not in torch.__config__.parallel_info()
        and "OpenMP" not in torch.__config__.parallel_info()
    ),
    reason="PyTorch's threads are not OpenMP's",
)


def _add(args: Any, member: int, members: int) -> None:
    """args: addresses of a, out; how many. out[i] = a[i] + a[many - 1 - i], another's part."""
    many = args[2]
    a, out = numbers(args[0]), numbers(args[1])
    for i in range(many * member // members, many * (member + 1) // members):
        out[i] = a[i] + a[many - 1 - i]


def _note(args: Any, member: int, members: int) -> None:
    """args: the address of one number for each member."""
    numbers(args[0])[member] = members


def doubled(times: int) -> None:
    add = team.step(_add)
    a, b = np.arange(MANY), np.zeros(MANY, np.int64)
    steps = [
        [add, *([b.ctypes.data, a.ctypes.data] if i % 2 else [a.ctypes.data, b.ctypes.data]), MANY]
        for i in range(times)
    ]
    team.run(team.program(*steps))
    assert ((b if times % 2 else a) == (MANY - 1) * 2 ** (times - 1)).all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_steps_follow_each_other() -> None:
    doubled(41)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_several_threads_of_python_have_a_team_each() -> None:
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(doubled, 20 + i) for i in range(16)]:
            each.result()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_as_many_members_as_pytorch_has_threads() -> None:
    seen = np.zeros(8, np.int64)
    team.run(team.program([team.step(_note), seen.ctypes.data]))
    many = torch.get_num_threads()
    assert seen.tolist() == [many] * many + [0] * (8 - many)


def test_the_library_is_pytorchs() -> None:
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    theirs = ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
    found = team.openmp()
    assert found is not None
    assert found.parallel == theirs
    assert all(found)
