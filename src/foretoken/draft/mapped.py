"""Files of big arrays, written in one move and mapped where they are read.

Layout: magic, version, sha256 of the header, header (JSON: tokenizer_hash, bytes and sha256 of the
body, and what the kind of file needs), padding to 64 bytes, then the body. All little-endian.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretoken.errors import ArtifactError

PREFIX = struct.Struct("<16sII32s")  # magic, version, header bytes, sha256 of the header
ALIGN = 64


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    name: str  # as messages call it
    magic: bytes  # [16]
    version: int
    command: str  # that builds one

    def encode_header(self, header: dict[str, Any]) -> bytes:
        """Everything before the body, padded to the alignment."""
        text = json.dumps(header, sort_keys=True).encode()
        digest = hashlib.sha256(text).digest()
        head = PREFIX.pack(self.magic, self.version, len(text), digest) + text
        return head + b"\0" * (-len(head) % ALIGN)

    def open(
        self, path: Path, tokenizer_hash: str | None = None, *, verify: bool
    ) -> tuple[dict[str, Any], memoryview]:
        """(header, body): the file is mapped; `verify` also reads all of it once and compares its
        checksum.

        Raises ArtifactError if it is missing, truncated, corrupt, of another version, or made for
        another tokenizer than `tokenizer_hash` (None: do not compare).
        """
        try:
            with path.open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise ArtifactError(f"{path}: not a readable {self.name} ({error})") from error
        header, start = self._header(path, data)
        if tokenizer_hash is not None and header["tokenizer_hash"] != tokenizer_hash:
            raise ArtifactError(
                f"{path}: made for the tokenizer {header['tokenizer_hash'] or '(none)'}, but the "
                f"model's is {tokenizer_hash or '(none)'}; build one with `{self.command}`"
            )
        body = data[start:]
        if len(body) != header["bytes"]:
            raise ArtifactError(
                f"{path}: {len(body)} bytes of sections where {header['bytes']} were written; "
                "the file is truncated or was overwritten"
            )
        if verify and hashlib.sha256(body).hexdigest() != header["sha256"]:
            raise ArtifactError(f"{path}: the file is corrupt: its checksum differs")
        return header, body

    def _header(self, path: Path, data: memoryview) -> tuple[dict[str, Any], int]:
        """(header, where the body starts)."""
        if sys.byteorder != "little":
            raise ArtifactError(f"{path}: {self.name}s are read on little-endian machines only")
        if len(data) < PREFIX.size or bytes(data[: len(self.magic)]) != self.magic:
            raise ArtifactError(f"{path}: not a {self.name} of foretoken")
        _, version, size, digest = PREFIX.unpack_from(data)
        if version != self.version:
            raise ArtifactError(f"{path}: version {version}; this foretoken reads {self.version}")
        text = bytes(data[PREFIX.size : PREFIX.size + size])
        if hashlib.sha256(text).digest() != digest:
            raise ArtifactError(f"{path}: the header is truncated or corrupt")
        header: dict[str, Any] = json.loads(text)
        end = PREFIX.size + size
        return header, end + (-end % ALIGN)
