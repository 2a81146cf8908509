"""What drafters and policies learned, kept in one file between runs. Off unless asked.

The file holds statistics of the texts that were read and written (n-grams, rows, counts: whoever
reads it can tell much of the texts, so it is readable by its owner alone) and, for policies, counts
and seconds. An entry belongs to a method's name and options, a policy's also to the drafter, the
model and the machine; all belong to one tokenizer. Entries of methods that a run does not use stay
in the file, up to `MOST`.

Format: magic, version, length and sha256 of the body; the body is JSON, deflated. Nothing of it is
run as code. It is written to a temporary file beside and renamed, so that it is never half there;
of two processes the last one wins. All of it is checked before a drafter sees any.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from foretoken.draft.base import Context
from foretoken.errors import ArtifactError, ConfigError
from foretoken.target.cost import machine_key

if TYPE_CHECKING:
    from foretoken.engine.build import Method
    from foretoken.engine.engine import Engine

MAGIC = b"foretoken-memory"
VERSION = 1
PREFIX = struct.Struct("<16sIQ32s")  # magic, version, bytes of the body, their sha256
MOST = 64  # entries; those written longest ago go


class Key(NamedTuple):
    """Whose entry it is."""

    role: Literal["drafter", "policy"]
    name: str
    digest: str  # of the options and of whatever else it depends on


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["drafter", "policy"]
    name: str
    digest: str
    state: dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tokenizer_hash: str
    vocab: int
    entries: list[_Entry]


class Memory:
    """What one engine recalled, for the methods it has and for those it will build."""

    def __init__(self, context: Context, target: Any) -> None:
        self.path: Path | None = None  # the file that `remembering` took up
        self._context, self._target = context, target
        self._recalled: dict[Key, dict[str, Any]] = {}
        self._from: Path | None = None

    def recall(self, path: Path, methods: Iterable[Method]) -> None:
        """Read the file and hand each of the methods its part.

        Raises ArtifactError, one line that names the file, for one that is missing, corrupt,
        truncated, newer, or of another tokenizer; then nothing was taken up.
        """
        body = read(path)
        here = (self._context.tokenizer_hash, self._context.vocab)
        if (body.tokenizer_hash, body.vocab) != here:
            raise ArtifactError(
                f"{path}: learned with the tokenizer {body.tokenizer_hash or '(none)'} of "
                f"{body.vocab} tokens; the model's is {here[0] or '(none)'} of {here[1]}"
            )
        found = {Key(e.role, e.name, e.digest): e.state for e in body.entries}
        for key, state in found.items():
            if state.get("tokenizer_hash", here[0]) != here[0]:
                raise ArtifactError(f"{path}: the entry of {key.name!r} is of another tokenizer")
        self._recalled, self._from = found, path
        for method in methods:
            self.take_up(method)

    def take_up(self, method: Method) -> None:
        """Give a method that was just built its part. Raises ArtifactError if it cannot read it."""
        for key, part in self._parts(method):
            if key in self._recalled:
                try:
                    part.load(self._recalled[key])
                except (ArtifactError, LookupError, TypeError, ValueError, AttributeError) as error:
                    reason = f"{type(error).__name__}: {error}"
                    raise ArtifactError(
                        f"{self._from}: {key.name!r} cannot take up its entry ({reason})"
                    ) from error

    def remember(self, path: Path, methods: Iterable[Method]) -> None:
        """Write what the methods know now, and what was recalled for others."""
        mine: dict[Key, str] = {}
        for method in methods:
            for key, part in self._parts(method):
                # methods that differ in other parts may share a key: the fuller one stays
                mine[key] = max(mine.get(key, ""), json.dumps(part.state()), key=len)
        entries = {k: json.dumps(state) for k, state in self._recalled.items() if k not in mine}
        entries |= {key: state for key, state in mine.items() if state != "{}"}
        _write(path, self._body(list(entries.items())[-MOST:]))

    @cached_property
    def _place(self) -> str:
        """What a policy's counts depend on beside its method: the model and the machine."""
        if not hasattr(self._target, "model"):  # a target of another kind: known by its vocabulary
            return ""
        return f"{self._target.name} {machine_key(self._target)}"

    def _body(self, entries: Iterable[tuple[Key, str]]) -> bytes:
        """JSON; the states are JSON already."""
        listed = ", ".join(
            f'{json.dumps(key._asdict())[:-1]}, "state": {state}}}' for key, state in entries
        )
        head = {"tokenizer_hash": self._context.tokenizer_hash, "vocab": self._context.vocab}
        return f'{json.dumps(head)[:-1]}, "entries": [{listed}]}}'.encode()

    def _parts(self, method: Method) -> Iterator[tuple[Key, Any]]:
        drafter, policy = method.drafter, method.policy
        own = _digest(drafter.options)
        yield Key("drafter", drafter.name, own), drafter
        whole = _digest(policy.options, drafter.name, own, self._place)
        yield Key("policy", policy.name, whole), policy


@contextmanager
def remembering(engine: Engine, path: Path | None) -> Iterator[None]:
    """Recall at the start if the file exists, remember at the end, whatever ended it.

    None: neither. An engine that comes again with the same file has it in mind already.
    """
    if path is None:
        yield
        return
    if engine.memory.path != path:
        if path.exists():
            engine.recall(path)
        engine.memory.path = path
    try:
        yield
    finally:
        engine.remember(path)


def check(path: Path) -> None:
    """Refuse, before any work, a file that cannot be read or a folder that cannot be written to.

    Raises ConfigError or ArtifactError.
    """
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError("memory", str(path), "a file in a folder that can be written to")
    if path.exists():
        read(path)


def read(path: Path) -> _Body:
    """All of a file, checked. Raises ArtifactError that names it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: not a readable memory file ({error.strerror})") from error
    if data[: len(MAGIC)] != MAGIC:
        raise ArtifactError(f"{path}: not a memory file of foretoken")
    if len(data) < PREFIX.size:
        raise ArtifactError(f"{path}: truncated; delete it to start over")
    _, version, size, digest = PREFIX.unpack_from(data)
    if version != VERSION:
        raise ArtifactError(f"{path}: version {version}; this foretoken reads {VERSION}")
    body = data[PREFIX.size :]
    if len(body) != size:
        raise ArtifactError(
            f"{path}: truncated or corrupt, {len(body)} bytes where {size} were written; delete it "
            "to start over"
        )
    if hashlib.sha256(body).digest() != digest:
        raise ArtifactError(f"{path}: corrupt, its checksum is wrong; delete it to start over")
    try:
        return _Body.model_validate(json.loads(zlib.decompress(body)))
    except (zlib.error, ValueError) as error:  # written by something else
        raise ArtifactError(f"{path}: its content is not that of a memory file") from error


def _write(path: Path, body: bytes) -> None:
    """To a temporary file beside, then renamed. Its owner alone may read it."""
    packed = zlib.compress(body, 3)
    path = path.resolve()  # a link stays one
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(PREFIX.pack(MAGIC, VERSION, len(packed), hashlib.sha256(packed).digest()))
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _digest(options: Any, *more: str) -> str:
    """sha256 (hex) of options and names, the same in every process."""
    values = options.model_dump() if isinstance(options, BaseModel) else {}
    text = json.dumps([values, *more], sort_keys=True, default=_named)
    return hashlib.sha256(text.encode()).hexdigest()


def _named(value: Any) -> str:
    """What stands for an object among options (a path, a model): its name, else its type's."""
    if isinstance(value, Path):
        return str(value)
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else type(value).__name__
