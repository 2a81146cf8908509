"""One thread for updates beside decoding: a single core's share, and a lower priority."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import torch

NICE = 10  # as `nice` does


class Worker:
    """Runs updates one after the other. Threads start with the first of them."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Do it when those before it are done."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "foretoken-learner", initializer=_humble)
            threads = torch.get_num_threads()
            self._pool.submit(int).result()  # the thread has started, and limited itself
            # what a thread sets is also the start value of threads that come later: put it back
            torch.set_num_threads(threads)
        return self._pool.submit(work)


def _humble() -> None:
    """One thread of PyTorch, and on Linux a lower priority, for this thread alone."""
    torch.set_num_threads(1)
    if hasattr(os, "setpriority"):
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
