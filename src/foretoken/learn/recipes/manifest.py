"""manifest.json of a folder of answers: who wrote them, to what, how, and in which files.

The manifest is the truth about the folder: a file that it does not list is no part of the data. It
is rewritten after every shard, so that an interrupted run loses one shard at most. It holds no time
and no path, so that the same run gives the same bytes.
"""

from __future__ import annotations

import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from foretoken.bench.saving import save_text
from foretoken.errors import ArtifactError, ConfigError, first_line
from foretoken.types import Options

NAME = "manifest.json"
VERSION = 1
# what another run must share to go on with a folder, and how the command line calls it
# (the settings are compared one by one)
FACTS = {
    "model": "model", "tokenizer_hash": "model", "vocab": "model", "eos": "model",
    "prompts_sha256": "prompts",
}  # fmt: skip


class Shard(Options):
    """One file of rows."""

    file: str  # relative to the folder
    rows: int
    sha256: str
    counts: dict[str, int]  # see `answering.Counts`


class Manifest(Options):
    """The document."""

    format: Literal["foretoken-answers"] = "foretoken-answers"
    version: int = VERSION
    model: str  # hub name, or the last part of a folder
    tokenizer_hash: str
    vocab: int  # rows of the model's output
    eos: tuple[int, ...]
    command: str
    settings: dict[str, Any]  # whatever the text depends on
    sources: tuple[dict[str, Any], ...]  # fields of `corpus.Source`
    prompts: dict[str, int]  # read, repeated (and left out), used
    prompts_sha256: str  # over the prompts used, in order
    planned: int  # shards in all
    shards: tuple[Shard, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every shard is there."""
        return len(self.shards) == self.planned

    @property
    def counts(self) -> dict[str, int]:
        """The sums over all shards."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.counts)
        return dict(sorted(total.items()))

    def with_shard(self, shard: Shard) -> Manifest:
        """With this shard instead of what its file was before."""
        others = [s for s in self.shards if s.file != shard.file]
        ordered = sorted([*others, shard], key=lambda s: s.file)
        return self.model_copy(update={"shards": tuple(ordered)})

    def check_same(self, other: Manifest, where: Path) -> None:
        """Raise ConfigError that names what differs, if `other` (of `where`) is not this run's."""
        names = dict.fromkeys([*self.settings, *other.settings])
        pairs = [(name, self.settings.get(name), other.settings.get(name)) for name in names]
        pairs += [(FACTS[name], getattr(self, name), getattr(other, name)) for name in FACTS]
        for option, ours, theirs in pairs:
            if ours != theirs:
                accepted = f"{theirs!r} as in {where}; else another --out, or --no-resume"
                raise ConfigError(option.replace("_", "-"), ours, accepted)

    def check_model(self, where: Path, tokenizer_hash: str = "", vocab: int | None = None) -> None:
        """Raise ArtifactError if the answers are in other tokens than a model's."""
        if vocab is not None and vocab != self.vocab:
            raise ArtifactError(
                f"{where}: written by {self.model} with a vocabulary of {self.vocab} tokens; this "
                f"model has {vocab}"
            )
        if tokenizer_hash and tokenizer_hash != self.tokenizer_hash:
            raise ArtifactError(
                f"{where}: written in the tokens of {self.model}; this model's tokenizer gives the "
                "ids another meaning"
            )


def read_manifest(folder: Path) -> Manifest:
    """Raises ArtifactError if there is none, or it is not readable."""
    path = folder / NAME
    try:
        found = Manifest.model_validate_json(path.read_bytes())
    except OSError:
        raise ArtifactError(
            f"{folder}: no answers here ({NAME} is missing); `foretoken train draft data` writes "
            "them"
        ) from None
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a manifest of answers ({first_line(error)})") from None
    if found.version != VERSION:
        raise ArtifactError(f"{path}: version {found.version}; this foretoken reads {VERSION}")
    return found


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Whole or not at all. Raises OSError."""
    save_text(folder / NAME, manifest.model_dump_json(indent=1) + "\n")


def versions() -> dict[str, str]:
    """Of what the data or a model depends on."""
    out = {"python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "foretoken"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:  # foretoken, run from a source tree
            out[name] = "source"
    return out
