"""The measurement: every method decodes the same prompts, interleaved, and its text is compared.

For each repeat, for each prompt (or group that rides together), all methods run in an order that
is rotated from cell to cell, each after a short text of its own that is not timed: who follows
another process finds the processor's caches empty, who follows a method on the same weights finds
them warm. What methods learn is forgotten between repeats, so that nobody drafts
from a text that it has seen being measured; within a repeat it is kept, as it would be in use. A
peer that fails is left out, and the others go on.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from foretoken.bench.contest import Contestant, Plan, Run, Task, Watch
from foretoken.bench.loops import SHORTEST, loop_start
from foretoken.bench.own import Own
from foretoken.bench.prompts import Prompt
from foretoken.bench.spec import PLAIN
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError, PeerError


@dataclass
class Measured:
    """All runs. `cells[repeat][group]` holds the runs of every method on one group."""

    plan: Plan
    contestants: list[Contestant]
    tasks: list[Task] = field(default_factory=list)
    read: int = 0
    cut: int = 0
    dropped: int = 0
    cells: list[list[dict[str, Run]]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # peers that could not run -> why
    interrupted: bool = False

    @contextmanager
    def going_on_without(self, contestant: Contestant) -> Iterator[None]:
        """A peer that fails takes no further part; why is kept."""
        try:
            yield
        except PeerError as error:
            self.missing[contestant.label] = str(error)
            self.contestants = [c for c in self.contestants if c is not contestant]

    def finished(self) -> list[list[dict[str, Run]]]:
        """The cells in which every method has run, repeats without one left out."""
        labels = {contestant.label for contestant in self.contestants}
        whole = [[cell for cell in row if labels <= cell.keys()] for row in self.cells]
        return [row for row in whole if row]


def measure(
    engine: Engine,
    contestants: Sequence[Contestant],
    prompts: Sequence[Prompt],
    plan: Plan,
    watch: Watch | None = None,
    *,
    go_on: bool = False,
) -> Measured:
    """Run the comparison. The first contestant is plain. Ctrl-C ends it with what was finished.

    go_on: methods know what they learned before, in this run's predecessor; nothing is warmed up.
    Raises ConfigError for prompts without a reference text in forced mode, and if no prompt is
    left after loops were cut.
    """
    watch = watch or Watch()
    out = Measured(plan, list(contestants), read=len(prompts))
    try:
        _prepare(engine, prompts, out, watch)
        groups = [out.tasks[i : i + plan.batch] for i in range(0, len(out.tasks), plan.batch)]
        if not go_on:
            _warm_up(out, groups[0], watch)
        # a collection that walks over everything that was loaded is a pause of 0.2 s and more, in
        # whoever's turn it comes
        gc.collect()
        gc.freeze()
        watch.phase("measuring", plan.repeats * len(groups) * len(out.contestants))
        for repeat in range(plan.repeats):
            for contestant in out.contestants if not go_on else ():
                contestant.fresh()
            out.cells.append([])
            for g, group in enumerate(groups):
                out.cells[-1].append({})
                for contestant in rotated(out.contestants, repeat + g):
                    with out.going_on_without(contestant):
                        run = _run(contestant, group, plan, watch)
                        out.cells[-1][-1][contestant.label] = run
    except KeyboardInterrupt:
        out.interrupted = True
    finally:
        gc.unfreeze()
    return out


def rotated(items: Sequence[Any], by: int) -> list[Any]:
    """The items from place `by` on, then those before it."""
    at = by % len(items)
    return [*items[at:], *items[:at]]


def _run(contestant: Contestant, group: Sequence[Task], plan: Plan, watch: Watch) -> Run:
    contestant.warm(group, plan)
    watch.start(contestant.label, group)
    run = contestant.run(group, plan, watch)
    watch.done(run)
    return run


def _warm_up(out: Measured, group: Sequence[Task], watch: Watch) -> None:
    watch.phase("warm-up", len(out.contestants))
    for contestant in list(out.contestants):
        with out.going_on_without(contestant):
            contestant.fresh()
            watch.done(contestant.run(group, out.plan, Watch()))


def _prepare(engine: Engine, prompts: Sequence[Prompt], out: Measured, watch: Watch) -> None:
    """Fill `tasks`: the text of each prompt that every method has to write."""
    plan = out.plan
    turns = 1 if plan.forced else 2
    watch.phase("plain text", sum(1 if prompt.then is None else turns for prompt in prompts))
    plain = Own(engine, PLAIN)
    plain.fresh()
    alone = Plan(plan.max_new_tokens, 1, 1, plan.sampling)
    queue = deque(prompts)
    while queue:
        prompt = queue.popleft()
        room = min(plan.max_new_tokens, engine.target.max_context - len(prompt.tokens))
        if plan.forced:
            text = _reference(prompt)[: max(room, 0)]
        else:
            run = plain.run([Task(0, prompt, max(room, 1), [])], alone, Watch())
            watch.done(run)
            text = run.tokens[0]
        loop = loop_start(text) if plan.cut_loops and not plan.forced else None
        text = text[:loop]
        if not text or (plan.cut_loops and not plan.forced and len(text) < SHORTEST):
            out.dropped += 1
            continue
        out.cut += loop is not None
        out.tasks.append(Task(len(out.tasks), prompt, len(text), text))
        if prompt.then is not None and not plan.forced:
            queue.appendleft(prompt.then(text))
            out.read += 1
    if not out.tasks:
        raise ConfigError(
            "prompts", f"{len(prompts)} read, {out.dropped} dropped",
            f"prompts on which plain decoding writes {SHORTEST} tokens before it ends or loops "
            "(--no-cut-loops keeps all)",
        )  # fmt: skip


def _reference(prompt: Prompt) -> list[int]:
    if not prompt.reference:
        raise ConfigError(
            "forced", prompt.name,
            "prompts with a reference text (canonical_solution, answer, reference, solution or "
            "ground_truth)",
        )  # fmt: skip
    return prompt.reference
