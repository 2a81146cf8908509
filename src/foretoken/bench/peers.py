"""Peers: other implementations on the same weights, loaded the way their users load them.

    hf                 transformers' `generate`, plain
    hf-prompt-lookup   transformers' `generate(prompt_lookup_num_tokens=10)`

A peer is one entry of PEERS: keyword arguments of `generate` that switch its mode on. A mode with a
draft model of its own would be one more entry and one more thing to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch

from foretoken.bench.contest import Plan, Run, Task, Watch
from foretoken.errors import ConfigError
from foretoken.target.widen import widen as widened
from foretoken.types import Sampling

PEERS: Mapping[str, Mapping[str, Any]] = {
    "hf": {},
    "hf-prompt-lookup": {"prompt_lookup_num_tokens": 10},
}
# what `generate` knows of Sampling, by the same names
SHARED = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
          "repetition_penalty", "no_repeat_ngram_size")  # fmt: skip


def check_peers(names: Sequence[str], plan: Plan) -> None:
    """Raise ConfigError for an unknown peer, or a plan that peers cannot follow."""
    for name in names:
        if name not in PEERS:
            raise ConfigError("peers", name, f"one of {', '.join(PEERS)}")
    if names and plan.forced:
        raise ConfigError(
            "peers", ",".join(names), "none with --forced: a peer writes its own text"
        )
    if names and plan.batch > 1:
        raise ConfigError("peers", ",".join(names), "none with --batch above 1")
    given = {k for k, v in plan.sampling.model_dump().items() if v != Sampling().model_dump()[k]}
    if names and (odd := given - {*SHARED, "temperature", "seed"}):
        raise ConfigError("peers", ",".join(names), f"none with {', '.join(sorted(odd))}")


def load_for_peers(name: str, dtype: torch.dtype, device: torch.device, widen: int = 1) -> Any:
    """The model as a transformers user loads it; widened as the target was."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device).eval()
    if widen > 1:
        attention = model.config._attn_implementation
        model = widened(model, widen)
        model.set_attn_implementation(attention)
    return model


class Peer:
    """`model.generate` in one of its modes."""

    peer = True
    merges = False
    guarantee = ""
    repeats_draws = False

    def __init__(self, label: str, model: Any) -> None:
        self.label, self.model = label, model
        self._forwards = 0

    def fresh(self) -> None:
        """Nothing is learned."""

    def run(self, tasks: Sequence[Task], plan: Plan, watch: Watch) -> Run:  # noqa: ARG002
        """See `Contestant`. One task at a time."""
        self._forwards = 0
        hook = self.model.register_forward_pre_hook(self._count)
        start = perf_counter()
        try:
            tokens = [self._generate(task, plan) for task in tasks]
            wall = perf_counter() - start
        finally:
            hook.remove()
        return Run(self.label, list(tasks), tokens, wall, [], self._forwards)

    def _count(self, *_: Any) -> None:
        self._forwards += 1

    @torch.inference_mode()
    def _generate(self, task: Task, plan: Plan) -> list[int]:
        ids = torch.tensor([task.prompt.tokens], device=self.model.device)
        if not plan.sampling.greedy:
            torch.manual_seed(plan.sampling.seed + task.index)
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=task.limit,
            **self._arguments(plan.sampling), **PEERS[self.label],
        )  # fmt: skip
        row: list[int] = out[0, ids.shape[1] :].tolist()
        return row

    def _arguments(self, sampling: Sampling) -> dict[str, Any]:
        """Sampling in `generate`'s words. Everything is set, so that defaults which the model's
        folder may carry do not make the peer write another text."""
        eos = self.model.generation_config.eos_token_id
        pad = eos[0] if isinstance(eos, list) else eos
        both: dict[str, Any] = {
            "pad_token_id": 0 if pad is None else pad,
            "repetition_penalty": sampling.repetition_penalty,
            "no_repeat_ngram_size": sampling.no_repeat_ngram_size,
        }
        if sampling.greedy:  # the others would be refused with a warning
            return {**both, "do_sample": False}
        values = sampling.model_dump()
        return {
            **both, "do_sample": True, "temperature": sampling.temperature,
            **{name: values[name] for name in SHARED},
        }  # fmt: skip
