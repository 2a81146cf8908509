"""The prompts and the model that come with the package: for the demo, examples and tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foretoken.errors import ConfigError

ASSETS = Path(__file__).parent.parent / "assets"
KINDS = {"code": "humaneval.jsonl", "maths": "gsm8k.jsonl"}  # kind -> file in assets/prompts


def demo_model() -> Path:
    """Folder of the bundled demo model. Raises ConfigError if this installation lacks it."""
    folder = ASSETS / "demo"
    if not (folder / "config.json").is_file():
        raise ConfigError("model", "demo", f"a complete installation: {folder} holds no model")
    return folder


def demo_prompts(kind: str, n: int) -> list[str]:
    """The first n prompts of a kind: "code" (HumanEval) as they are, "maths" (GSM8K) as questions.

    Raises ConfigError for an unknown kind or more prompts than there are.
    """
    if kind not in KINDS:
        raise ConfigError("kind", kind, f"one of {', '.join(KINDS)}")
    lines = (ASSETS / "prompts" / KINDS[kind]).read_text("utf-8").splitlines()
    if not 0 <= n <= len(lines):
        raise ConfigError("prompts", n, f"a number from 0 to {len(lines)} ({kind})")
    return [render(json.loads(line)) for line in lines[:n]]


def render(record: dict[str, Any]) -> str:
    """A HumanEval record's prompt as it is, a GSM8K record's question in the demo model's form."""
    if "question" in record:
        return f"Question: {record['question']}\nAnswer:"
    return str(record["prompt"])
