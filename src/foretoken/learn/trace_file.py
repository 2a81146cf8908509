"""The file of a trace: safetensors, which runs no code, with a header in JSON and a checksum.

Token ids of all requests lie one behind the other (`tokens`: prompt, output and prediction of each
in turn), rows flat (`top_tokens`, `top_logprobs`: [n * m] of each in turn). The checksum covers the
header and every tensor.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from foretoken.errors import ArtifactError, ConfigError, first_line
from foretoken.learn.trace import VERSION, Trace, TracedRequest
from foretoken.target.cost import CostCurve

FORMAT = "foretoken-trace"
_FACTS = ("vocab", "tokenizer_hash", "model", "dtype", "machine", "max_context", "max_draft")
_PLAIN = ("name", "sampling", "tenant", "seconds", "steps", "limits", "m")
_TYPES = {"tokens": np.int32, "top_tokens": np.int32, "top_logprobs": np.float32}

Arrays = dict[str, np.ndarray[Any, Any]]


def save(trace: Trace, path: Path) -> None:
    """See `Trace.save`."""
    from safetensors.numpy import save as encode

    header, arrays = _header(trace), _arrays(trace)
    facts = {"format": FORMAT, "version": str(VERSION), "header": header}
    content = encode(arrays, {**facts, "sha256": _checksum(header, arrays)})
    try:
        _replace(path, content)
    except OSError as error:
        raise ConfigError("trace", str(path), f"a file that can be written ({error})") from None


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file, then rename: what was there stays until all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path) -> Trace:
    """`Trace.load` of any tokenizer."""
    metadata, arrays = _read(path)
    if metadata.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not a trace of foretoken")
    if metadata.get("version") != str(VERSION):
        raise ArtifactError(
            f"{path}: version {metadata.get('version')}; this foretoken reads {VERSION}"
        )
    text = metadata.get("header", "")
    if _checksum(text, arrays) != metadata.get("sha256"):
        raise ArtifactError(f"{path}: the file is corrupt: its checksum differs")
    try:
        return _trace(json.loads(text), arrays)
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(f"{path}: not a readable trace ({first_line(error)})") from None


def _read(path: Path) -> tuple[dict[str, str], Arrays]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            names = set(file.keys())
            arrays = {name: file.get_tensor(name) for name in _TYPES if name in names}
            return dict(file.metadata() or {}), arrays
    except (OSError, SafetensorError, ValueError) as error:
        reason = f"truncated, or no trace at all: {first_line(error)}"
        if not path.is_file():
            reason = "there is no such file"
        raise ArtifactError(f"{path}: not a readable trace ({reason})") from None


def _checksum(header: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _header(trace: Trace) -> str:
    facts: dict[str, Any] = {name: getattr(trace, name) for name in _FACTS}
    facts["eos"] = list(trace.eos)
    facts["curve"] = None if trace.curve is None else trace.curve.model_dump(mode="json")
    facts["requests"] = [
        {name: getattr(request, name) for name in _PLAIN}
        | {
            "prompt": len(request.prompt),
            "output": len(request.output),
            "prediction": None if request.prediction is None else len(request.prediction),
        }
        for request in trace.requests
    ]
    return json.dumps(facts, sort_keys=True)


def _arrays(trace: Trace) -> Arrays:
    requests = trace.requests
    tokens = [[*r.prompt, *r.output, *(r.prediction or ())] for r in requests]
    flat: dict[str, list[np.ndarray[Any, Any]]] = {
        "tokens": [np.array(ids, np.int32) for ids in tokens],
        "top_tokens": [r.top_tokens.ravel() for r in requests],
        "top_logprobs": [r.top_logprobs.ravel() for r in requests],
    }
    return {
        name: np.concatenate([np.zeros(0), *parts], dtype=_TYPES[name], casting="unsafe")
        for name, parts in flat.items()
    }


def _trace(facts: dict[str, Any], arrays: Arrays) -> Trace:
    curve = facts["curve"]
    return Trace(
        list(_requests(facts["requests"], arrays)),
        eos=tuple(facts["eos"]),
        curve=None if curve is None else CostCurve.model_validate(curve),
        **{name: facts[name] for name in _FACTS},
    )


def _requests(entries: list[dict[str, Any]], arrays: Arrays) -> Iterator[TracedRequest]:
    at = row = 0
    for entry in entries:
        ids: list[list[int] | None] = []
        for part in ("prompt", "output", "prediction"):
            n = entry[part]
            ids.append(None if n is None else arrays["tokens"][at : at + n].tolist())
            at += n or 0
        n, m = entry["output"], entry["m"]
        given: dict[str, Any] = {name: entry[name] for name in _PLAIN if name != "m"}
        for name in ("top_tokens", "top_logprobs"):
            given[name] = arrays[name][row : row + n * m].reshape(n, m)
        row += n * m
        prompt, output, prediction = ids
        yield TracedRequest(
            prompt=prompt or [], output=output or [], prediction=prediction, **given
        )
