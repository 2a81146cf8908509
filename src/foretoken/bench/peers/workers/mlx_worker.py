"""mlx-lm on a CPU: plain, and with a draft model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from time import perf_counter
from typing import Any

from protocol import Asked, Engine, Sampling, Texts, ended, serve

DEEP = 2  # its own default


class Mlx(Engine):
    """`generate_step` and `speculative_generate_step`."""

    def __init__(self, asked: Asked) -> None:
        os.environ["OMP_NUM_THREADS"] = str(asked.threads)
        import mlx.core as mx
        from mlx_lm.utils import load_model

        mx.set_default_device(mx.cpu)
        self.mx, self.mode = mx, asked.mode
        self.model = self._loaded(load_model, asked.target, asked.dtype)
        self.drafter = (
            self._loaded(load_model, asked.drafter, asked.dtype) if asked.mode == "draft" else None
        )
        self.versions = {"mlx": version("mlx"), "mlx-lm": version("mlx-lm")}
        self.notes = [f"{asked.dtype} weights"]

    def _loaded(self, load_model: Any, folder: str, dtype: str) -> Any:
        from pathlib import Path

        model, _ = load_model(Path(folder))
        model.set_dtype(getattr(self.mx, dtype))
        self.mx.eval(model.parameters())
        return model

    def generate(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Sampling
    ) -> Texts:
        """See the base class."""
        out = Texts([], forwards=None)
        for prompt, limit in zip(prompts, limits, strict=True):
            start, first, tokens = perf_counter(), None, list[int]()
            for token, *_ in self._steps(prompt, limit, sampling):
                first = first or perf_counter() - start
                tokens.append(int(token))
                if tokens[-1] in sampling.eos:
                    break
            out.tokens.append(ended(tokens, sampling.eos, limit))
            out.first.append(first)
        return out

    def _steps(self, prompt: Sequence[int], limit: int, sampling: Sampling) -> Any:
        from mlx_lm.generate import generate_step, speculative_generate_step
        from mlx_lm.sample_utils import make_sampler

        self.mx.random.seed(sampling.seed)
        sampler = make_sampler(
            temp=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k
        )
        ids = self.mx.array(list(prompt))
        if self.drafter is None:
            return generate_step(ids, self.model, max_tokens=limit, sampler=sampler)
        return speculative_generate_step(
            ids, self.model, self.drafter, num_draft_tokens=DEEP, max_tokens=limit, sampler=sampler
        )


if __name__ == "__main__":
    serve(Mlx)
