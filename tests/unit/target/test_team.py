"""Steps of a team: each member does its share, and all meet before the next step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretoken.target import team
from foretoken.target.machine import numbers

MANY = 1000


def _add(args: Any, member: int, members: int) -> None:
    """args: addresses of a, out; how many. out[i] = a[i] + a[many - 1 - i], another's part."""
    many = args[2]
    a, out = numbers(args[0]), numbers(args[1])
    for i in range(many * member // members, many * (member + 1) // members):
        out[i] = a[i] + a[many - 1 - i]


def _note(args: Any, member: int, members: int) -> None:
    """args: the address of one number for each member."""
    numbers(args[0])[member] = members


def program(*rows: list[int]) -> np.ndarray:
    return np.array([row + [0] * (team.WIDTH - len(row)) for row in rows])


@pytest.fixture(params=(1, 2, 3))
def _threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def doubled(times: int) -> None:
    add = team.step(_add)
    a, b = np.arange(MANY), np.zeros(MANY, np.int64)
    steps = [
        [add, *([b.ctypes.data, a.ctypes.data] if i % 2 else [a.ctypes.data, b.ctypes.data]), MANY]
        for i in range(times)
    ]
    team.run(program(*steps))
    assert ((b if times % 2 else a) == (MANY - 1) * 2 ** (times - 1)).all()


@pytest.mark.usefixtures("_threads")
def test_steps_follow_each_other() -> None:
    doubled(41)


@pytest.mark.usefixtures("_threads")
def test_several_threads_of_python_have_a_team_each() -> None:
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(doubled, 20 + i) for i in range(16)]:
            each.result()


@pytest.mark.usefixtures("_threads")
def test_as_many_members_as_pytorch_has_threads() -> None:
    seen = np.zeros(8, np.int64)
    team.run(program([team.step(_note), seen.ctypes.data]))
    many = torch.get_num_threads() if team.openmp() else 1
    assert seen.tolist() == [many] * many + [0] * (8 - many)


def test_the_library_is_pytorchs() -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("looked for on Linux only")
    assert team.openmp() is None or all(team.openmp())
