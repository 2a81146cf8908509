"""Engines as users write them: a right one, and some with a fault each."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests import tiny
from tests.unit.audit.helper import write


def right(prompt_ids, n, temperature, top_p, top_k, seed):
    return write(tiny.model("six"), prompt_ids, n, temperature, seed)


def cooler(prompt_ids, n, temperature, top_p, top_k, seed):
    return write(tiny.model("six"), prompt_ids, n, temperature * 0.8, seed)


def stops(prompt_ids, n, temperature, top_p, top_k, seed):
    return right(prompt_ids, n - 1, temperature, top_p, top_k, seed)


def words(prompt_ids, n, temperature, top_p, top_k, seed):
    return "text"


def breaks(prompt_ids, n, temperature, top_p, top_k, seed):
    raise KeyError("no such page")
