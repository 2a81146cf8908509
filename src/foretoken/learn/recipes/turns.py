"""Turns of a conversation -> training rows with a mask of what the model itself wrote.

A turn is what the model read (`prompt`) and what it wrote (`answer`). Two turns share a row where
the second prompt begins with the very tokens of the first turn; where a template changes what was
said (it drops reasoning, say), or the text comes back in other tokens, the second turn gets a row
of its own. So every learned token stands behind exactly those tokens that it was written after.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from foretoken.errors import ConfigError
from foretoken.learn.recipes.talks import Message
from foretoken.prompt.tokens import encode_prompt, render_chat


@dataclass(frozen=True)
class Turn:
    """Token ids read, and token ids written, the end-of-text token included if it was written."""

    prompt: Sequence[int]
    answer: Sequence[int]


def rows_of(turns: Iterable[Turn]) -> list[tuple[list[int], list[bool]]]:
    """Token ids and loss mask of each row; see above."""
    rows: list[tuple[list[int], list[bool]]] = []
    for turn in turns:
        prompt, answer = list(turn.prompt), list(turn.answer)
        if rows and prompt[: len(rows[-1][0])] == rows[-1][0]:
            ids, mask = rows[-1]
            read = len(prompt) - len(ids)
            ids += prompt[len(ids) :] + answer
            mask += [False] * read + [True] * len(answer)
        else:
            rows.append((prompt + answer, [False] * len(prompt) + [True] * len(answer)))
    return rows


def prompt_of(tokenizer: Any, messages: Sequence[Message], raw: bool = False) -> list[int]:
    """What the model reads before its next answer: the conversation through its template.

    Without a template, or if `raw`, a single message is read as it is. Raises ConfigError for a
    conversation of several messages then, or one that the template refuses.
    """
    if getattr(tokenizer, "chat_template", None) and not raw:
        return render_chat(tokenizer, messages)
    if len(messages) != 1:
        accepted = "a single prompt, as there is no chat template to join several messages"
        raise ConfigError("prompts", f"{len(messages)} messages", accepted)
    return encode_prompt(tokenizer, messages[0]["content"])


def given_turns(tokenizer: Any, messages: Sequence[Message], eos: Collection[int]) -> list[Turn]:
    """The turns of a conversation that has its answers: each is what the template writes behind
    the prompt, up to the end-of-turn token (line breaks that templates add behind it are not the
    model's). eos: tokens that end a turn; without a template the first of them ends an answer.
    """
    turns = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if not getattr(tokenizer, "chat_template", None):
            answer = [*_encode(tokenizer, message["content"]), *list(eos)[:1]]
        else:
            answer = _as_answer(tokenizer, messages[:i], message, eos)
        turns.append(Turn(prompt_of(tokenizer, messages[:i]), answer))
    return turns


def _as_answer(
    tokenizer: Any, before: Sequence[Message], message: Message, eos: Collection[int]
) -> list[int]:
    asked = _render(tokenizer, before, True)
    both = _render(tokenizer, [*before, message], False)
    if not both.startswith(asked):
        accepted = "answers that the chat template writes behind the prompt, unchanged"
        raise ConfigError("keep-answers", message["content"][:40], accepted)
    ids = _encode(tokenizer, both[len(asked) :])
    ends = [i for i, token in enumerate(ids) if token in eos]
    return ids[: ends[-1] + 1] if ends else ids


def _render(tokenizer: Any, messages: Sequence[Message], asks: bool) -> str:
    return str(
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=asks, tokenize=False)
    )


def _encode(tokenizer: Any, text: str) -> list[int]:
    return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]
