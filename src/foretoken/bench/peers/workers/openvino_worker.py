"""OpenVINO GenAI: plain, prompt lookup, a draft model. Greedy text needs the cache in f32."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Asked, Engine, Sampling, Texts, ended, made_once, serve

LOOKUP, DEEP = 5, 4  # assistant tokens of prompt lookup and of a draft, as in its samples
NGRAM = 3


class OpenVino(Engine):
    """`LLMPipeline` on a model that optimum-intel exported."""

    def __init__(self, asked: Asked) -> None:
        import openvino
        import openvino_genai

        self.genai, self.openvino, self.asked = openvino_genai, openvino, asked
        precise = asked.dtype == "float32"
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": asked.threads,
            "INFERENCE_PRECISION_HINT": "f32" if precise else "bf16",
            "KV_CACHE_PRECISION": "f32" if precise else "bf16",
        }
        target = exported(asked.target, asked.work, asked.dtype)
        if asked.mode == "prompt-lookup":
            settings["prompt_lookup"] = True
        elif asked.mode == "draft":
            drafter = exported(asked.drafter, asked.work, asked.dtype)
            settings["draft_model"] = openvino_genai.draft_model(str(drafter), "CPU")
        self.pipeline = openvino_genai.LLMPipeline(str(target), "CPU", **settings)
        self.versions = {n: version(n) for n in ("openvino", "openvino-genai", "optimum-intel")}
        self.notes = [f"{name}={settings[name]}" for name in
                      ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION")]  # fmt: skip

    def generate(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Sampling
    ) -> Texts:
        """See the base class. Several prompts of one length ride together."""
        out = Texts([])
        for prompt, limit in zip(prompts, limits, strict=True):
            ids = self.openvino.Tensor(np.asarray([prompt], dtype=np.int64))
            done = self.pipeline.generate(ids, self._config(limit, sampling))
            out.tokens.append(ended(done.tokens[0], sampling.eos, limit))
            out.first.append(done.perf_metrics.get_ttft().mean / 1000)
        return out

    def _config(self, limit: int, sampling: Sampling) -> Any:
        config = self.genai.GenerationConfig()
        config.max_new_tokens = limit
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p = sampling.temperature, sampling.top_p
            config.rng_seed = sampling.seed
            if sampling.top_k:
                config.top_k = sampling.top_k
        if sampling.eos:
            config.stop_token_ids = set(sampling.eos)
            config.eos_token_id = sampling.eos[0]
        else:
            config.ignore_eos = True
        if self.asked.mode == "prompt-lookup":
            config.num_assistant_tokens, config.max_ngram_size = LOOKUP, NGRAM
        elif self.asked.mode == "draft":
            config.num_assistant_tokens = DEEP
        return config


def exported(folder: str, work: str, dtype: str) -> Path:
    """The model in OpenVINO's format, made once for each number format."""
    weights = "fp32" if dtype == "float32" else "fp16"  # bf16 is how it computes, not stores
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino",
               "--model", folder, "--task", "text-generation-with-past",
               "--weight-format", weights, "{out}"]  # fmt: skip
    return made_once(Path(work) / f"openvino-{weights}-{Path(folder).name}", command)


if __name__ == "__main__":
    serve(OpenVino)
