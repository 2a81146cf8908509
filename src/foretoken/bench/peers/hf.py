"""transformers' `generate`, in foretoken's own process: the model as its users load it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from time import perf_counter
from typing import Any

import torch

from foretoken.bench.contest import Plan, Run, Task, Watch, aside
from foretoken.bench.peers.facts import Facts
from foretoken.target.widen import widen as widened
from foretoken.types import Sampling

LOOKUP = 10  # prompt_lookup_num_tokens
# what `generate` knows of Sampling, by the same names
SHARED = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
          "repetition_penalty", "no_repeat_ngram_size")  # fmt: skip


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
    """`model.generate` in one of its modes. drafter: for `hf-assistant`."""

    peer = True
    merges = False
    guarantee = ""
    repeats_draws = False

    def __init__(self, label: str, model: Any, drafter: Any = None) -> None:
        self.label, self.model = label, model
        self.facts = Facts(label, versions={"transformers": version("transformers")})
        self._mode: dict[str, Any] = {}
        if label == "hf-prompt-lookup":
            self._mode = {"prompt_lookup_num_tokens": LOOKUP}
        elif label == "hf-assistant":
            self._mode = {"assistant_model": drafter}
        self._began: list[float] = []  # when each forward of a text began

    def fresh(self) -> None:
        """Nothing is learned."""

    def warm(self, tasks: Sequence[Task], plan: Plan) -> None:
        """See `Contestant`."""
        self._began = []
        self._generate(aside(tasks), plan)

    def run(self, tasks: Sequence[Task], plan: Plan, watch: Watch) -> Run:  # noqa: ARG002
        """See `Contestant`. One task at a time."""
        hook = self.model.register_forward_pre_hook(self._count)
        start = perf_counter()
        try:
            tokens, first, forwards = list[list[int]](), list[float | None](), 0
            for task in tasks:
                begun, self._began = perf_counter(), []
                tokens.append(self._generate(task, plan))
                # its first tokens are known when the second forward begins
                first.append(self._began[1] - begun if len(self._began) > 1 else None)
                forwards += len(self._began)
            wall = perf_counter() - start
        finally:
            hook.remove()
        return Run(self.label, list(tasks), tokens, wall, [], forwards, first)

    def close(self) -> None:
        """Nothing runs beside."""

    def _count(self, *_: Any) -> None:
        self._began.append(perf_counter())

    @torch.inference_mode()
    def _generate(self, task: Task, plan: Plan) -> list[int]:
        ids = torch.tensor([task.prompt.tokens], device=self.model.device)
        if not plan.sampling.greedy:
            torch.manual_seed(plan.sampling.seed + task.index)
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=task.limit,
            **self._arguments(plan.sampling), **self._mode,
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
