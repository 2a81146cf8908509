"""Audits of tiny random models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch

from foretoken.audit.engines import Setup, parse
from foretoken.audit.law import Law
from foretoken.audit.reference import Reference
from foretoken.audit.report import AuditReport
from foretoken.audit.run import Audit, Wanted, Watch, empty_report
from foretoken.target.load import Loaded
from foretoken.types import Sampling
from tests import letters, tiny

PROMPT = [1, 2, 3, 1, 2]
HOT = Sampling(temperature=1.0)


def reference(name: str = "six", eos: Sequence[int] = ()) -> Reference:
    made = Reference(tiny.model(name))
    made.eos = frozenset(eos)
    return made


def law(n: int = 3, sampling: Sampling = HOT, eos: Sequence[int] = ()) -> Law:
    return Law(reference("six", eos), PROMPT, n, sampling)


def setup(name: str = "six", sampling: Sampling = HOT, **values: Any) -> Setup:
    """An opened model; ours runs on a target that tests share."""
    made = Setup(reference(name), letters.tokenizer(), sampling, name, **values)
    made.__dict__["target"] = Loaded(tiny.target(name), letters.tokenizer(), None)
    return made


def audit(
    given: Setup, engines: Sequence[str], prompts: Sequence[Sequence[int]] = (PROMPT,),
    watch: Watch | None = None, **wanted: Any,
) -> AuditReport:  # fmt: skip
    asked = Wanted(**{"max_new_tokens": 12, "samples": 600, **wanted})
    report = empty_report(given, asked, len(prompts), ["tiny.txt"], "foretoken audit ...")
    openers = [parse(name, "fixed") for name in engines]
    run = Audit(given, asked, prompts, report, watch)
    run.run({str(k): partial(o, given) for k, o in enumerate(openers)})
    return run.report


def table(depth: int = 3, prompt: Sequence[int] = PROMPT) -> dict[tuple[int, ...], float]:
    """Every outcome of the model of six tokens with its probability, slow and obvious."""
    out: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(depth):
        out = {
            (*text, token): p * q
            for text, p in out.items()
            for token, q in enumerate(
                tiny.plain_logits("six", [*prompt, *text])[-1].double().softmax(-1).tolist()
            )
        }
    return out


def argmax(name: str, tokens: Sequence[int]) -> int:
    return int(tiny.plain_logits(name, tokens)[-1].argmax())


def bent(name: str, seed: int = 1) -> Any:
    """Another random model of the same shape."""
    return tiny.make(copy.deepcopy(tiny.model(name).config), seed=seed)


@cache
def _row(model: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        row: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].double()
    return row


def write(model: Any, prompt: Sequence[int], n: int, temperature: float, seed: int) -> list[int]:
    """Plain decoding, by hand."""
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    for _ in range(n):
        row = _row(model, tuple(tokens))
        if temperature == 0:
            tokens.append(int(row.argmax()))
        else:
            p = (row / temperature).softmax(-1)
            tokens.append(int(torch.multinomial(p, 1, generator=generator)))
    return tokens[len(prompt) :]
