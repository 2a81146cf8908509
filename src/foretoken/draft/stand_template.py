"""A draft's shape as ranks, best node first: made by `foretoken train stand-tree`, read by `stand`.

Node (r1, ..., rd) is child r_d of the node (r1, ..., r_{d-1}); 0 is the likeliest, or first drawn,
child. A shape names no tokens, so that one fits every tokenizer; the file says of which text and
model it was counted, for the reader.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from foretoken.errors import ArtifactError

Ranks = tuple[int, ...]
FORMAT, VERSION = "foretoken stand tree", 1
BUNDLED = Path(__file__).parent.parent / "assets" / "stand"


class Node(NamedTuple):
    """One node of a shape."""

    parent: int  # index in the shape, -1 is the root
    rank: int


def shape(paths: Sequence[Ranks], drawn: bool = False) -> tuple[Node, ...]:
    """Paths, parents before children, as nodes. Raises ValueError where they are no tree, or, of
    drawn children, one stands before its elder sibling (nobody could say what it was drawn from).
    """
    index: dict[Ranks, int] = {(): -1}
    nodes: list[Node] = []
    for path in paths:
        if not path or path[:-1] not in index or path in index or min(path) < 0:
            raise ValueError(f"node {list(path)} stands twice or before its parent")
        if drawn and path[-1] and (*path[:-1], path[-1] - 1) not in index:
            raise ValueError(f"node {list(path)} stands before its elder sibling")
        index[path] = len(nodes)
        nodes.append(Node(index[path[:-1]], path[-1]))
    return tuple(nodes)


def save(out: Path, paths: Sequence[Ranks], facts: Mapping[str, Any]) -> None:
    """Write a shape in one move. facts: how it was made, JSON-ready."""
    body = {"paths": [list(path) for path in paths], "made": dict(facts)}
    document = {"format": FORMAT, "version": VERSION, "sha256": _digest(body), **body}
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        draft.write_text(json.dumps(document) + "\n", encoding="utf-8")
        draft.replace(out)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read(path: Path, drawn: bool) -> tuple[Node, ...]:
    """The shape in a file, for drawn children or fixed ones. Raises ArtifactError for a file that
    is none, was changed, or does not serve."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise ArtifactError(f"{path}: not a tree of `foretoken train stand-tree`") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not a tree of `foretoken train stand-tree`")
    if document.get("version") != VERSION:
        raise ArtifactError(
            f"{path}: version {document.get('version')}; this release reads version {VERSION}"
        )
    body = {"paths": document.get("paths"), "made": document.get("made")}
    if document.get("sha256") != _digest(body):
        raise ArtifactError(f"{path}: damaged: its checksum is another")
    try:
        return shape([tuple(path) for path in document["paths"]], drawn)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}") from None


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
