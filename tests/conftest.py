"""What every test shares: one thread, fixed seeds, no network, a cache folder of its own."""

import os
import random
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests import tiny

settings.register_profile(
    "foretoken",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("foretoken")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  third-party code may read the global state
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured facts of this machine never come from, or go to, the user's cache."""
    monkeypatch.setenv("FORETOKEN_CACHE", str(_cache_home(tmp_path_factory)))


def _cache_home(factory: pytest.TempPathFactory) -> Path:
    home = factory.getbasetemp() / "foretoken-cache"
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="session")
def llama():
    """A target on a tiny random Llama (vocabulary 97); sessions of other tests may have used it."""
    return tiny.target("llama")


@pytest.fixture(scope="session")
def small():
    """A target with a vocabulary of 6 tokens, for exact enumeration."""
    return tiny.target("six")
