"""A corpus of a few kilobytes and the configuration of a model that trains in milliseconds."""

import json
from pathlib import Path

import pytest

from foretoken.learn.corpus import Corpus, build_corpus
from foretoken.learn.lm_config import LmConfig

MODULE = '''"""Sums of two numbers."""

import math
from os import path as where


def add_{n}(a, b):
    """Return the sum of a and b, number {n}."""
    return a + b


class Shape_{n}:
    @property
    def area(self):
        """The area of shape {n}."""
        return math.pi * {n}

    def silent(self):
        return where.sep
'''


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a small "standard library", a JSONL file with its licence beside it)."""
    root = tmp_path_factory.mktemp("sources")
    library, rows = root / "lib", root / "maths_train.jsonl"
    for name in ("package", "test", "encodings", "package/idle_test"):
        (library / name).mkdir(parents=True)
    for n in range(20):
        (library / "package" / f"module_{n}.py").write_text(MODULE.format(n=n))
    for skipped in ("test/a.py", "encodings/b.py", "package/idle_test/c.py", "_sysconfigdata_x.py"):
        (library / skipped).write_text("SECRET = 1\n")
    (library / "broken.py").write_text("def SECRET(:\n")
    (root / "LICENSE.maths").write_text("\nSome License\n\nCopyright (c) 2021 Somebody\n")
    problems = (
        {
            "question": f"What is {n} + {n}?",
            "answer": f"It is <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}",
        }
        for n in range(60)
    )
    rows.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return library, rows


@pytest.fixture(scope="session")
def corpus(sources: tuple[Path, Path]) -> Corpus:
    library, rows = sources
    return build_corpus([rows], held_out=0.2, stdlib=library)


@pytest.fixture(scope="session")
def tiny() -> LmConfig:
    return LmConfig.checked(
        vocab=300,
        hidden=16,
        layers=1,
        heads=2,
        kv_heads=1,
        ffn=24,
        positions=64,
        steps=8,
        warmup=2,
        batch=128,
        seq=32,
        lr=0.01,
        held_out=0.2,
        eval_every=4,
        checkpoint_every=3,
        compile=False,
    )
