"""ONNX Runtime GenAI: plain, and its n-gram drafts with a length that adapts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from protocol import Asked, Engine, Sampling, Texts, ended, made_once, serve

NGRAM, MOST, LEAST = 3, 16, 1  # its adaptive length moves between the last two


class OnnxRuntime(Engine):
    """A `Generator` for every text."""

    def __init__(self, asked: Asked) -> None:

        import onnxruntime_genai

        self.genai, self.mode, self.context = onnxruntime_genai, asked.mode, asked.context
        folder = exported(asked)
        config = onnxruntime_genai.Config(str(folder))
        threads = {"intra_op_num_threads": asked.threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self.model = onnxruntime_genai.Model(config)
        self.versions = {"onnxruntime-genai": version("onnxruntime-genai")}
        self.notes = ["float32 weights"]

    def generate(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Sampling
    ) -> Texts:
        """See the base class."""
        out = Texts([])
        for prompt, limit in zip(prompts, limits, strict=True):
            start = perf_counter()
            generator = self.genai.Generator(
                self.model, self._params(len(prompt) + limit, sampling)
            )
            generator.append_tokens(list(prompt))
            first: float | None = None
            while not generator.is_done():
                generator.generate_next_token()
                first = first or perf_counter() - start
            tokens = list(generator.get_sequence(0))[len(prompt) :]
            if len(tokens) < limit and sampling.eos:  # it leaves out the token that ends a text
                tokens.append(sampling.eos[0])
            out.tokens.append(ended(tokens, sampling.eos, limit))
            out.first.append(first)
            del generator
        return out

    def _params(self, length: int, sampling: Sampling) -> Any:
        params = self.genai.GeneratorParams(self.model)
        options: dict[str, Any] = {"max_length": min(length, self.context), "do_sample": False}
        if sampling.temperature > 0:
            options |= {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "random_seed": sampling.seed,
                "top_k": sampling.top_k,
            }  # fmt: skip  (0 is off; unset, it is 50)
        params.set_search_options(**options)
        if self.mode == "ngram":
            params.set_speculative_options(
                ngram_size=NGRAM, max_draft_tokens=MOST, min_adaptive_k=LEAST
            )
        return params


def exported(asked: Asked) -> Path:
    """The model in ONNX, made once."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", asked.target,
               "-o", "{out}", "-p", "fp32", "-e", "cpu", "-c", "{out}/cache"]  # fmt: skip
    return made_once(Path(asked.work) / f"onnx-{Path(asked.target).name}", command)


if __name__ == "__main__":
    serve(OnnxRuntime)
