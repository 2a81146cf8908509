"""Any Hugging Face causal language model writes the same text, sooner.

`generate` is the short way, `Engine` the one for many requests and streams, `hf` the drop-in for
`model.generate(..., custom_generate=foretoken.hf)`. Importing this package imports nothing heavy:
each name loads its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foretoken.api import generate
    from foretoken.draft.base import Drafter
    from foretoken.drop_in.entry import hf
    from foretoken.engine.engine import Engine
    from foretoken.errors import ArtifactError, CapabilityError, ConfigError, ForetokenError
    from foretoken.policy.base import Policy
    from foretoken.registry import register
    from foretoken.target.load import load
    from foretoken.tree import DraftTree
    from foretoken.types import Completion, Limits, Request, Sampling
    from foretoken.verify.base import Verifier

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "CapabilityError",
    "Completion",
    "ConfigError",
    "DraftTree",
    "Drafter",
    "Engine",
    "ForetokenError",
    "Limits",
    "Policy",
    "Request",
    "Sampling",
    "Verifier",
    "__version__",
    "generate",
    "hf",
    "load",
    "register",
]

_WHERE = {
    "ArtifactError": "errors",
    "CapabilityError": "errors",
    "Completion": "types",
    "ConfigError": "errors",
    "DraftTree": "tree",
    "Drafter": "draft.base",
    "Engine": "engine.engine",
    "ForetokenError": "errors",
    "Limits": "types",
    "Policy": "policy.base",
    "Request": "types",
    "Sampling": "types",
    "Verifier": "verify.base",
    "generate": "api",
    "hf": "drop_in.entry",
    "load": "target.load",
    "register": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
