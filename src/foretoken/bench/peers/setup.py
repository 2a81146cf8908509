"""Peers' environments: made once, in the user's cache, with pinned versions.

An environment that was made leaves `peer.json` in its folder (versions, seconds, MB); one that
could not be made leaves it too, with the error, so that a bench can report the peer as it is
instead of passing over it. A half-made one is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from pydantic import ValidationError

from foretoken.bench.peers.catalog import TORCH, TRANSFORMERS, Kind
from foretoken.bench.saving import save_text
from foretoken.target.cost import cache_folder
from foretoken.types import Options

NOTE = "peer.json"
ERROR = 600  # characters of an error that are kept


class Environment(Options):
    """What became of an environment."""

    peer: str
    packages: list[str]  # as asked for
    versions: dict[str, str]  # of everything in it; {} if it could not be made
    seconds: float
    mb: float
    error: str = ""


def folder_of(kind: Kind) -> Path:
    """Where its environment is, or will be."""
    return cache_folder() / "peers" / kind.name


def python_of(kind: Kind) -> Path:
    """The interpreter that its worker runs in: foretoken's own for transformers."""
    if kind.name == TRANSFORMERS:
        return Path(sys.executable)
    return folder_of(kind) / ("Scripts" if os.name == "nt" else "bin") / "python"


def known(kind: Kind) -> Environment | None:
    """What is noted of it; None if nothing was made, or for other packages than today's."""
    try:
        found = Environment.model_validate_json((folder_of(kind) / NOTE).read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.packages == list(kind.packages) else None


def make(kind: Kind, say: Callable[[str], None]) -> Environment:
    """Make the environment anew. say: hears what is going on, a line at a time."""
    folder, start = folder_of(kind), perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"making {folder}")
    error, versions = "", {}
    try:
        venv.create(folder, with_pip=True)
        first = [p for p in kind.packages if p == TORCH]
        rest = [p for p in kind.packages if p not in first]
        held = folder / "constraints.txt"  # else a package may bring another torch with it
        held.write_text("".join(f"{package}\n" for package in first))
        for packages in filter(None, (first, rest)):
            _pip(kind, ["install", "-c", str(held), *packages], say)
        if kind.unwanted:
            _pip(kind, ["uninstall", "-y", *kind.unwanted], say)
        listed = _pip(kind, ["list", "--format", "json"], None)
        versions = {row["name"]: row["version"] for row in json.loads(listed)}
    except (subprocess.CalledProcessError, OSError) as failed:
        error = _words(failed)
    size = sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    made = Environment(
        peer=kind.name, packages=list(kind.packages), versions=versions,
        seconds=perf_counter() - start, mb=size, error=error,
    )  # fmt: skip
    save_text(folder / NOTE, made.model_dump_json(indent=1) + "\n")
    return made


def _pip(kind: Kind, words: list[str], say: Callable[[str], None] | None) -> str:
    """pip in the environment, its progress told line by line; stdout whole if nobody listens."""
    command = [str(python_of(kind)), "-m", "pip", "--disable-pip-version-check", *words]
    environment = {**os.environ, **kind.build}
    if say is None:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        ).stdout
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            lines.append(line)
            say(line.strip()[:100])
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command, "".join(lines))
    return "".join(lines)


def _words(failed: Exception) -> str:
    """What went wrong: pip's lines that say so, or its last ones."""
    if not isinstance(failed, subprocess.CalledProcessError):
        return f"{type(failed).__name__}: {failed}"
    lines = [line.strip() for line in (failed.output or "").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return " ".join(errors or lines[-5:])[-ERROR:]
