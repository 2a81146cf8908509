"""What a target is asked to write: files of prompts, conversations, texts to go on from.

A JSONL row is one of
- `{"question" | "prompt" | "text": ...}` or `{"turns": [...]}`: asked through the model's chat
  template, where it has one;
- `{"conversations" | "messages": [{"role", "content"}]}`, or ShareGPT's `from`/`value`;
- `{"input_ids": [...]}`: token ids to go on from; with a `loss_mask`, a row that has its answer.
A file of another kind is one prompt. Files given as texts hold documents, of which the model reads
the first tokens and writes on. Equal prompts are asked once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretoken.errors import ConfigError
from foretoken.learn.corpus import Source, licence_of, stdlib_source
from foretoken.prompt.tokens import encode_prompt

Message = dict[str, str]  # role, content
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant",
         "system": "system"}  # fmt: skip
ASKED = ("question", "prompt", "text")
ANSWERS = ("answer", "canonical_solution", "solution", "reference", "ground_truth")
ACCEPTED = "a JSON object with question, prompt, text, turns, conversations, messages or input_ids"


@dataclass(frozen=True)
class Talk:
    """One thing to ask. Exactly one of `messages` and `ids` is filled."""

    name: str  # file and line, or the row's own id
    messages: tuple[Message, ...] = ()  # answers among them are what somebody else wrote
    ids: tuple[int, ...] = ()  # token ids to go on from
    mask: tuple[bool, ...] = ()  # of `ids`, for a row that has its answer already

    @property
    def key(self) -> str:
        """sha256 of what is asked, the same in whichever file it stands."""
        asked = [m for m in self.messages if m["role"] != "assistant"]
        return _sha256([asked, self.ids, self.mask])

    @property
    def whole(self) -> str:
        """sha256 of what is asked with the answers that it came with."""
        return _sha256([self.messages, self.ids, self.mask])


@dataclass(frozen=True)
class Asked:
    """Everything that will be asked, and where it is from."""

    talks: list[Talk]
    sources: list[Source]
    read: int  # before equal ones were left out and the limit was applied
    repeated: int

    @property
    def sha256(self) -> str:
        """Over all talks, in order."""
        return _sha256([talk.whole for talk in self.talks])


def read_talks(
    prompts: Sequence[Path],
    texts: Sequence[Path] = (),
    stdlib: bool = False,
    *,
    tokenizer: Any,
    start: int = 64,
    limit: int | None = None,
    keep: bool = False,
) -> Asked:
    """Read all files. start: tokens of a document that the model reads, at most half of it.

    limit: that many talks, chosen and ordered by their hash, so that files are mixed and adding
    one moves little; None: all, in the order of the files. keep: the answers that rows come with
    are wanted, so that prompts with different ones are not equal. Raises ConfigError for a file
    that cannot be read, a malformed row (named), or if there is nothing to ask.
    """
    if not prompts and not texts and not stdlib:
        raise ConfigError("prompts", "nothing", "at least one file, or --stdlib")

    def opening(name: str, text: str) -> Talk:
        # hardly a token is longer than 32 characters: long documents are not encoded whole
        ids = encode_prompt(tokenizer, text[: 64 * start])
        return Talk(name, ids=tuple(ids[: max(min(start, len(ids) // 2), 1)]))

    parts = [_file("prompts", path, _talk, _one_prompt) for path in prompts]
    parts += [
        _file("raw", path, lambda place, row: opening(place, _document(place, row)), opening)
        for path in texts
    ]
    talks = [talk for found, _ in parts for talk in found]
    sources = [source for _, source in parts]
    if stdlib:
        documents, source = stdlib_source()
        sources.append(source)
        talks += [
            opening(f"{d.group}:{i}", d.text) for i, d in enumerate(documents) if d.text.strip()
        ]
    first: dict[str, Talk] = {}
    for talk in talks:
        first.setdefault(talk.whole if keep else talk.key, talk)
    kept = list(first.values())
    if limit is not None:
        kept = sorted(kept, key=lambda talk: talk.key)[:limit]
    if not kept:
        raise ConfigError("prompts", "nothing", "files with at least one prompt")
    return Asked(kept, sources, len(talks), len(talks) - len(first))


def _file(
    option: str,
    path: Path,
    of_row: Callable[[str, Mapping[str, Any]], Talk],
    of_text: Callable[[str, str], Talk],
) -> tuple[list[Talk], Source]:
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(option, str(path), "a readable UTF-8 .jsonl or text file") from error
    if path.suffix == ".jsonl":
        lines = enumerate(text.splitlines(), start=1)
        talks = [
            of_row(f"{path.name}:{n}", _object(option, f"{path.name}:{n}", line))
            for n, line in lines
            if line.strip()
        ]
    else:
        talks = [of_text(path.name, text)] if text.strip() else []
    digest = hashlib.sha256(raw).hexdigest()
    return talks, Source(path.name, licence_of(path), digest, len(raw), {"prompts": len(talks)})


def _object(option: str, place: str, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ConfigError(option, place, ACCEPTED)
    return row


def _one_prompt(name: str, text: str) -> Talk:
    return Talk(name, ({"role": "user", "content": text},))


def _talk(place: str, row: Mapping[str, Any]) -> Talk:
    name = str(row["id"]) if isinstance(row.get("id"), str | int) else place
    try:
        if "input_ids" in row:
            return _ready(name, row)
        return Talk(name, tuple(_messages(row)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f" ({error})" if isinstance(error, ValueError) else ""
        raise ConfigError("prompts", place, ACCEPTED + why) from None


def _ready(name: str, row: Mapping[str, Any]) -> Talk:
    ids = tuple(int(i) for i in row["input_ids"])
    mask = tuple(bool(m) for m in row.get("loss_mask") or ())
    if not ids or (mask and len(mask) != len(ids)):
        raise ValueError(f"{len(ids)} input_ids, {len(mask)} of loss_mask")
    return Talk(name, ids=ids, mask=mask if any(mask) else ())


def _messages(row: Mapping[str, Any]) -> list[Message]:
    said = row.get("conversations") or row.get("messages")
    if said:
        messages = [_message(one) for one in said]
    elif row.get("turns"):
        messages = [{"role": "user", "content": _text(turn)} for turn in row["turns"]]
    else:
        messages = [{"role": "user", "content": _text(_first(row, ASKED))}]
        answer = _first(row, ANSWERS)
        if isinstance(answer, str):
            messages.append({"role": "assistant", "content": answer})
    if messages[-1]["role"] == "system" or not any(m["role"] == "user" for m in messages):
        raise ValueError("nothing that a user asks at the end")
    return messages


def _message(one: Mapping[str, Any]) -> Message:
    role = one.get("role", one.get("from"))
    if role not in ROLES:
        raise ValueError(f"role {role!r}; known are {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": _text(one["content" if "content" in one else "value"])}


def _document(place: str, row: Mapping[str, Any]) -> str:
    found = _first(row, ("text", "prompt", "question"))
    if not isinstance(found, str):
        raise ConfigError("raw", place, "a JSON object with text, prompt or question")
    if isinstance(row.get("answer"), str) and found is row.get("question"):
        return f"Question: {found}\nAnswer: {row['answer']}"  # as `learn.corpus` writes them
    return found


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name)), None)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
