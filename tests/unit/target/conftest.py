"""What the tests of AMX's tiles and of their threads need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from foretoken.target import tiles


@pytest.fixture
def with_tiles() -> None:
    if not tiles.available():
        pytest.skip("a processor without AMX")


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """PyTorch has so many (`indirect`); tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
