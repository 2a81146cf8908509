"""Prompt files: what is decoded, and the reference text that the forced mode follows.

A `.txt` file is one prompt. A `.jsonl` file holds one object a line: `prompt` (text to go on from),
`question` or the first of `turns` (asked through the model's chat template where it has one);
`canonical_solution`, `answer`, `reference`, `solution` or `ground_truth` is the reference text;
`prediction` is what the answer is expected to look like, for drafters that use one. A second turn
is asked after the first one's answer; a row with `question_id` is named by it, as Spec-Bench's are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foretoken.errors import ConfigError
from foretoken.prompt.tokens import encode_prompt, render_chat

KINDS = ("prompt", "question", "turns")
QUESTION, TURN = "spec-bench/", " turn "  # the name of a row with an id, and of what follows
REFERENCES = ("canonical_solution", "answer", "reference", "solution", "ground_truth")


@dataclass(frozen=True)
class Prompt:
    """One text to go on from."""

    name: str  # file and line
    tokens: list[int]
    text: str
    reference: list[int] | None = None  # token ids of the reference text
    prediction: list[int] | None = None  # token ids of the expected output
    seed: int = 0  # added to the seed of the run
    # what is asked next, given the answer's token ids (own text only)
    then: Callable[[list[int]], Prompt] | None = field(default=None, compare=False)


Row = tuple[str, Mapping[str, Any]]  # file and line, the object


def read_prompts(
    files: Sequence[str | Path], tokenizer: Any, limit: int | None = None
) -> list[Prompt]:
    """`encode` of `read_rows`."""
    return encode(read_rows(files, limit), tokenizer)


def read_rows(files: Sequence[str | Path], limit: int | None = None) -> list[Row]:
    """The prompts of some files, in turn (first of each file, second of each, ...).

    limit: at most so many in all. Raises ConfigError for a missing, empty or malformed file.
    """
    if limit is not None and limit < 1:
        raise ConfigError("limit", limit, "a whole number from 1")
    if not files:
        raise ConfigError("prompts", "", "at least one file")
    lists = [_read(Path(file)) for file in files]
    longest = max(map(len, lists))
    return [rows[i] for i in range(longest) for rows in lists if i < len(rows)][:limit]


def encode(rows: Sequence[Row], tokenizer: Any) -> list[Prompt]:
    """Texts to token ids. Raises ConfigError for a prompt that has none."""
    return [_encode(name, row, tokenizer) for name, row in rows]


def _read(path: Path) -> list[Row]:
    if path.suffix not in (".txt", ".jsonl"):
        raise ConfigError("prompts", str(path), "a .txt file (one prompt) or a .jsonl file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError("prompts", str(path), f"a readable file ({why})") from None
    if path.suffix == ".txt":
        rows: list[Row] = [(path.name, {"prompt": text})] if text.strip() else []
    else:
        lines = enumerate(text.splitlines(), start=1)
        rows = [(f"{path.name}:{n}", _object(path, n, line)) for n, line in lines if line.strip()]
    if not rows:
        raise ConfigError("prompts", str(path), "a file with at least one prompt")
    return rows


def _object(path: Path, n: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or _text(row) is None:
        raise ConfigError(
            "prompts", f"{path} line {n}", f"a JSON object with one of {', '.join(KINDS)} as text"
        )
    return row


def _text(row: Mapping[str, Any]) -> str | None:
    """The prompt's text; None if there is none."""
    found = next((row[kind] for kind in KINDS if row.get(kind)), None)
    if isinstance(found, list):
        found = found[0]
    return found if isinstance(found, str) else None


def _encode(name: str, row: Mapping[str, Any], tokenizer: Any) -> Prompt:
    text = _text(row) or ""
    chat = "prompt" not in row and bool(getattr(tokenizer, "chat_template", None))
    user = {"role": "user", "content": text}
    tokens = render_chat(tokenizer, [user]) if chat else encode_prompt(tokenizer, text)

    def ids(answer: Any) -> list[int] | None:
        if not isinstance(answer, str) or not answer:
            return None
        written = _as_answer(tokenizer, user, answer) if chat else answer
        return [int(i) for i in tokenizer.encode(written, add_special_tokens=False)] or None

    reference = next((row[key] for key in REFERENCES if isinstance(row.get(key), str)), None)
    if isinstance(row.get("question_id"), int):
        name = f"{QUESTION}{row['question_id']}"
    prompt = Prompt(name, tokens, text, ids(reference), ids(row.get("prediction")))
    turns = row.get("turns")
    more = turns[1] if isinstance(turns, list) and len(turns) > 1 else None
    return followed(prompt, tokenizer, text, more) if isinstance(more, str) else prompt


def followed(prompt: Prompt, tokenizer: Any, question: str, following: str) -> Prompt:
    """The prompt, with a second question of the same user that comes after its answer."""

    def second(answer: list[int]) -> Prompt:
        text = tokenizer.decode(answer, skip_special_tokens=True)
        if getattr(tokenizer, "chat_template", None):
            turns = [("user", question), ("assistant", text.strip()), ("user", following)]
            tokens = render_chat(tokenizer, [{"role": r, "content": c} for r, c in turns])
        else:
            tokens = encode_prompt(tokenizer, f"{question}{text}\n{following}")
        return Prompt(f"{prompt.name}{TURN}2", tokens, following)

    return replace(prompt, then=second)


def _as_answer(tokenizer: Any, user: Mapping[str, str], answer: str) -> str:
    """What follows the prompt when the template writes this answer: its spaces and its end."""
    try:
        asked = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
        both = tokenizer.apply_chat_template(
            [user, {"role": "assistant", "content": answer}], tokenize=False
        )
    except Exception:  # noqa: BLE001  (templates raise errors of their own; the answer stands alone)
        return answer
    return str(both[len(asked) :]) if both.startswith(asked) else answer
