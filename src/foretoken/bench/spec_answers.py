"""Answers in Spec-Bench's format: one JSONL file for each method, a row for each question.

Its own scripts read them: `speed.py` takes new_tokens, wall_time and accept_lengths of two files,
`equal.py` compares the texts. accept_lengths are the tokens given out by each forward of the
target, its own token included, as there; a peer in a process of its own does not tell them. What is
written is the first measured run of a prompt.
Source: Spec-Bench, evaluation/eval.py (Xia et al. 2401.07851).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from foretoken.bench.contest import Run, Task, Watch
from foretoken.bench.prompts import QUESTION, TURN
from foretoken.bench.saving import save_text
from foretoken.types import Session, Step

Turns = dict[int, dict[str, Any]]  # turn, from 1 -> what was written


class Answers(Watch):
    """Collects while a comparison runs, and hands on to another watcher. model: its name."""

    def __init__(self, inner: Watch, tokenizer: Any, model: str) -> None:
        self.inner, self.tokenizer, self.model = inner, tokenizer, model
        self.rows: dict[str, dict[str, Turns]] = {}  # method -> question -> turns
        self._lengths: list[int] = []
        self._measuring = False

    def phase(self, name: str, total: int) -> None:
        """See `Watch`."""
        self._measuring = name.endswith("measuring")
        self.inner.phase(name, total)

    def start(self, method: str, tasks: Sequence[Task]) -> None:
        """See `Watch`."""
        self._lengths = []
        self.inner.start(method, tasks)

    def step(self, method: str, task: Task, session: Session, step: Step) -> None:
        """See `Watch`."""
        self._lengths.append(len(step.committed.tokens))
        self.inner.step(method, task, session, step)

    def done(self, run: Run) -> None:
        """See `Watch`."""
        self.inner.done(run)
        if not self._measuring or len(run.tasks) != 1:
            return
        name, _, turn = run.tasks[0].prompt.name.partition(TURN)
        if not name.startswith(QUESTION):
            return
        turns = self.rows.setdefault(run.method, {}).setdefault(name.removeprefix(QUESTION), {})
        turns.setdefault(int(turn or 1), {
            "turns": self.tokenizer.decode(run.tokens[0], skip_special_tokens=True).strip(),
            "decoding_steps": run.forwards, "new_tokens": run.count, "wall_time": run.wall,
            "accept_lengths": list(self._lengths),
        })  # fmt: skip

    def write(self, folder: Path, categories: Mapping[str, str]) -> list[Path]:
        """A file for each method. categories: of the questions, by id."""
        folder.mkdir(parents=True, exist_ok=True)
        out = []
        for method, questions in self.rows.items():
            path = folder / f"{file_name(method)}.jsonl"
            rows = [
                self._row(method, question, turns, categories.get(question, ""))
                for question, turns in sorted(questions.items(), key=lambda pair: int(pair[0]))
            ]
            save_text(path, "".join(json.dumps(row) + "\n" for row in rows))
            out.append(path)
        return out

    def _row(self, method: str, question: str, turns: Turns, category: str) -> dict[str, Any]:
        texts = [turns[n] for n in sorted(turns)]
        choice: dict[str, Any] = {
            key: [text[key] for text in texts]
            for key in ("turns", "decoding_steps", "new_tokens", "wall_time")
        }
        choice["accept_lengths"] = [n for text in texts for n in text["accept_lengths"]]
        return {
            "question_id": int(question), "category": category, "answer_id": uuid4().hex,
            "model_id": f"{self.model}-{method}", "choices": [{"index": 0, **choice}],
            "tstamp": time.time(),
        }  # fmt: skip


def file_name(method: str) -> str:
    """A method's label as part of a path."""
    return "".join(c if c.isalnum() or c in "-_.+" else "-" for c in method)
